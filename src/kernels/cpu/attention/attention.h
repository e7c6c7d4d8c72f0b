// Attention of a block of query rows over one head of a paged cache, flash style: keys and values
// are read once in blocks of kKvPageLen positions, with a running maximum and sum (arXiv
// 2205.14135).
//
//   out[i] = Σ_p softmax_p(scale · q[i]·k[p]) v[p],   p in (position(i) - window, position(i)]
//
// Serves GQA (k and v streams; the rows are the query heads that share a kv head) and absorbed MLA
// (k and v are both the latent stream, v its first dim_v values; the rows are query heads). Blocks
// are aligned to absolute positions, so a row's result does not depend on what else is in the batch
// or in the chunk. Thread rule: pure; scratch belongs to the calling worker.
#pragma once
#include <cstdint>
#include <span>

#include "base/cpu.h"
#include "tensor/kv_view.h"

namespace kt::kernels::attention {

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
  float* scratch = nullptr;  // scratch_floats(...)
  /// Keys in several calls, ascending, with the same sums as in one: only keys of [key_begin,
  /// key_end) count (key_begin a multiple of kKvPageLen; key_end -1: all), `state` [n_tokens,
  /// n_heads, 2] and `out` carry the running maxima and sums from one call to the next.
  std::int64_t key_begin = 0;
  std::int64_t key_end = -1;
  float* state = nullptr;
  bool first_part = true;  // state and out are not set yet
  bool last_part = true;   // out becomes the result
};

/// Most query rows (tokens × heads) of one call; keeps the scratch in L2.
inline constexpr std::int64_t kMaxRows = 32;

/// Floats of scratch for a call.
std::int64_t scratch_floats(std::int64_t dim_qk, std::int64_t dim_v);

struct Kernel {
  const char* name;
  CpuCaps caps;
  void (*run)(const Args& args) noexcept;
  /// Stores one vector of n floats in a cache format: F32, F16, BF16 or Q8_0 (n a multiple of 32).
  void (*store)(formats::Format format, const float* x, std::int64_t n, std::byte* out) noexcept;
};
std::span<const Kernel> kernels();
const Kernel& select(CpuCaps caps);

}  // namespace kt::kernels::attention
