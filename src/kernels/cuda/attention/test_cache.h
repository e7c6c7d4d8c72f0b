// Caches of the tests of attention: floats to the bytes of a cache, and back, and what a value may
// lose by it. Thread rule: pure.
#pragma once
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/test_device.h"

namespace kt::kernels::cuda {

inline std::vector<std::uint8_t> as_cache(const std::vector<float>& x, CacheType type) {
  std::vector<std::uint8_t> bytes(x.size() * static_cast<std::size_t>(cache_bytes(type)));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::uint16_t bf16 = f32_to_bf16(x[i]);
    if (type == CacheType::kBF16) std::memcpy(bytes.data() + 2 * i, &bf16, 2);
    if (type == CacheType::kE4M3) bytes[i] = f32_to_fp8_e4m3(x[i]);
  }
  return bytes;
}

inline std::vector<float> cached_floats(const std::vector<std::uint8_t>& bytes, CacheType type) {
  std::vector<float> x(bytes.size() / static_cast<std::size_t>(cache_bytes(type)));
  for (std::size_t i = 0; i < x.size(); ++i) {
    std::uint16_t bf16 = 0;
    if (type == CacheType::kBF16) std::memcpy(&bf16, bytes.data() + 2 * i, 2);
    x[i] = type == CacheType::kBF16 ? bf16_to_f32(bf16) : fp8_e4m3_to_f32(bytes[i]);
  }
  return x;
}

/// What of a value its rounding may lose: a part of it, and so much of any.
struct CacheError {
  double part, least;
};
inline CacheError cache_error(CacheType type) {
  return type == CacheType::kBF16 ? CacheError{0x1p-8, 0.0} : CacheError{0x1p-4, 0x1p-10};
}

}  // namespace kt::kernels::cuda
