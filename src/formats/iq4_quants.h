// Four-bit codes into a non-linear codebook: IQ4_NL, IQ4_XS.
//
//   IQ4_NL:  x = d * codebook[q]               blocks of 32, nibble order of Q4_0
//   IQ4_XS:  x = (d * (ls - 32)) * codebook[q]  super-blocks of 256, 8 sub-blocks of 32, ls 6 bits
// Source: GGUF specification.
// Thread rule: pure.
#pragma once
#include <cstdint>

namespace kt::formats {

inline constexpr std::int8_t kIq4Codebook[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                 1,    13,   25,  38,  53,  69,  89,  113};

struct [[gnu::packed]] BlockIQ4_NL {
  std::uint16_t d;  // fp16
  std::uint8_t qs[16];
};
struct [[gnu::packed]] BlockIQ4_XS {
  std::uint16_t d;           // fp16
  std::uint16_t scales_h;    // bits 2s: high 2 bits of ls of sub-block s
  std::uint8_t scales_l[4];  // nibble s % 2 of byte s / 2: low 4 bits of ls
  std::uint8_t qs[128];      // byte 16*s + l: value 32*s + l low nibble, 32*s + 16 + l high
};
static_assert(sizeof(BlockIQ4_NL) == 18 && sizeof(BlockIQ4_XS) == 136);

void decode_iq4_nl(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_iq4_xs(const void* blocks, float* out, std::int64_t n) noexcept;

void encode_iq4_nl(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_iq4_xs(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;

}  // namespace kt::formats
