// What latent attention (DeepSeek-V2, arXiv 2405.04434 §2.1) needs beside attention.h:
//
//   store_latents   cache row = [latent / sqrt(mean(latent²) + eps) · weight, rope(k_pe)]
//   head_products   y[i, h] = [W[h] · x[i, h], tail of x[i, h]], all heads in one launch
//
// Absorbed: queries become latents by K_b, their rotary part is the tail and turned on the way;
// what attention gives becomes values by V_b. Expanded: keys and values of each head are made from
// cached latents. Up to kFewHeadRows rows: one kernel that streams the weights; more: tiles on
// tensor cores. Sums in f32; a row's result depends on which of the two it was.
// head_products_reference() is the slow twin. Thread rule: status.h.
#pragma once
#include "kernels/cuda/attention/attention.h"

namespace kt::kernels::cuda {

struct StoreLatentsArgs {
  const void* x = nullptr;        // [n_rows, rank + rope] bf16, contiguous: latent, k_pe
  const float* weight = nullptr;  // [rank]; null: the latents are normed already
  float eps = 1e-6f;
  std::int64_t rank = 0, rope = 0;
  const float* cos = nullptr;  // [n_rows, rope / 2]; pairs (2i, 2i + 1) are turned
  const float* sin = nullptr;
  KvCache cache;
  PageTable table;
  const SequenceItem* items = nullptr;
  std::int64_t n_items = 0, max_item_rows = 0;
};
Status store_latents(const StoreLatentsArgs& args, Stream stream);

inline constexpr std::int64_t kFewHeadRows = 32;

/// Everything bf16; n, k and all strides are multiples of 8, pointers aligned to 16 bytes.
struct HeadProductsArgs {
  const void* w = nullptr;  // [n_heads, n, k], or transposed: [n_heads, k, n]
  bool transposed = false;
  std::int64_t n_heads = 0, n = 0, k = 0;
  const void* x = nullptr;  // [m, n_heads, k + tail]
  std::int64_t x_row_stride = 0;
  std::int64_t x_head_stride = 0;       // 0: one row for all heads
  const std::int32_t* pages = nullptr;  // x is a stream of the cache, in bf16: row i is position i
                                        // of these
  void* y = nullptr;                    // [m, n_heads, n + tail]
  std::int64_t y_row_stride = 0, y_head_stride = 0;
  std::int64_t m = 0;
  std::int64_t tail = 0;       // even
  const float* cos = nullptr;  // [m, tail / 2], pairs (2i, 2i + 1); null: the tail is copied
  const float* sin = nullptr;
};
Status head_products(const HeadProductsArgs& args, Stream stream);
Status head_products_reference(const HeadProductsArgs& args, Stream stream);

}  // namespace kt::kernels::cuda
