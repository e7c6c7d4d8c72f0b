// One-bit and ternary codes with one scale: Q1_0, TQ1_0, TQ2_0.
//
//   Q1_0:   x = bit ? d : -d      blocks of 128
//   TQ1_0:  x = d * (t - 1)       super-blocks of 256, five base-3 digits t per byte
//   TQ2_0:  x = d * (q - 1)       super-blocks of 256, two bits per value
// A TQ1_0 byte holds ceil(v * 256 / 243) of the base-3 number v; digit i is (byte * 3^i mod 256) *
// 3 >> 8. Source: GGUF specification. TQ encoders are bit-equal to GGUF tooling. Thread rule: pure.
#pragma once
#include <cstdint>

namespace kt::formats {

struct [[gnu::packed]] BlockQ1_0 {
  std::uint16_t d;  // fp16
  std::uint8_t qs[16];
};
struct [[gnu::packed]] BlockTQ1_0 {
  std::uint8_t
      qs[48];  // digit i of byte j < 32: value 32*i + j; of byte 32 + j: value 160 + 16*i + j
  std::uint8_t qh[4];  // digit i < 4 of byte j: value 240 + 4*i + j
  std::uint16_t d;     // fp16
};
struct [[gnu::packed]] BlockTQ2_0 {
  std::uint8_t qs[64];  // half h, value 32*s + l: bits 2s of byte 32*h + l
  std::uint16_t d;      // fp16
};
static_assert(sizeof(BlockQ1_0) == 18 && sizeof(BlockTQ1_0) == 54 && sizeof(BlockTQ2_0) == 66);

void decode_q1_0(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_tq1_0(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_tq2_0(const void* blocks, float* out, std::int64_t n) noexcept;

void encode_q1_0(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_tq1_0(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_tq2_0(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;

}  // namespace kt::formats
