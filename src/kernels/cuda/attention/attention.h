// Attention over the paged cache (tensor/kv_view.h), flash style (arXiv 2205.14135), on tensor
// cores in bf16:
//
//   out[i] = Σ_p softmax_p(scale · q[i]·k[p]) v[p],   p in (position(i) - window, position(i)]
//
// One kernel serves decode and prompts, grouped heads and absorbed MLA: the query rows of a block
// are (token, head of the group) pairs of one sequence and kv head. The keys of a sequence are
// divided into splits of split_keys positions, each with a softmax of its own; a second kernel adds
// the splits in order, so that a row's result depends on split_keys and on the kernel, which the
// largest number of rows of a sequence decides. MLA: one stream, v its first dim_v values, one kv
// head. Caches in E4M3 are read as they are, or made bf16 first for Hopper's prompts, whose tiles
// come by the copy engine (docs/adr/0025). attention_reference() is the slow twin. Thread rule:
// status.h.
#pragma once
#include "kernels/cuda/status.h"

namespace kt::kernels::cuda {

/// Tokens of a page of the cache: tensor::kKvPageLen.
inline constexpr std::int64_t kPageLen = 64;

/// Rows [row_begin, row_begin + n_rows) of the batch: consecutive positions of one sequence.
struct SequenceItem {
  std::int32_t row_begin = 0;
  std::int32_t n_rows = 0;
  std::int32_t position = 0;  // of the first row
  std::int32_t table = 0;     // row of the page table
};

/// What a cache is made of: bf16, or OCP E4M3 without scales.
enum class CacheType : std::uint8_t { kBF16, kE4M3 };
constexpr std::int64_t cache_bytes(CacheType type) { return type == CacheType::kBF16 ? 2 : 1; }

/// One stream of a layer's cache. Strides in elements, multiples of 16 bytes; base aligned to 16.
struct KvCache {
  void* base = nullptr;
  std::int64_t row_stride = 0;  // from one token to the next of a page
  std::int64_t head_stride = 0;
  CacheType type = CacheType::kBF16;
  std::int64_t n_pages = 0;  // of the whole stream; for widened_bytes()
};

struct PageTable {
  const std::int32_t* pages = nullptr;  // [n_tables, stride]
  std::int64_t stride = 0;
};

struct AttentionArgs {
  const void* q = nullptr;     // [n_rows, n_heads, dim_qk] bf16
  std::int64_t first_row = 0;  // of the batch: what q and out begin with
  std::int64_t q_token_stride = 0, q_head_stride = 0;
  KvCache k, v;  // one base: MLA, v is read from k
  PageTable table;
  const SequenceItem* items = nullptr;  // [n_items], device memory
  std::int64_t n_items = 0;
  std::int64_t n_rows = 0;         // of all items, which follow one another
  std::int64_t max_item_rows = 0;  // bounds of what the items will say, for the launch
  std::int64_t max_keys = 0;       // greatest position + 1
  std::int64_t n_heads = 0, n_kv_heads = 0, dim_qk = 0, dim_v = 0;
  float scale = 1.0f;
  std::int64_t window = 0;      // 0: none
  std::int64_t split_keys = 0;  // a multiple of kPageLen: attention_split_keys()
  void* out = nullptr;          // [n_rows, n_heads, dim_v], contiguous; rows of no item: anything
  Type out_type = Type::kBF16;
  void* workspace = nullptr;  // attention_workspace() bytes, or those of the slow twin
  std::size_t workspace_bytes = 0;
  bool portable = false;  // without Hopper's instructions, on any device
  bool small = false;     // portable, in the 99 KiB of shared memory that devices have at least
};

/// Whether a kernel exists: kernels.inc.
bool has_attention(std::int64_t dim_qk, std::int64_t dim_v);

/// A split size that occupies the device, from the counts in args.
std::int64_t attention_split_keys(const AttentionArgs& args, const DeviceInfo& device);
std::size_t attention_workspace(const AttentionArgs& args);
std::size_t attention_reference_workspace(const AttentionArgs& args);

Status attention(const AttentionArgs& args, Stream stream);
Status attention_reference(const AttentionArgs& args, Stream stream);

/// Makes bf16 of a stream in E4M3, for kernels that read nothing else: the pages of all items, to
/// the same pages of `to`, which has widened_bytes().
struct WidenArgs {
  KvCache from;
  void* to = nullptr;
  PageTable table;
  const SequenceItem* items = nullptr;
  std::int64_t n_items = 0;
  std::int64_t max_keys = 0;
  std::int64_t window = 0;  // 0: none; pages far before it are left out
};
Status widen_cache(const WidenArgs& args, Stream stream);
constexpr std::size_t widened_bytes(const KvCache& cache) {
  return static_cast<std::size_t>(cache.n_pages * kPageLen * cache.row_stride) * 2;
}
/// A stream in bf16 at `to`, as widen_cache() leaves it.
constexpr KvCache widened(const KvCache& cache, void* to) {
  return {to, cache.row_stride, cache.head_stride, CacheType::kBF16, cache.n_pages};
}

/// The heads of a step on their way to attention: q and k normed (weights given), rotated (halves),
/// q in place; k and v written to the cache at each row's position. As add_rms_norm() and rope()
/// do it, but rounded once.
struct HeadsArgs {
  void* q = nullptr;        // [n_rows, n_heads, d] bf16, q_stride between rows
  const void* k = nullptr;  // [n_rows, n_kv_heads, d] bf16
  const void* v = nullptr;
  std::int64_t q_stride = 0, k_stride = 0, v_stride = 0;
  std::int64_t n_heads = 0, n_kv_heads = 0, d = 0;  // d: even, at most kMaxHeadDim
  const float* q_weight = nullptr;                  // [d], null: no norm
  const float* k_weight = nullptr;
  float eps = 1e-6f;
  const float* cos = nullptr;  // [n_rows, d / 2]
  const float* sin = nullptr;
  KvCache k_cache, v_cache;
  PageTable table;
  const SequenceItem* items = nullptr;
  std::int64_t n_items = 0, max_item_rows = 0;
};
inline constexpr std::int64_t kMaxHeadDim = 512;
Status prepare_heads(const HeadsArgs& args, Stream stream);
/// prepare_heads(), then attention(); in one launch, with q left as it is, where every sequence has
/// one row and heads are small.
Status attention_of_heads(const HeadsArgs& heads, const AttentionArgs& args, Stream stream);

}  // namespace kt::kernels::cuda
