// What the attention kernels of Hopper share: where a block's rows and keys are, queries to shared
// memory, masks, weights, results. A thread of a warpgroup owns parts of rows g and g + 8 of its
// warp's sixteen (device/wgmma.cuh): index h is 0 or 1. Thread rule: device code; status.h.
#pragma once
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/heads.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/numbers.cuh"
#include "kernels/cuda/device/tensor_map.h"
#include "kernels/cuda/device/wgmma.cuh"

namespace kt::kernels::cuda {

/// A stream of the cache for copy_box(): x in a head, y the head, z page · kPageLen.
inline Status cache_map(const KvCache& cache, std::int64_t dim, std::int64_t n_heads,
                        CUtensorMap* map) {
  constexpr std::int64_t kAnyRow = std::int64_t{1} << 31;  // page tables name no others
  return make_map({cache.base, kAnyRow, n_heads, dim, cache.row_stride, cache.head_stride}, map);
}

/// The rows and keys of a block: kRows (token, head of the group) pairs from first_row, keys
/// [key, key_end) of its split that any of them sees, `key` rounded down to a tile.
struct BlockRange {
  SequenceItem item;
  int kv_head, group, first_row, n_rows, split;
  int key, key_end;

  __device__ BlockRange(const AttentionArgs& args, int kv_head_, int m_block, int rows, int tile)
      : item(item_of(args, blockIdx.z)), kv_head(kv_head_), split(static_cast<int>(blockIdx.x)) {
    group = static_cast<int>(args.n_heads / args.n_kv_heads);
    first_row = m_block * rows;
    n_rows = min(rows, item.n_rows * group - first_row);  // none: not positive
    const auto split_keys = static_cast<int>(args.split_keys);
    key = split * split_keys;
    key_end = min(key + split_keys, position(n_rows - 1) + 1);
    if (args.window > 0) {
      const int oldest = position(0) - static_cast<int>(args.window) + 1;
      if (oldest > key) key += (oldest - key) / tile * tile;
    }
  }
  /// Absorbed MLA: an even share of what any row sees, in whole pairs of tiles, whatever
  /// split_keys.
  __device__ void share_keys(const AttentionArgs& args, int splits, int tile) {
    const int end = position(n_rows - 1) + 1;
    int begin = 0;
    if (args.window > 0)
      begin = max(position(0) - static_cast<int>(args.window) + 1, 0) / tile * tile;
    const int length = div_up(div_up(end - begin, splits), 2 * tile) * 2 * tile;
    key = begin + split * length;
    key_end = min(key + length, end);
  }
  __device__ int position(int row) const { return item.position + (first_row + row) / group; }
  __device__ std::int64_t token(int row) const {
    return item.row_begin + (first_row + row) / group;
  }
  __device__ std::int64_t head(int row) const {
    return kv_head * group + (first_row + row) % group;
  }
  /// Whether every row sees all of keys [begin, end).
  __device__ bool all_seen(const AttentionArgs& args, int begin, int end) const {
    return end <= min(key_end, position(0) + 1) &&
           (args.window == 0 || begin > position(n_rows - 1) - static_cast<int>(args.window));
  }
};

/// The results of rows of a block that saw none of the keys, or the sums of a split.
__device__ inline void leave_empty(const AttentionArgs& args, const BlockRange& range) {
  auto* lse = static_cast<float*>(args.workspace);
  for (int r = threadIdx.x; r < range.n_rows; r += blockDim.x) {
    const std::int64_t result = range.token(r) * args.n_heads + range.head(r);
    if (gridDim.x == 1) {
      clear_result(args, result);
    } else {
      lse[range.split * args.n_rows * args.n_heads + result] = -INFINITY;
    }
  }
}

/// The first of the 64 positions from `key` in the pages, none behind the last page with keys.
__device__ inline int page_row(const AttentionArgs& args, const BlockRange& range, int key) {
  constexpr int kLen = kPageLen;
  return args.table
             .pages[range.item.table * args.table.stride + min(key, range.key_end - 1) / kLen] *
         kLen;
}

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

#if KT_HOPPER()

/// kRows query rows of kDim values as blocks of 64 columns, by `threads` threads; rows that are
/// none become zeros. fence_proxy() and a barrier follow.
template <int kRows, int kDim>
__device__ void load_queries(std::uint32_t to, const AttentionArgs& args, const BlockRange& range,
                             int thread, int threads) {
  constexpr int kChunks = kDim / 8;
#pragma unroll 8
  for (int i = thread; i < kRows * kChunks; i += threads) {
    const int r = i / kChunks, chunk = i % kChunks;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (r < range.n_rows) {
      const std::int64_t at =
          range.token(r) * args.q_token_stride + range.head(r) * args.q_head_stride + 8 * chunk;
      v = *reinterpret_cast<const uint4*>(static_cast<const std::uint16_t*>(args.q) + at);
    }
    const std::uint32_t place =
        to + chunk / 8 * (kRows * 128) + hopper::swizzle128(r, chunk % 8 * 16);
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(place), "r"(v.x), "r"(v.y),
                 "r"(v.z), "r"(v.w)
                 : "memory");
  }
}

