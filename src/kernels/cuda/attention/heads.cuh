// One head on its way to attention, by one warp: norm, rotation, and where it lies in the cache.
//
//   to = rotate(from / sqrt(mean(from²) + eps) · weight)
// Thread rule: device code, pure.
#pragma once
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/numbers.cuh"

namespace kt::kernels::cuda {

/// from[d] → to[d], normed with `weight` unless it is null, rotated unless cos is. kPairs · 64 is
/// at least d.
template <int kPairs>
__device__ void prepare_head(const std::uint16_t* from, std::uint16_t* to, int d,
                             const float* weight, float eps, const float* cos, const float* sin) {
  const int lane = threadIdx.x % kWarp, half = d / 2;
  float a[kPairs], b[kPairs], squares = 0.0f;
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = lane + j * kWarp;
    a[j] = b[j] = 0.0f;
    if (i >= half) continue;
    a[j] = bf16_bits(from[i]);
    b[j] = bf16_bits(from[i + half]);
    squares += a[j] * a[j] + b[j] * b[j];
  }
  const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(d) + eps);
#pragma unroll
  for (int j = 0; j < kPairs; ++j) {
    const int i = lane + j * kWarp;
    if (i >= half) continue;
    if (weight != nullptr) {
      a[j] *= scale * weight[i];
      b[j] *= scale * weight[i + half];
    }
    const float c = cos != nullptr ? cos[i] : 1.0f, s = cos != nullptr ? sin[i] : 0.0f;
    to[i] = to_bf16(a[j] * c - b[j] * s);
    to[i + half] = to_bf16(b[j] * c + a[j] * s);
  }
}

__device__ inline std::int64_t cache_row(const PageTable& table, std::int32_t index,
                                         std::int64_t position) {
  const std::int64_t page = table.pages[index * table.stride + position / kPageLen];
  return page * kPageLen + position % kPageLen;
}

/// Where a head of the cache is at a position.
__device__ inline std::uint16_t* cache_head(const KvCache& cache, const PageTable& table,
                                            std::int32_t index, std::int64_t position,
                                            std::int64_t head) {
  return static_cast<std::uint16_t*>(cache.base) +
         cache_row(table, index, position) * cache.row_stride + head * cache.head_stride;
}

}  // namespace kt::kernels::cuda
