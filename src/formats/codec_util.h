// Small helpers shared by the scalar codecs: saturating conversions and input clean-up.
//
// Encoders must survive any float: clean() maps NaN to 0 and clips to ±2^40, which every scale
// search can square without overflow; scales beyond fp16 saturate at ±65504 instead of becoming
// infinite. Thread rule: pure.
#pragma once
#include <cstdint>

#include "base/half.h"

namespace kt::formats {

inline constexpr float kEncodeLimit = 0x1p40f;

/// x with NaN replaced by 0, clipped to ±kEncodeLimit.
inline float clean(float x) {
  if (!(x >= -kEncodeLimit)) return x != x ? 0.0f : -kEncodeLimit;
  return x <= kEncodeLimit ? x : kEncodeLimit;
}

/// A usable weight of a squared error: 0 for negative or NaN, clipped above.
inline float clean_importance(float w) { return w > 0.0f ? (w < 0x1p40f ? w : 0x1p40f) : 0.0f; }

/// v truncated toward zero and limited to [low, high]; NaN gives low.
inline int truncate_to(float v, int low, int high) {
  if (!(v > static_cast<float>(low))) return low;
  return v < static_cast<float>(high) ? static_cast<int>(v) : high;
}

/// v rounded half away from zero and limited to [low, high]; NaN gives low.
inline int round_to(float v, int low, int high) {
  if (!(v > static_cast<float>(low))) return low;
  if (!(v < static_cast<float>(high))) return high;
  const int whole = static_cast<int>(v);
  const float rest = v - static_cast<float>(whole);
  return whole + (rest >= 0.5f ? 1 : rest <= -0.5f ? -1 : 0);
}

/// fp16 bits of a scale, saturated to the largest finite value.
inline std::uint16_t fp16_scale(float v) {
  if (v > 65504.0f) return 0x7bff;
  if (v < -65504.0f) return 0xfbff;
  return f32_to_fp16(v);
}

inline std::uint16_t load_u16(const std::uint8_t* p) {
  return static_cast<std::uint16_t>(p[0] | (p[1] << 8));
}

inline std::uint32_t load_u32(const std::uint8_t* p) {
  return static_cast<std::uint32_t>(load_u16(p)) | static_cast<std::uint32_t>(load_u16(p + 2))
                                                       << 16;
}

inline void store_u16(std::uint8_t* p, unsigned v) {
  p[0] = static_cast<std::uint8_t>(v);
  p[1] = static_cast<std::uint8_t>(v >> 8);
}

inline void store_u32(std::uint8_t* p, std::uint32_t v) {
  store_u16(p, v & 0xffffu);
  store_u16(p + 2, v >> 16);
}

}  // namespace kt::formats
