// Codebook formats below 4 bits: groups of 8 (IQ1, IQ2) or 4 (IQ3) values are one grid entry each.
//
//   IQ2, IQ3:  x = db * grid[code][i] * sign[i]    db from the fp16 d and a 4-bit sub-block scale
//   IQ1:       x = dl * (grid[code][i] ± 0.125)    dl = d * (2 * s + 1), s 3 bits
// Signs are 8 explicit bits (_S) or 7 bits whose parity gives the eighth (_XXS, _XS).
// Source: GGUF specification; the grids are in iq_grids.h.
// Thread rule: pure.
#pragma once
#include <cstdint>

namespace kt::formats {

struct [[gnu::packed]] BlockIQ2_XXS {
  std::uint16_t d;  // fp16
  std::uint8_t
      qs[64];  // per 32 values: u32 with 4 codes of 8 bits, u32 with 4 x 7 sign bits and s << 28
};
struct [[gnu::packed]] BlockIQ2_XS {
  std::uint16_t d;         // fp16
  std::uint8_t qs[64];     // per 8 values: u16 code (9 bits) | sign bits << 9
  std::uint8_t scales[8];  // nibble per 16 values
};
struct [[gnu::packed]] BlockIQ2_S {
  std::uint16_t d;         // fp16
  std::uint8_t qs[32];     // low 8 bits of the code of 8 values
  std::uint8_t signs[32];  // per 8 values
  std::uint8_t qh[8];      // per 32 values: 4 x high 2 bits of the code
  std::uint8_t scales[8];  // nibble per 16 values
};
struct [[gnu::packed]] BlockIQ3_XXS {
  std::uint16_t d;         // fp16
  std::uint8_t qs[64];     // code of 4 values
  std::uint8_t signs[32];  // per 32 values: u32 with 4 x 7 sign bits and s << 28
};
struct [[gnu::packed]] BlockIQ3_S {
  std::uint16_t d;         // fp16
  std::uint8_t qs[64];     // low 8 bits of the code of 4 values
  std::uint8_t qh[8];      // per 32 values: bit 8 of its 8 codes
  std::uint8_t signs[32];  // per 8 values
  std::uint8_t scales[4];  // nibble per 32 values
};
struct [[gnu::packed]] BlockIQ1_S {
  std::uint16_t d;      // fp16
  std::uint8_t qs[32];  // low 8 bits of the code of 8 values
  std::uint8_t
      qh[16];  // per 32 values: u16 with 4 x 3 high code bits, s << 12, negative delta << 15
};
struct [[gnu::packed]] BlockIQ1_M {
  std::uint8_t qs[32];  // low 8 bits of the code of 8 values
  std::uint8_t qh[16];  // nibble per 8 values: 3 high code bits, negative delta << 3
  std::uint8_t
      scales[8];  // per 64 values: u16 with 4 x 3-bit s (16 values each) and a nibble of the fp16 d
};
static_assert(sizeof(BlockIQ2_XXS) == 66 && sizeof(BlockIQ2_XS) == 74 && sizeof(BlockIQ2_S) == 82);
static_assert(sizeof(BlockIQ3_XXS) == 98 && sizeof(BlockIQ3_S) == 110);
static_assert(sizeof(BlockIQ1_S) == 50 && sizeof(BlockIQ1_M) == 56);

inline constexpr float kIq1Delta = 0.125f;

void decode_iq1_s(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_iq1_m(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_iq2_xxs(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_iq2_xs(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_iq2_s(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_iq3_xxs(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_iq3_s(const void* blocks, float* out, std::int64_t n) noexcept;

// Encoders weigh the grid entries nearest to each group at several scales (iq_neighbours.h).
void encode_iq1_s(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_iq1_m(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_iq2_xxs(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_iq2_xs(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_iq2_s(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_iq3_xxs(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_iq3_s(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;

}  // namespace kt::formats
