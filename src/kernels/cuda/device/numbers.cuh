// Device-side numbers: bf16 and fp16 conversions, loads that stream past the caches, reductions
// over a warp, and the tensor-core product of bf16 fragments that all families share.
//
//   mma_bf16: c[16, 8] += a[16, 16] · b[16, 8];  lane = 4g + t holds, as pairs of bf16,
//   a = {(g, 2t), (g+8, 2t), (g, 2t+8), (g+8, 2t+8)}, b = {(2t, g), (2t+8, g)}, c = {(g, 2t), (g,
//   2t+1), (g+8, 2t), (g+8, 2t+1)}
// The order of k is free as long as a and b agree. Thread rule: pure.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/status.h"

namespace kt::kernels::cuda {

/// d = a · b + c.
__device__ inline void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                std::uint32_t b1, const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]),
        "f"(c[2]), "f"(c[3]));
}
__device__ inline void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                std::uint32_t b1) {
  mma_bf16(c, a, b0, b1, c);
}

/// 16 bytes that are read once: kept out of L1.
__device__ inline uint4 load_once(const void* p) {
  uint4 v;
  asm("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "l"(p));
  return v;
}

__device__ inline float half_bits(std::uint32_t h) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(h)));
}
__device__ inline float bf16_bits(std::uint32_t b) { return __uint_as_float(b << 16); }
__device__ inline float low_bf16(std::uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_bf16(std::uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}
/// Two floats rounded to a pair; `low` is the first in memory.
__device__ inline std::uint32_t bf16_pair(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&v);
}
__device__ inline std::uint16_t to_bf16(float v) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(v));
}
/// Two floats cut off to a pair, towards zero.
__device__ inline std::uint32_t upper_halves(float low, float high) {
  return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);
}
/// An integer below 2^23 as a float, without the slow conversion unit.
__device__ inline float small_int(std::uint32_t v) {
  return __uint_as_float(0x4b000000u | v) - 8388608.0f;
}

__device__ inline float load_as_float(const void* p, Type type, std::int64_t i) {
  return type == Type::kF32 ? static_cast<const float*>(p)[i]
                            : bf16_bits(static_cast<const std::uint16_t*>(p)[i]);
}
__device__ inline void store_float(void* p, Type type, std::int64_t i, float v) {
  if (type == Type::kF32) {
    static_cast<float*>(p)[i] = v;
  } else {
    static_cast<std::uint16_t*>(p)[i] = to_bf16(v);
  }
}

__device__ inline float warp_sum(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(~0u, v, step);
  return v;
}
__device__ inline float warp_max(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, step));
  return v;
}

/// The best of a warp's candidates, ties to the lower id; all lanes get it.
__device__ inline void warp_best(float& value, int& id) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(~0u, value, step);
    const int other_id = __shfl_xor_sync(~0u, id, step);
    if (other > value || (other == value && other_id < id)) {
      value = other;
      id = other_id;
    }
  }
}

/// The sum over a block; every thread gets it.
__device__ inline float block_sum(float v) {
  __shared__ float parts[32];
  v = warp_sum(v);
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  const unsigned lane = threadIdx.x % 32;
  return warp_sum(lane < blockDim.x / 32 ? parts[lane] : 0.0f);
}

/// x * sigmoid(x).
__device__ inline float silu(float x) { return x / (1.0f + __expf(-x)); }

}  // namespace kt::kernels::cuda
