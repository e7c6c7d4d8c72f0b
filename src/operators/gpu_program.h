// What a step of one shape does on one GPU, recorded once as a graph, and the pinned memory by
// which host and GPU exchange rows in the middle of it.
//
//   record: next() for each transfer → record_end()     replay: launch() → next() and a flag for
//   each
//
// Transfers have a slot each, in the order of the recorded step; a flag says that its slot is full:
// the GPU waits for those that the host fills, the host for the others. In tagged slots each value
// says so itself, by the number of the run beside it (kernels/cuda/exchange). Thread rule: used by
// the thread that walks the tree.
#pragma once
#include <cstdint>
#include <vector>

#include "backend/gpu/gpu.h"
#include "tensor/tensor.h"

namespace kt::operators {

class GpuProgram {
 public:
  /// Bytes and number of a step's transfers.
  struct Size {
    std::size_t bytes = 0, n = 0;
    void add(std::size_t transfer);
  };
  /// Pinned memory of one program, and of all on a GPU, at most. Steps that exchange more are not
  /// held up by launches.
  static constexpr std::size_t kMostBytes = std::size_t{16} << 20;
  static constexpr std::size_t kAllBytes = std::size_t{128} << 20;
  /// Pinned memory for them. Throws kNoMemory.
  GpuProgram(backend::Gpu& gpu, Size size);
  ~GpuProgram();
  GpuProgram(const GpuProgram&) = delete;
  GpuProgram& operator=(const GpuProgram&) = delete;

  bool is_recorded() const { return graph_.get() != nullptr; }

  struct Slot {
    std::byte* data = nullptr;
    std::byte* data_on_gpu = nullptr;
    std::uint32_t* full = nullptr;
    std::uint32_t* full_on_gpu = nullptr;
    std::uint32_t* waited_on_gpu = nullptr;  // the GPU's, from one run to the next
  };
  static constexpr std::uint32_t kFull = 1;
  /// The slot of the next transfer; data is null when it is not one of those that were recorded.
  Slot next(std::size_t bytes, bool tagged = false) noexcept;

  backend::Status record_begin() noexcept;
  /// Also ends a recording that failed.
  backend::Status record_end() noexcept;

  /// Waits for the last run, empties the slots. The first one, which the graph reads without a
  /// flag, may be filled then.
  bool rewind() noexcept;
  backend::Status launch() noexcept;
  void fill(const Slot& slot) noexcept { __atomic_store_n(slot.full, kFull, __ATOMIC_RELEASE); }
  /// Of this run, from 1.
  std::uint32_t tag() const { return tag_; }
  /// Values of a tagged slot, which any thread may put there. They leave for good with the thread's
  /// next locked instruction or fence.
  struct Values {
    std::uint64_t* to = nullptr;
    std::uint64_t tag = 0;
    void put(std::int64_t at, const float* from, std::int64_t n) const noexcept;
  };
  Values values(const Slot& slot) const {
    return {reinterpret_cast<std::uint64_t*>(slot.data), std::uint64_t{tag_} << 32};
  }
  /// False when the GPU failed or ended without filling it.
  bool wait(const Slot& slot) noexcept;
  /// Whether the step took all transfers; if not, lets the GPU go on with what the slots hold.
  bool end() noexcept;

 private:
  Slot slot(std::size_t i, std::size_t offset) const;
  void tag_all(const Slot& slot, std::size_t bytes) noexcept;

  backend::Gpu& gpu_;
  Size size_;
  backend::PinnedMemory memory_;
  std::byte* memory_on_gpu_ = nullptr;
  struct Transfer {
    std::size_t bytes;
    bool tagged;
  };
  std::vector<Transfer> transfers_;
  std::uint32_t tag_ = 0;
  std::size_t at_ = 0, used_ = 0;  // the next one
  bool ran_ = false;
  backend::GpuGraph graph_;
};

}  // namespace kt::operators
