// One head on its way to attention, by one warp: norm and rotation.
//
//   to = rotate(from / sqrt(mean(from²) + eps) · weight)
// Thread rule: device code, pure.
#pragma once
#include "kernels/cuda/attention/cache.cuh"
#include "kernels/cuda/device/launch.cuh"

namespace kt::kernels::cuda {

/// Rows of bf16 that are no cache.
__device__ inline CacheElements bf16_elements(std::uint16_t* data) {
  return {reinterpret_cast<std::byte*>(data), CacheType::kBF16};
}

/// from[d] → to[d] in bf16 or as the cache has it, normed with `weight` unless it is null, rotated
/// unless cos is. kPairs · 64 is at least d.
template <int kPairs>
__device__ void prepare_head(const std::uint16_t* from, const CacheElements& to, int d,
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
    to.store(i, a[j] * c - b[j] * s);
    to.store(i + half, b[j] * c + a[j] * s);
  }
}

}  // namespace kt::kernels::cuda
