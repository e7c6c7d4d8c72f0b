// The unquantised formats: F32, F16 (IEEE binary16), BF16 and F8_E4M3 (OCP), one value per block,
// little endian. Encoding rounds to nearest even and keeps NaN and infinities; F8_E4M3, which has
// none, ends at ±448.
// Thread rule: pure.
#pragma once
#include <cstdint>

namespace kt::formats {

void decode_f32(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_f16(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_bf16(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_f8_e4m3(const void* blocks, float* out, std::int64_t n) noexcept;

void encode_f32(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_f16(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_bf16(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_f8_e4m3(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;

}  // namespace kt::formats
