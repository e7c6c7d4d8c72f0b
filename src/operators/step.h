// One forward pass over a ragged batch, as operators see it.
// Rows of all sequences are concatenated: sequence s owns rows [row_begin, row_begin + n_rows),
// which sit at consecutive cache positions from `position`; its page table covers position + n_rows
// tokens. Thread rule: owned by the thread that walks the tree.
#pragma once
#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "backend/cpu/cpu.h"
#include "operators/gpu_step.h"
#include "operators/trace.h"
#include "tensor/arena.h"
#include "tensor/kv_view.h"

namespace kt::operators {

struct SequenceRows {
  std::int64_t row_begin = 0;
  std::int64_t n_rows = 0;
  std::int64_t position = 0;
  const std::int32_t* pages = nullptr;
};

struct Batch {
  std::span<const std::int32_t> tokens;     // [n_rows]
  std::span<const std::int32_t> positions;  // [n_rows]
  std::span<const SequenceRows> sequences;
  std::span<const std::int32_t> logit_rows;  // rows whose logits are wanted, ascending
  /// Of each, where short lists of the logits do (Step::lists): the scale of a list's second sum.
  std::span<const float> list_scales = {};
};

/// Logits that stay on the GPU of the head; the host has lists of the largest of each row.
struct LogitLists {
  GpuStep* gpu = nullptr;       // null: there are none, the logits are in host memory
  const float* rows = nullptr;  // [logit_rows.size(), vocab_size] there, until the next step begins
  std::vector<kernels::cuda::RowList> lists;
  static constexpr double kSumError = kernels::cuda::kListSumError;
};

/// What routed experts did, summed over layers.
struct ExpertUse {
  std::uint64_t n_rows = 0;    // rows times the experts that each was sent to
  std::uint64_t n_reads = 0;   // experts whose weights were read for them
  std::uint64_t n_cached = 0;  // rows as n_rows, of experts of the CPU that a GPU had too
};

class Activation;

/// Experts whose outputs are added one sparse layer later (KTransformers,
/// doi 10.1145/3731569.3764843, §4.2), so that a GPU goes on while the CPU computes them.
struct Deferral {
  std::int64_t n_experts = 0;  // of each row's, those of the lowest rank; 0: none
  Activation* rows = nullptr;  // [n_rows, d_model], where they wait
  bool pending = false;
};

inline constexpr std::size_t kMaxGpus = 8;

struct Step {
  const Batch& batch;
  backend::Cpu& cpu;
  tensor::Arena& arena;
  std::span<const tensor::KvLayerView> kv;  // [n_layers]
  Trace* trace = nullptr;                   // zones go here when it is set
  ExpertUse* expert_use = nullptr;          // counted here when it is set
  std::span<const std::unique_ptr<GpuStep>> gpus =
      {};  // those in use; index() is the number in "cuda:0"
  Deferral deferral = {};
  LogitLists* lists = nullptr;  // the head may fill this instead of the logits
  std::int64_t n_rows() const { return static_cast<std::int64_t>(batch.tokens.size()); }
  GpuStep& gpu(int index) const {
    for (const auto& gpu : gpus) {
      if (gpu->index() == index) return *gpu;
    }
    std::abort();  // operators are built on GPUs that are in use
  }
};

/// Gives back what the arena and the GPUs allocated since.
class StepScope {
 public:
  explicit StepScope(Step& step) : step_(step), mark_(step.arena.mark()) {
    for (std::size_t i = 0; i < step.gpus.size(); ++i) gpu_marks_[i] = step.gpus[i]->mark();
  }
  ~StepScope() {
    step_.arena.release(mark_);
    for (std::size_t i = 0; i < step_.gpus.size(); ++i) step_.gpus[i]->release(gpu_marks_[i]);
  }
  StepScope(const StepScope&) = delete;
  StepScope& operator=(const StepScope&) = delete;

 private:
  Step& step_;
  std::size_t mark_;
  std::array<std::size_t, kMaxGpus> gpu_marks_{};
};

}  // namespace kt::operators