/// Zeros in rows [begin, kKeys) of a tile of kBlocks blocks: what no key wrote may be NaN.
template <int kKeys, int kBlocks>
__device__ void clear_rows(std::uint32_t tile, int begin, int thread) {
  for (int i = thread; i < (kKeys - begin) * 8 * kBlocks; i += hopper::kWarpgroup) {
    const std::uint32_t place = tile + i % kBlocks * (kKeys * 128) + begin * 128 + i / kBlocks * 16;
    asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(place), "r"(0) : "memory");
  }
  hopper::fence_proxy();
}

#endif

/// Scores of keys that a row does not see become -infinity. positions: those of the two rows.
template <int kKeys>
__device__ void mask_scores(float (&s)[kKeys / 2], int key, int key_end, const int (&positions)[2],
                            int window) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) {
    const int p = key + i / 4 * 8 + 2 * t + i % 2, last = positions[i / 2 % 2];
    const bool seen = p <= last && p < key_end && (window == 0 || p > last - window);
    if (!seen) s[i] = -INFINITY;
  }
}

/// Raises `top` (scaled by log2_scale) to the largest score of each row.
template <int kKeys>
__device__ void raise_tops(const float (&s)[kKeys / 2], float log2_scale, float (&top)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float most = s[2 * h];
#pragma unroll
    for (int i = 0; i < kKeys / 2; i += 4)
      most = fmaxf(most, fmaxf(s[i + 2 * h], s[i + 2 * h + 1]));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    top[h] = fmaxf(top[h], most * log2_scale);
  }
}

/// 0 for rows that have seen no key.
__device__ inline float base_of(float top) { return top == -INFINITY ? 0.0f : top; }

/// s becomes weights 2^(s · log2_scale - top); adds the thread's share of them to `sum`.
template <int kKeys>
__device__ void weigh(float (&s)[kKeys / 2], float log2_scale, const float (&top)[2],
                      float (&sum)[2]) {
  const float base[] = {base_of(top[0]), base_of(top[1])};
#pragma unroll
  for (int i = 0; i < kKeys / 2; ++i) {
    s[i] = exp2_fast(fmaf(s[i], log2_scale, -base[i / 2 % 2]));
    sum[i / 2 % 2] += s[i];
  }
}

/// Weights as the first operand of the products with the values.
template <int kKeys>
__device__ void pack_weights(const float (&s)[kKeys / 2], std::uint32_t (&p)[kKeys / 16][4]) {
#pragma unroll
  for (int i = 0; i < kKeys / 4; ++i) p[i / 4][i % 4] = bf16_pair(s[2 * i], s[2 * i + 1]);
}

/// Rows times factors; most tiles raise no maximum.
template <int kN>
__device__ void scale_rows(float (&out)[kN], const float (&factor)[2]) {
  if (__all_sync(~0u, factor[0] == 1.0f && factor[1] == 1.0f)) return;
#pragma unroll
  for (int i = 0; i < kN; ++i) out[i] *= factor[i / 2 % 2];
}

/// Columns [column, column + 2 · kN) of the rows to the result, or to that of a split.
template <int kN>
__device__ void store_results(const AttentionArgs& args, const BlockRange& range,
                              const int (&rows)[2], const float (&out)[kN], const float (&top)[2],
                              const float (&total)[2], int column) {
  const int t = threadIdx.x % 4, dim = static_cast<int>(args.dim_v);
  const bool splits = gridDim.x > 1;
  auto* lse = static_cast<float*>(args.workspace);  // [splits, n_rows, n_heads]
  float* partial = lse + (gridDim.x * args.n_rows * args.n_heads + 3) / 4 * 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (rows[h] >= range.n_rows) continue;
    const std::int64_t result = range.token(rows[h]) * args.n_heads + range.head(rows[h]);
    const std::int64_t in_split = range.split * args.n_rows * args.n_heads + result;
    const float factor = total[h] == 0.0f ? 0.0f : 1.0f / total[h];
    if (splits && t == 0 && column == 0)
      lse[in_split] = total[h] == 0.0f ? -INFINITY : top[h] + log2f(total[h]);
#pragma unroll
    for (int n = 0; n < kN / 4; ++n) {
      const float low = out[4 * n + 2 * h] * factor, high = out[4 * n + 2 * h + 1] * factor;
      const std::int64_t d = column + 8 * n + 2 * t;
      if (splits) {
        *reinterpret_cast<float2*>(partial + in_split * dim + d) = make_float2(low, high);
      } else if (args.out_type == Type::kF32) {
        *reinterpret_cast<float2*>(static_cast<float*>(args.out) + result * dim + d) =
            make_float2(low, high);
      } else {
        *reinterpret_cast<std::uint32_t*>(static_cast<std::uint16_t*>(args.out) + result * dim +
                                          d) = bf16_pair(low, high);
      }
    }
  }
}

/// How the splits of absorbed MLA are added: `cluster` neighbours by themselves, then `clusters` of
/// these sums by another launch.
struct MlaSplits {
  std::int64_t cluster, clusters;
};
MlaSplits mla_splits(const AttentionArgs& args);
/// AttentionArgs::split_keys that take the least time on the thread's device.
std::int64_t mla_split_keys(const AttentionArgs& args);

/// Many query rows of heads [dim_qk, dim_v], and absorbed MLA; both need has_wgmma().
Status launch_prompt(const AttentionArgs& args, Stream stream);
Status launch_mla(const AttentionArgs& args, Stream stream);

}  // namespace kt::kernels::cuda
