// Routed experts whose weights are in host memory, computed on a GPU: for steps of many rows their
// weights go there, a chunk of experts at a time, in the form that the CPU packed them in.
//
//   copy stream   fill slot | fill slot | …       as far ahead as there are slots, into the next
//                     ↓ event    ↑ event          layer's experts too
//   GPU's stream  slot → tiles (pack_n16) → moe(tiles) += sums
//
// Host memory is pinned where it lies (host_register); where the system refuses that, copies go
// through a pinned buffer that all threads fill. A step is divided: experts with many rows go to
// the GPU, the others stay on the CPU, which computes them at the same time (ExpertRates). Thread
// rule: as the Gpu.
#pragma once
#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "operators/expert_rates.h"
#include "operators/hot_experts.h"
#include "operators/kinds.h"
#include "operators/pair_lists.h"
#include "operators/placement.h"

namespace kt::operators {

/// Memory of a GPU that streaming takes beside a step's: slots, and tiles of one slot.
struct StreamSizes {
  static constexpr int kSlots = 3;
  std::size_t slot = 0, tiles = 0;
  std::size_t total() const { return kSlots * slot + tiles; }
};
/// For layers of at most so many bytes an expert, on a GPU with so many bytes.
StreamSizes stream_sizes(std::size_t expert_bytes, std::size_t gpu_bytes);
/// Of n pairs of a row and its expert, how many are computed at a time.
std::int64_t pairs_at_once(std::int64_t d_ff, std::int64_t d_model, std::int64_t n);
/// Temporaries of a streamed step of n_rows rows, which serve its experts in a cache too.
std::size_t stream_step_bytes(const io::MoeConfig& moe, std::int64_t d_model, std::int64_t n_rows);

/// Whether experts of these formats (gate and up, down) can be streamed.
bool can_stream(tensor::Format gate, tensor::Format up, tensor::Format down);

/// Where the experts of a layer lie in host memory, packed as kN16, one after the other.
struct ExpertSource {
  struct Matrix {  // gate, up, down of every expert
    tensor::Format format{};
    std::int64_t n = 0, k = 0;
  };
  struct Part {  // of a NUMA node: rows [begin, begin + n_rows) of each matrix
    const std::byte* data = nullptr;
    std::size_t expert_bytes = 0;
    struct Rows {
      std::size_t offset = 0;  // in the expert
      std::int64_t begin = 0, n_rows = 0;
    };
    std::array<Rows, 3> rows;
  };
  std::string path;  // of the module
  std::int64_t n_experts = 0;
  std::array<Matrix, 3> matrices;
  std::vector<Part> parts;
  std::vector<std::span<const std::byte>> memory;  // that the parts lie in
  std::size_t expert_bytes() const;
};

class ExpertStream {
 public:
  /// Takes the memory of `sizes` from the GPU, unless the mode is kOff: then it only brings experts
  /// to a cache. Throws kNoMemory.
  ExpertStream(backend::Gpu& gpu, StreamSizes sizes, StreamExperts mode);
  ~ExpertStream();
  ExpertStream(const ExpertStream&) = delete;
  ExpertStream& operator=(const ExpertStream&) = delete;

  backend::Gpu& gpu() const { return gpu_; }
  StreamExperts mode() const { return mode_; }
  bool streams() const { return mode_ != StreamExperts::kOff; }

  /// Layers are added in the order in which they run. The handle is for run() and remove(), which
  /// comes before the memory goes away.
  using Layer = const ExpertSource*;
  Layer add(ExpertSource source);
  void remove(Layer layer);
  /// The layer of the module with this path; null: none was added.
  Layer find(std::string_view path) const;

  /// Whether copies read the layer's memory where it is, while others go on.
  bool is_pinned(Layer layer) const { return source_of(layer).pinned; }
  /// Memory of the GPU for the tiles of experts: gate, up, down.
  using Tiles = std::array<std::byte*, 3>;
  /// An expert to tiles, by way of `staging`, which holds one as it is packed; in the order of
  /// copies().
  kernels::cuda::Status bring(Layer layer, std::int32_t expert, std::byte* staging,
                              const Tiles& to) const noexcept;
  /// Those that a cache holds are not sent ahead; null: there is none any more.
  void set_held(Layer layer, const HotExperts* held);
  backend::Stream copies() const { return copies_.get(); }

