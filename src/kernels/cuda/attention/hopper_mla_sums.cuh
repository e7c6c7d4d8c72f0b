// Absorbed MLA on Hopper (hopper_mla.cu): splits of a sequence that are neighbours in a cluster add
// their sums up through each other's shared memory, each block those of its share of the rows:
//
//   out[row] = Σ 2^(top_b - top) · out_b[row] / Σ 2^(top_b - top) · sum_b,  top = max top_b
//
// The order of blocks is that of ranks, from the one after that which adds. Thread rule: device
// code; the two warpgroups that multiply.
#pragma once
#include "kernels/cuda/attention/hopper_mla.cuh"
#include "kernels/cuda/device/clusters.cuh"

namespace kt::kernels::cuda::mla {

#if KT_HOPPER()

/// Floats from row to row: lanes of eight rows write to different banks.
inline constexpr int kSumStride = 512 + 8;
static_assert(kRows * kSumStride * 4 <= 2 * kTileBytes);

/// A warpgroup's rows, 256 columns of them, to where the tiles were; both warpgroups are done with
/// them. A barrier of the cluster follows.
__device__ inline void leave_sums(const Shared& shared, const int (&rows)[2],
                                  const float (&out)[128], const float (&top)[2],
                                  const float (&total)[2], int warpgroup) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    if (warpgroup == 0 && t == 0) shared.small->rows[rows[h]] = make_float2(top[h], total[h]);
    const std::uint32_t to = shared.tiles + (rows[h] * kSumStride + warpgroup * 256 + 2 * t) * 4;
#pragma unroll
    for (int n = 0; n < 32; ++n) {
      asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(to + 32 * n), "f"(out[4 * n + 2 * h]),
                   "f"(out[4 * n + 2 * h + 1])
                   : "memory");
    }
  }
}

/// Four columns of result `row` of [n_rows, n_heads].
__device__ inline void store_result(const AttentionArgs& args, std::int64_t row, int column,
                                    const float4& v) {
  const std::int64_t at = row * args.dim_v + column;
  if (args.out_type == Type::kF32) {
    *reinterpret_cast<float4*>(static_cast<float*>(args.out) + at) = v;
  } else {
    *reinterpret_cast<uint2*>(static_cast<std::uint16_t*>(args.out) + at) =
        make_uint2(bf16_pair(v.x, v.y), bf16_pair(v.z, v.w));
  }
}

/// Adds the block's share of the rows up: results, or what another launch adds to those of other
/// clusters. Every block of the cluster has left its sums.
__device__ inline void add_sums(const AttentionArgs& args, const Shared& shared,
                                const BlockRange& range) {
  constexpr int kAtOnce = kWarp / kMostCluster;  // rows: lanes have maximum and sum of their blocks
  const int size = cluster_size(), rank = cluster_rank(), lane = threadIdx.x % kWarp;
  const int share = div_up(range.n_rows, size), begin = rank * share,
            end = min(begin + share, range.n_rows), column = threadIdx.x % 128 * 4;
  const int my_row = lane / kMostCluster, my_block = lane % kMostCluster;
  const int clusters = static_cast<int>(gridDim.x) / size;
  const std::int64_t first = range.token(0) * args.n_heads + range.head(0),
                     n = args.n_rows * args.n_heads, part = range.split / size * n;
  auto* lse = static_cast<float*>(args.workspace);  // [clusters, n_rows, n_heads]
  float* partial = lse + (clusters * n + 3) / 4 * 4;
  const auto block = [&](int i) { return rank + i < size ? rank + i : rank + i - size; };
  for (int r = begin + threadIdx.x / 128 * kAtOnce; r < end; r += 2 * kAtOnce) {
    float2 mine = make_float2(-INFINITY, 0.0f);
    if (my_block < size) {
      const std::uint32_t rows = shared_address(&shared.small->rows[min(r + my_row, end - 1)]);
      mine = load_there_2(in_block(rows, block(my_block)));
    }
    float top = mine.x;
#pragma unroll
    for (int d = 1; d < kMostCluster; d *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
    const float weight = mine.y == 0.0f ? 0.0f : exp2_fast(mine.x - top);
    float total = weight * mine.y;
#pragma unroll
    for (int d = 1; d < kMostCluster; d *= 2) total += __shfl_xor_sync(~0u, total, d);

    float4 sum[kAtOnce] = {}, v[kAtOnce];
    const auto add = [&](int i) {
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const float w = __shfl_sync(~0u, weight, j * kMostCluster + i);
        sum[j] = make_float4(sum[j].x + w * v[j].x, sum[j].y + w * v[j].y, sum[j].z + w * v[j].z,
                             sum[j].w + w * v[j].w);
      }
    };
    const auto place = [&](int j) {
      return shared.tiles + (min(r + j, end - 1) * kSumStride + column) * 4;
    };
#pragma unroll 4
    for (int i = 1; i < size; ++i) {
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) v[j] = load_there_4(in_block(place(j), block(i)));
      add(i);
    }
    // Through the cluster come 26 bytes a nanosecond, even of one's own.
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) v[j] = load_shared(place(j));
    add(0);

    const float factor = total == 0.0f ? 0.0f : 1.0f / total;
    if (clusters > 1 && threadIdx.x % 128 < kWarp && my_block == 0 && r + my_row < end)
      lse[part + first + r + my_row] = total == 0.0f ? -INFINITY : top + log2f(total);
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const float f = __shfl_sync(~0u, factor, j * kMostCluster);
      sum[j] = make_float4(sum[j].x * f, sum[j].y * f, sum[j].z * f, sum[j].w * f);
      if (r + j >= end) continue;
      const std::int64_t row = first + r + j;
      if (clusters > 1)
        *reinterpret_cast<float4*>(partial + (part + row) * args.dim_v + column) = sum[j];
      else
        store_result(args, row, column, sum[j]);
    }
  }
}

#endif

}  // namespace kt::kernels::cuda::mla
