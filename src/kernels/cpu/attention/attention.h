// Attention of a block of query rows over one head of a paged cache, flash style (arXiv
// 2205.14135):
//
//   out[i] = Σ_p softmax_p(scale · q[i]·k[p]) v[p],   p in (position(i) - window, position(i)]
//
// Serves GQA (k and v streams; the rows are the query heads that share a kv head) and absorbed MLA
// (k and v are both the latent stream, v its first dim_v values; the rows are query heads).
//
// Keys are taken in splits of kSplitKeys positions, aligned to absolute positions. Each split gives
// scores, their largest value, weights and a sum of its own; fold() joins two. Splits are folded in
// ascending order, so that a row's result does not depend on what else is in the batch, nor on how
// the work was divided. Thread rule: pure; scratch belongs to the calling worker.
#pragma once
#include <cstdint>
#include <span>

#include "base/cpu.h"
#include "tensor/kv_view.h"

namespace kt::kernels::attention {

/// Most query rows (tokens × heads) of one call.
inline constexpr std::int64_t kMaxRows = 64;
inline constexpr std::int64_t kSplitKeys = 4 * tensor::kKvPageLen;

struct Args {
  const float* q = nullptr;  // [n_tokens, n_heads, dim_qk]
  std::int64_t q_token_stride = 0;
  std::int64_t q_head_stride = 0;
  std::int64_t n_tokens = 0;  // consecutive cache positions from `position`
  std::int64_t n_heads = 0;   // query heads per token; n_tokens * n_heads <= kMaxRows
  std::int64_t position = 0;
  tensor::KvStreamView k;
  tensor::KvStreamView v;  // may be the stream of k
  const std::int32_t* pages = nullptr;
  std::int64_t kv_head = 0;
  std::int64_t dim_qk = 0;
  std::int64_t dim_v = 0;
  float scale = 1.0f;
  std::int64_t window = 0;  // 0: none
  float* out = nullptr;     // [n_tokens, n_heads, dim_v]
  std::int64_t out_token_stride = 0;
  std::int64_t out_head_stride = 0;
  float* state = nullptr;    // state_floats(...), 64-byte aligned: what the splits so far amount to
  float* scratch = nullptr;  // scratch_floats(...), 64-byte aligned
};

/// Floats of one block's state and of a worker's scratch.
std::int64_t state_floats(std::int64_t dim_v);
std::int64_t scratch_floats(std::int64_t dim_qk, std::int64_t dim_v);

/// First position that some row of [position, …) sees, and the number of splits from there to
/// `end`.
struct SplitRange {
  std::int64_t begin = 0;  // a multiple of kSplitKeys
  std::int64_t count = 0;
};
SplitRange splits(std::int64_t position, std::int64_t window, std::int64_t end);

struct Kernel {
  const char* name;
  CpuCaps caps;
  bool bf16;  // rounds queries, keys, weights and values to bf16: for prompts. k and v have one
              // format
  /// Empties the state.
  void (*clear)(const Args& args) noexcept;
  /// Brings the queries into the scratch, where they stay for add() until another load().
  void (*load)(const Args& args) noexcept;
  /// Adds the positions of the split that starts at key_begin, below `key_end`.
  void (*add)(const Args& args, std::int64_t key_begin, std::int64_t key_end) noexcept;
  /// Adds to the state that of a later part of the same rows.
  void (*fold)(const Args& args, const float* later) noexcept;
  /// The state's result to `out`.
  void (*finish)(const Args& args) noexcept;
  /// Stores one vector of n floats in a cache format: F32, F16, BF16, F8_E4M3 or Q8_0 (n a multiple
  /// of 32).
  /// Null where only the kernels that keep floats have it.
  void (*store)(formats::Format format, const float* x, std::int64_t n, std::byte* out) noexcept;
};
std::span<const Kernel* const> kernels();
/// The fastest for these features that keeps floats, or that rounds to bf16.
const Kernel& select(CpuCaps caps, bool bf16 = false);

}  // namespace kt::kernels::attention