  /// Which of a step's experts the GPU computes, and what is left for the CPU.
  struct Division {
    std::vector<std::int32_t> streamed;  // ascending
    std::int64_t n_streamed_rows = 0;    // rows times the experts that each was sent to
    std::int64_t n_here = 0, n_here_rows = 0;
    std::vector<bool> on_gpu;  // [n_experts]
    bool is_streamed(std::int32_t expert) const {
      return expert >= 0 && on_gpu[static_cast<std::size_t>(expert)];
    }
  };
  /// The mode decides, or rates, which are known then.
  Division divide(Layer layer, const Routing& routing, std::int64_t n_rows) const;

  /// result += weight · expert(x) of the experts listed, in ascending order; the others are left
  /// out. `routing` is in host memory, `result` in f32.
  void run(Step& step, Layer layer, std::span<const std::int32_t> experts, Activation& x,
           const Routing& routing, Activation& result) noexcept;

  /// Tiles of all experts of a layer: those of gate, up and down begin at to[0], to[1], to[2].
  void relay(Step& step, Layer layer, const Tiles& to) noexcept;

  const ExpertRates& rates() const { return rates_; }
  void set_rates(const ExpertRates& rates) { rates_ = rates; }
  /// Sends as many of a layer's experts as there is room for.
  void send_ahead(Step& step, Layer layer) noexcept;
  /// Waits for what is sent ahead, and does without it.
  void forget_ahead(Step& step) noexcept;
  /// Bytes per second of a layer's first experts on their way.
  double link_rate(Step& step, Layer layer) noexcept;

  /// For people: how weights get to the GPU; empty when there are none.
  std::string describe() const;

 private:
  struct Source {
    ExpertSource experts;
    std::vector<backend::RegisteredMemory> registered;
    bool pinned = false;
    std::int64_t per_chunk = 0;  // experts
    const HotExperts* held = nullptr;
  };
  struct Slot {
    std::byte* data = nullptr;
    backend::GpuEvent filled, read;
  };
  struct Chunk {
    const Source* source = nullptr;
    std::vector<std::int32_t> experts;
    std::size_t slot = 0;
  };
  void choose_chunk(Source& source) const;
  void pin(Source& source);
  std::vector<Chunk> chunks_of(const Source& source, std::span<const std::int32_t> experts);
  bool is_sent(Layer layer, std::size_t expert) const;
  bool slot_free() const { return filled_.size() < slots_.size(); }
  void fill(Step& step, Chunk chunk) noexcept;
  void copy(Step& step, const Source& source, std::byte* to, const std::byte* from,
            std::size_t bytes) noexcept;
  /// Lists of the pairs that are computed, on the GPU, and memory for a piece of them.
  struct Pairs {
    const std::int32_t *x_rows = nullptr, *ids = nullptr, *to_rows = nullptr, *begins = nullptr;
    const float* weights = nullptr;
    const void* x = nullptr;  // of the step, bf16
    void* rows = nullptr;     // gathered
    float *results = nullptr, *sums = nullptr;
  };
  void pack(GpuStep& gpu, const Chunk& chunk, const Tiles& to) noexcept;
  void compute(GpuStep& gpu, const Chunk& chunk, kernels::cuda::MoeArgs args, const Pairs& pairs,
               std::span<const PairLists::Piece> pieces) noexcept;
  void fill_ahead(Step& step, const Source& source, std::size_t most) noexcept;

  std::size_t tile_bytes(const ExpertSource::Matrix& m) const {
    return gpu_.api().packed_bytes(m.format, m.n, m.k);
  }
  const Source& source_of(Layer layer) const;
  const Source& source_after(const Source& source) const;

  backend::Gpu& gpu_;
  StreamSizes sizes_;
  StreamExperts mode_;
  ExpertRates rates_;
  backend::GpuStream copies_;
  std::vector<Slot> slots_;
  std::byte* tiles_ = nullptr;
  std::size_t next_slot_ = 0;
  std::deque<Chunk> filled_;  // and not computed yet, in the order of the slots
  std::vector<std::unique_ptr<Source>> sources_;
  double pin_seconds_ = 0.0;
  std::size_t pinned_bytes_ = 0, unpinned_bytes_ = 0;
  std::string refusal_;
  // For memory that cannot be pinned: two halves in turn.
  backend::PinnedMemory staging_;
  backend::GpuEvent staged_[2];
  std::size_t half_ = 0;
};

}  // namespace kt::operators
