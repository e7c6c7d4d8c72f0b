// A GPU during one step: memory for temporaries, the batch as kernels read it, transfers, and the
// first error, after which nothing more is launched in this step, nor later while the device fails.
//
//   begin(batch) → launches of the operators on this GPU → end() → error()
//
// Temporaries grow like tensor::Arena, in pieces of the GPU's reserved memory. Transfers between
// floats in host memory and rows on the GPU go through pinned memory; download() waits.
//
// With a GpuProgram the first such step is recorded, and those after it are replayed: the graph is
// launched at begin(), and the walk of the tree only does what is left for the host, exchanging
// rows with the graph as it goes. What a step launches and in which order it transfers must
// therefore follow from its shape. A recorded step computes nothing; downloads give zeros. Thread
// rule: used by the thread that walks the tree.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/cpu/cpu.h"
#include "backend/gpu/gpu.h"
#include "operators/gpu_program.h"
#include "tensor/kv_view.h"
#include "tensor/tensor.h"

namespace kt::operators {

struct Batch;
class Module;

/// What launches of a step depend on beside the addresses, which are the same in steps of one
/// shape.
struct StepShape {
  std::int64_t n_rows = 0, n_sequences = 0;
  std::int64_t max_rows = 0;  // of a sequence
  std::int64_t max_keys = 0;  // of a sequence; below kBatchRows rows the next of few sizes
  std::int64_t n_logits = 0;
  bool lists = false;  // of logits are made
  bool operator==(const StepShape&) const = default;
};
StepShape shape_of(const Batch& batch);

class GpuStep {
 public:
  /// Pinned memory that rows go through, and all of a GPU in use, without programs.
  static constexpr std::size_t kStagingBytes = std::size_t{16} << 20;
  static constexpr std::size_t kPinnedBytes = 2 * backend::Gpu::kStagingBytes + kStagingBytes;
  /// pool: converts rows on their way.
  GpuStep(backend::Gpu& gpu, ThreadPool& pool);
  ~GpuStep();
  GpuStep(const GpuStep&) = delete;
  GpuStep& operator=(const GpuStep&) = delete;

  backend::Gpu& gpu() const { return gpu_; }
  int index() const { return gpu_.index(); }

  /// Forgets the temporaries and sends the batch; records the step or replays it when there is a
  /// program, which must be of its shape.
  void begin(const Batch& batch, const StepShape& shape, GpuProgram* program = nullptr) noexcept;
  void end() noexcept;
  /// What the step that was launched transferred.
  const GpuProgram::Size& transferred() const { return transferred_; }
  /// The sequences of the batch, as kernels::cuda::AttentionArgs wants them.
  struct Sequences {
    const kernels::cuda::SequenceItem* items = nullptr;
    std::int64_t n_items = 0, max_rows = 0, max_keys = 0;
    kernels::cuda::PageTable table;
  };
  const Sequences& sequences() const { return sequences_; }
  const std::int32_t* row_numbers() const { return row_numbers_; }  // 0, 1, … of the batch's rows
  const std::int32_t* logit_rows() const { return logit_rows_; }
  const float* list_scales() const { return list_scales_; }  // as Batch has them

  /// 256-byte aligned, valid until release(mark) or the next step; null after an error.
  void* allocate(std::size_t bytes) noexcept;
  std::size_t mark() const { return used_; }
  void release(std::size_t mark) { used_ = mark; }

  /// launch() on this GPU unless there was an error; what it returns is noted as `who`'s.
  template <class F>
  void run(const char* who, F&& launch) noexcept {
    if (!error_.empty() || mode_ == Mode::kReplay) return;
    note(who, gpu_.api().use_device(gpu_.index()));
    if (error_.empty()) note(who, launch(gpu_.api(), gpu_.stream()));
  }
  /// What went wrong in this step; empty: nothing.
  const std::string& error() const { return error_; }
  ErrorCode error_code() const { return error_code_; }
  /// Forgets an error, unless the device still fails: then it stays, and this is false. begin()
  /// does so too.
  bool recover() noexcept;

