// The cache as kernels read and write it: where a row lies, and its elements in bf16 and E4M3.
//
//   E4M3: sign, 4 bits of exponent (bias 7), 3 of mantissa; no infinities, 0x7f is NaN. bf16 has
//   all of its values as normal numbers, so reading is exact; writing rounds to nearest even and
//   ends at ±448.
// Thread rule: device code, pure.
#pragma once
#include <cuda_fp8.h>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/device/numbers.cuh"

namespace kt::kernels::cuda {

/// An item whose rows are counted from what q and out begin with.
__device__ inline SequenceItem item_of(const AttentionArgs& args, unsigned index) {
  SequenceItem item = args.items[index];
  item.row_begin -= static_cast<std::int32_t>(args.first_row);
  return item;
}

/// Zeros for a (row, head) that sees no key.
__device__ inline void clear_result(const AttentionArgs& args, std::int64_t result) {
  for (std::int64_t d = 0; d < args.dim_v; ++d)
    store_float(args.out, args.out_type, result * args.dim_v + d, 0.0f);
}

__device__ inline std::int64_t cache_row(const PageTable& table, std::int32_t index,
                                         std::int64_t position) {
  const std::int64_t page = table.pages[index * table.stride + position / kPageLen];
  return page * kPageLen + position % kPageLen;
}

/// The lower two of the codes as a pair of bf16.
__device__ inline std::uint32_t bf16_of_e4m3(std::uint32_t codes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  std::uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<std::uint16_t>(codes)));
  return bf16_pair(half_bits(halves & 0xffffu), half_bits(halves >> 16));
#else
  // Shifted into the fields of a bf16 a code stands for 2^-120 of its value, subnormals too.
  const std::uint32_t spread = __byte_perm(codes, 0, 0x1404);  // to the upper bytes of halves
  const std::uint32_t bits = (spread & 0x80008000u) | (spread >> 4 & 0x07f007f0u);
  const auto pair = *reinterpret_cast<const __nv_bfloat162*>(&bits);
  const __nv_bfloat162 scale = {__ushort_as_bfloat16(0x7b80), __ushort_as_bfloat16(0x7b80)};
  const __nv_bfloat162 values = __hmul2(pair, scale);
  // The code of NaN has become 480.
  const __nv_bfloat162 most = {__ushort_as_bfloat16(0x43e0), __ushort_as_bfloat16(0x43e0)};
  return *reinterpret_cast<const std::uint32_t*>(&values) | __hgt2_mask(__habs2(values), most);
#endif
}

/// 16 codes as two times eight bf16.
__device__ inline void widen(const uint4& codes, uint4& low, uint4& high) {
  low = make_uint4(bf16_of_e4m3(codes.x), bf16_of_e4m3(codes.x >> 16), bf16_of_e4m3(codes.y),
                   bf16_of_e4m3(codes.y >> 16));
  high = make_uint4(bf16_of_e4m3(codes.z), bf16_of_e4m3(codes.z >> 16), bf16_of_e4m3(codes.w),
                    bf16_of_e4m3(codes.w >> 16));
}

/// Elements of a cache from one of them on.
struct CacheElements {
  std::byte* data;
  CacheType type;
  __device__ float operator[](std::int64_t i) const {
    if (type == CacheType::kBF16) return bf16_bits(reinterpret_cast<std::uint16_t*>(data)[i]);
    return low_bf16(bf16_of_e4m3(std::to_integer<std::uint32_t>(data[i])));
  }
  __device__ void store(std::int64_t i, float v) const {
    if (type == CacheType::kBF16) {
      reinterpret_cast<std::uint16_t*>(data)[i] = to_bf16(v);
    } else {
      data[i] = static_cast<std::byte>(__nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3));
    }
  }
};

/// From the element `at` on.
__device__ inline CacheElements elements(const KvCache& cache, std::int64_t at) {
  return {static_cast<std::byte*>(cache.base) + at * cache_bytes(cache.type), cache.type};
}

/// A head of the cache at a position.
__device__ inline CacheElements cache_head(const KvCache& cache, const PageTable& table,
                                           std::int32_t index, std::int64_t position,
                                           std::int64_t head) {
  return elements(cache,
                  cache_row(table, index, position) * cache.row_stride + head * cache.head_stride);
}

}  // namespace kt::kernels::cuda
