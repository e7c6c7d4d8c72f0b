// Blocks of 32 values with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1.
//
//   _0:  x = d * (q - offset)       offset 8 (4 bits), 16 (5 bits), 0 (8 bits, q signed)
//   _1:  x = d * q + m              Q8_1: x = d * q, s = d * Σ q
// Nibble j of the low half is value j, of the high half value j + 16; bit j of qh is bit 4 of value
// j. Source: GGUF specification; encoders are bit-equal to GGUF tooling except that scales
// saturate. Thread rule: pure.
#pragma once
#include <cstdint>

namespace kt::formats {

struct [[gnu::packed]] BlockQ4_0 {
  std::uint16_t d;  // fp16
  std::uint8_t qs[16];
};
struct [[gnu::packed]] BlockQ4_1 {
  std::uint16_t d;  // fp16
  std::uint16_t m;  // fp16
  std::uint8_t qs[16];
};
struct [[gnu::packed]] BlockQ5_0 {
  std::uint16_t d;  // fp16
  std::uint8_t qh[4];
  std::uint8_t qs[16];
};
struct [[gnu::packed]] BlockQ5_1 {
  std::uint16_t d;  // fp16
  std::uint16_t m;  // fp16
  std::uint8_t qh[4];
  std::uint8_t qs[16];
};
struct [[gnu::packed]] BlockQ8_0 {
  std::uint16_t d;  // fp16
  std::int8_t qs[32];
};
struct [[gnu::packed]] BlockQ8_1 {
  std::uint16_t d;  // fp16
  std::uint16_t s;  // fp16
  std::int8_t qs[32];
};
static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24 && sizeof(BlockQ8_0) == 34 && sizeof(BlockQ8_1) == 36);

void decode_q4_0(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_q4_1(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_q5_0(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_q5_1(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_q8_0(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_q8_1(const void* blocks, float* out, std::int64_t n) noexcept;

void encode_q4_0(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_q4_1(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_q5_0(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_q5_1(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_q8_0(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_q8_1(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;

}  // namespace kt::formats