  /// Rows of floats → contiguous rows on the GPU, and back.
  void upload(tensor::ConstMatrixF rows, void* to, kernels::cuda::Type type) noexcept;
  struct Fetch {
    const void* rows = nullptr;
    kernels::cuda::Type type{};
    tensor::MatrixF to;
    std::size_t bytes() const {
      return static_cast<std::size_t>(to.n_rows * to.n_cols) * kernels::cuda::type_bytes(type);
    }
  };
  /// A step that is replayed waits once for all; at most kernels::cuda::kPublishParts.
  void download(std::span<const Fetch> fetches) noexcept;
  /// Short lists of rows of logits on the GPU, for the host; waits. A list is empty (n is 0) where
  /// its row must be looked at, all are after an error. args.lists and args.flag are set here.
  void list(kernels::cuda::ListArgs args, std::span<kernels::cuda::RowList> to) noexcept;
  /// sum += rows, which are on the GPU, contiguous.
  void add(tensor::ConstMatrixF rows, void* sum, kernels::cuda::Type type) noexcept;
  /// Rows for a later add(), of which the host may send what it has made of them; those that make
  /// them put all of them into `values` if its `to` is set. Without a GPU: they cannot.
  struct Sending {
    GpuStep* gpu = nullptr;
    GpuProgram::Slot slot;
    std::int64_t n = 0;
    GpuProgram::Values values;
  };
  Sending send(std::int64_t n_rows, std::int64_t n_cols) noexcept;
  void add(const Sending& rows, void* sum, kernels::cuda::Type type) noexcept;

 private:
  enum class Mode : std::uint8_t { kLaunch, kRecord, kReplay };
  void* grow(std::size_t bytes);
  void note(const char* who, kernels::cuda::Status status) noexcept;
  void wait() noexcept;
  std::byte* stage(std::size_t bytes) noexcept;
  // Of a matrix: rows, or columns of one row; where they lie on the GPU.
  struct Part {
    std::int64_t row, n_rows, col, n_cols;
    std::size_t offset = 0, bytes = 0;
    template <class Matrix>
    Matrix of(const Matrix& m) const {
      return {m.row(row) + col, n_rows, n_cols, m.stride};
    }
  };
  template <class F>
  void for_parts(std::int64_t n_rows, std::int64_t n_cols, kernels::cuda::Type type,
                 F&& f) noexcept;
  std::vector<std::byte> pack_batch(const Batch& batch, const StepShape& shape);
  void send_batch(const std::vector<std::byte>& batch) noexcept;
  void start_program(const std::vector<std::byte>& batch) noexcept;
  GpuProgram::Slot next_slot(std::size_t bytes, bool tagged = false) noexcept;
  void upload_now(tensor::ConstMatrixF rows, void* to, kernels::cuda::Type type) noexcept;
  void fetch_now(const Fetch& fetch) noexcept;
  void publish(std::span<const Fetch> fetches, const GpuProgram::Slot& slot) noexcept;

  backend::Gpu& gpu_;
  ThreadPool& pool_;
  struct Piece {
    std::byte* data;
    std::size_t begin, size;  // offsets in the address space of marks
  };
  std::vector<Piece> pieces_;
  std::size_t used_ = 0;
  backend::PinnedMemory staging_;
  std::size_t staged_ = 0;  // bytes of it in use
  Mode mode_ = Mode::kLaunch;
  GpuProgram* program_ = nullptr;
  GpuProgram::Size transferred_;
  Sequences sequences_;
  std::byte* batch_ = nullptr;  // as pack_batch() lists it
  const std::uint32_t* tag_ = nullptr;
  const std::int32_t* row_numbers_ = nullptr;
  const std::int32_t* logit_rows_ = nullptr;
  const float* list_scales_ = nullptr;
  std::string error_;
  ErrorCode error_code_ = ErrorCode::kInternal;
};

/// Those of a step.
using GpuSteps = std::span<const std::unique_ptr<GpuStep>>;
/// Throws the first error, if there is any.
void check_errors(GpuSteps gpus);

}  // namespace kt::operators
