// Attention over the paged cache (tensor/kv_view.h), flash style (arXiv 2205.14135), on tensor
// cores in bf16:
//
//   out[i] = Σ_p softmax_p(scale · q[i]·k[p]) v[p],   p in (position(i) - window, position(i)]
//
// One kernel serves decode and prompts, grouped heads and absorbed MLA: the query rows of a block
// are (token, head of the group) pairs of one sequence and kv head. The keys of a sequence are
// divided into splits of split_keys positions, each with a softmax of its own; a second kernel adds
// the splits in order, so that a row's result depends on split_keys but not on what else is in the
// batch. MLA: one stream, v its first dim_v values, one kv head. attention_reference() is the slow
// twin. Thread rule: status.h.
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

/// One stream of a layer's cache, bf16. Strides in elements, multiples of 8; base aligned to 16
/// bytes.
struct KvCache {
  void* base = nullptr;
  std::int64_t row_stride = 0;  // from one token to the next of a page
  std::int64_t head_stride = 0;
};

struct PageTable {
  const std::int32_t* pages = nullptr;  // [n_tables, stride]
  std::int64_t stride = 0;
};

struct AttentionArgs {
  const void* q = nullptr;  // [n_rows, n_heads, dim_qk] bf16
  std::int64_t q_token_stride = 0, q_head_stride = 0;
  KvCache k, v;  // one base: MLA, v is read from k
  PageTable table;
  const SequenceItem* items = nullptr;  // [n_items], device memory
  std::int64_t n_items = 0;
  std::int64_t n_rows = 0;         // of all items
  std::int64_t max_item_rows = 0;  // bounds of what the items will say, for the launch
  std::int64_t max_keys = 0;       // greatest position + 1
  std::int64_t n_heads = 0, n_kv_heads = 0, dim_qk = 0, dim_v = 0;
  float scale = 1.0f;
  std::int64_t window = 0;      // 0: none
  std::int64_t split_keys = 0;  // a multiple of kPageLen: attention_split_keys()
  void* out = nullptr;          // [n_rows, n_heads, dim_v], contiguous
  Type out_type = Type::kBF16;
  void* workspace = nullptr;  // attention_workspace() bytes, or those of the slow twin
  std::size_t workspace_bytes = 0;
  bool portable = false;  // without Hopper's instructions, on any device
};

/// Whether a kernel exists: kernels.inc.
bool has_attention(std::int64_t dim_qk, std::int64_t dim_v);

/// A split size that occupies the device, from the counts in args.
std::int64_t attention_split_keys(const AttentionArgs& args, const DeviceInfo& device);
std::size_t attention_workspace(const AttentionArgs& args);
std::size_t attention_reference_workspace(const AttentionArgs& args);

Status attention(const AttentionArgs& args, Stream stream);
Status attention_reference(const AttentionArgs& args, Stream stream);

/// Writes rows of one stream to the cache: x [n_rows, n_heads, dim] goes to each row's position.
struct StoreKvArgs {
  const void* x = nullptr;
  Type type = Type::kBF16;
  std::int64_t token_stride = 0, head_stride = 0;
  std::int64_t n_heads = 0, dim = 0;
  KvCache cache;
  PageTable table;
  const SequenceItem* items = nullptr;
  std::int64_t n_items = 0, max_item_rows = 0;
};
Status store_kv(const StoreKvArgs& args, Stream stream);

/// The heads of a step on their way to attention: q and k normed (weights given), rotated (halves),
/// q in place; k and v written to the cache at each row's position. As add_rms_norm(), rope() and
/// store_kv() do it, but rounded to bf16 once.
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
