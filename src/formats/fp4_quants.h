// Blocks of 4-bit floating-point codes (E2M1): MXFP4, NVFP4.
//
//   x = scale * kFp4Doubled[q]     kFp4Doubled is twice the E2M1 value, so scale is half the
//   block's scale MXFP4:  blocks of 32, scale 2^(e - 128) from an E8M0 byte NVFP4:  4 sub-blocks of
//   16, scale = unsigned E4M3 / 2
// Source: OCP MX 1.0, GGUF specification.
// Thread rule: pure.
#pragma once
#include <cstdint>

namespace kt::formats {

inline constexpr std::int8_t kFp4Doubled[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                                0, -1, -2, -3, -4, -6, -8, -12};

struct [[gnu::packed]] BlockMXFP4 {
  std::uint8_t e;
  std::uint8_t qs[16];  // byte j: value j low nibble, value 16 + j high
};
struct [[gnu::packed]] BlockNVFP4 {
  std::uint8_t d[4];
  std::uint8_t qs[32];  // byte 8*s + j: value 16*s + j low nibble, 16*s + 8 + j high
};
static_assert(sizeof(BlockMXFP4) == 17 && sizeof(BlockNVFP4) == 36);

/// Half of 2^(e - 127): the factor of kFp4Doubled. Byte 255 is not NaN here but 2^127, as in GGUF
/// tooling.
float mxfp4_scale(std::uint8_t e) noexcept;
/// Half of the unsigned E4M3 value (sign bit ignored); byte 127 reads as 0.
float nvfp4_scale(std::uint8_t v) noexcept;

void decode_mxfp4(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_nvfp4(const void* blocks, float* out, std::int64_t n) noexcept;

void encode_mxfp4(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_nvfp4(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;

}  // namespace kt::formats
