// Conversions between float and the 16- and 8-bit floating-point storage types.
// fp16: IEEE 754 binary16. bf16: upper half of binary32. fp8: OCP 8-bit E4M3 (finite, NaN = 0x7f)
// and E5M2; E8M0: power-of-two scale of the OCP MX formats. All to-float conversions are exact; all
// from-float conversions round to nearest even; to E4M3, which has no infinities, they saturate.
// Scalar; the vector twins live in the ISA files. The functions have internal linkage on purpose:
// objects built for different ISAs must not share their code.
#pragma once
#include <bit>
#include <cstdint>

namespace kt {

static inline float fp16_to_f32(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000u) << 16;
  const std::uint32_t exponent = (h >> 10) & 0x1fu;
  const std::uint32_t mantissa = h & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

static inline std::uint16_t f32_to_fp16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint16_t sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;            // rounds to 65536 or more
  if (magnitude < 0x38800000u) {                                  // subnormal half or zero
    const float scaled = std::bit_cast<float>(magnitude) + 0.5f;  // ulp of 0.5 is 2^-24
    return sign | static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(scaled) - 0x3f000000u);
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return sign | static_cast<std::uint16_t>((rounded - 0x38000000u) >> 13);
}

static inline float bf16_to_f32(std::uint16_t b) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16);
}

static inline std::uint16_t f32_to_bf16(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16) | 0x40u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float fp8_e4m3_to_f32(std::uint8_t v) {
  const std::uint32_t sign = static_cast<std::uint32_t>(v & 0x80u) << 24;
  const std::uint32_t exponent = (v >> 3) & 0xfu;
  const std::uint32_t mantissa = v & 7u;
  if ((v & 0x7fu) == 0x7fu) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 120) << 23) | (mantissa << 20));
  const float magnitude = static_cast<float>(mantissa) * 0x1p-9f;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

static inline std::uint8_t f32_to_fp8_e4m3(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint8_t sign = static_cast<std::uint8_t>((bits >> 24) & 0x80u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7fu;
  if (magnitude >= 0x43e00000u) return sign | 0x7eu;                 // 448
  if (magnitude < 0x3c800000u) {                                     // 2^-6: subnormal or zero
    const float scaled = std::bit_cast<float>(magnitude) + 0x1p14f;  // ulp of 2^14 is 2^-9
    return sign | static_cast<std::uint8_t>(std::bit_cast<std::uint32_t>(scaled) - 0x46800000u);
  }
  const std::uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
  return sign | static_cast<std::uint8_t>((rounded - 0x3c000000u) >> 20);
}

static inline float fp8_e5m2_to_f32(std::uint8_t v) {
  return fp16_to_f32(static_cast<std::uint16_t>(v << 8));
}

/// 2^(e-127); 0xff is NaN, 0 is 2^-127 (a subnormal float).
static inline float e8m0_to_f32(std::uint8_t e) {
  if (e == 0xff) return std::bit_cast<float>(0x7fc00000u);
  return std::bit_cast<float>(e == 0 ? 0x00400000u : static_cast<std::uint32_t>(e) << 23);
}

}  // namespace kt
