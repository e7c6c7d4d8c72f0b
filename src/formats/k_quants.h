// Super-blocks of 256 values with quantised sub-block scales: Q2_K … Q6_K, and Q8_K.
//
//   Q2_K:  x = (d * sc) * q - (dmin * m)   16 sub-blocks of 16, sc and m 4 bits, q 2 bits
//   Q4_K:  same form, 8 sub-blocks of 32, sc and m 6 bits, q 4 bits;  Q5_K: q 5 bits
//   Q3_K:  x = (d * sc) * q                16 sub-blocks of 16, sc 6 bits signed, q in [-4, 3]
//   Q6_K:  same form, sc 8 bits signed, q in [-32, 31]
//   Q8_K:  x = d * q, d float; bsums[j] = sum of q over 16 values (an activation format)
// Source: GGUF specification. Encoders minimise Σ importance * error² by scale search
// (scale_search.h). Thread rule: pure.
#pragma once
#include <cstdint>

namespace kt::formats {

inline constexpr int kSuperBlock = 256;

struct [[gnu::packed]] BlockQ2_K {
  std::uint8_t scales[16];  // sc low nibble, m high nibble
  std::uint8_t qs[64];      // 128-value half h, value 32*s + l: bits 2s of byte 32*h + l
  std::uint16_t d;          // fp16
  std::uint16_t dmin;       // fp16
};
struct [[gnu::packed]] BlockQ3_K {
  std::uint8_t hmask[32];   // bit s of byte l: value 32*s + l has bit 2 set
  std::uint8_t qs[64];      // low 2 bits, order of Q2_K
  std::uint8_t scales[12];  // 16 x 6 bits, see unpack_scales_q3_k
  std::uint16_t d;          // fp16
};
struct [[gnu::packed]] BlockQ4_K {
  std::uint16_t d;          // fp16
  std::uint16_t dmin;       // fp16
  std::uint8_t scales[12];  // 8 x (6-bit sc, 6-bit m), see unpack_scales_k4
  std::uint8_t qs[128];     // byte 32*p + l: value 64*p + l low nibble, 64*p + 32 + l high
};
struct [[gnu::packed]] BlockQ5_K {
  std::uint16_t d;          // fp16
  std::uint16_t dmin;       // fp16
  std::uint8_t scales[12];  // as Q4_K
  std::uint8_t qh[32];      // bit s of byte l: bit 4 of value 32*s + l
  std::uint8_t qs[128];     // as Q4_K
};
struct [[gnu::packed]] BlockQ6_K {
  std::uint8_t ql[128];  // half h, value 64*u + v (v < 64): nibble u of byte 64*h + v
  std::uint8_t qh[64];   // half h, value 32*s + l: bits 2s of byte 32*h + l
  std::int8_t scales[16];
  std::uint16_t d;  // fp16
};
struct [[gnu::packed]] BlockQ8_K {
  float d;
  std::int8_t qs[256];
  std::int16_t bsums[16];
};
static_assert(sizeof(BlockQ2_K) == 84 && sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144);
static_assert(sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210 && sizeof(BlockQ8_K) == 292);

/// The 8 (scale, min) pairs of Q4_K and Q5_K, each 0 … 63.
void unpack_scales_k4(const std::uint8_t packed[12], std::uint8_t sc[8],
                      std::uint8_t m[8]) noexcept;
/// Inverse of unpack_scales_k4.
void pack_scales_k4(const std::uint8_t sc[8], const std::uint8_t m[8],
                    std::uint8_t packed[12]) noexcept;
/// The 16 scales of Q3_K, each -32 … 31.
void unpack_scales_q3_k(const std::uint8_t packed[12], std::int8_t sc[16]) noexcept;
/// Inverse of unpack_scales_q3_k.
void pack_scales_q3_k(const std::int8_t sc[16], std::uint8_t packed[12]) noexcept;

void decode_q2_k(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_q3_k(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_q4_k(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_q5_k(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_q6_k(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_q8_k(const void* blocks, float* out, std::int64_t n) noexcept;

void encode_q2_k(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_q3_k(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_q4_k(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_q5_k(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_q6_k(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_q8_k(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;

}  // namespace kt::formats
