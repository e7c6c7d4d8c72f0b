// Row formats of our own for quantised Hugging Face checkpoints, whose codes, scales and zero
// points come as separate tensors. The loader interleaves them once, so that a row is
// self-contained like in GGUF.
//
//   F8_E4M3_B128:  x = e4m3(q) * scale                block-FP8 (128 columns share a scale)
//   I4_<len>:      x = (q - zero) * scale, q 0 … 15   GPTQ, AWQ and compressed-tensors int4, groups
//   of len
// Byte j of I4 codes: value j low nibble, value len/2 + j high. `zero` is a float so that
// fractional zero points survive. Not storable in GGUF. Thread rule: pure.
#pragma once
#include <cstdint>

namespace kt::formats {

struct [[gnu::packed]] BlockF8_E4M3_B128 {
  float scale;
  std::uint8_t q[128];
};

template <int kLen>
struct [[gnu::packed]] BlockI4 {
  float scale;
  float zero;
  std::uint8_t q[kLen / 2];
};
static_assert(sizeof(BlockF8_E4M3_B128) == 132 && sizeof(BlockI4<32>) == 24);
static_assert(sizeof(BlockI4<64>) == 40 && sizeof(BlockI4<128>) == 72);

void decode_f8_e4m3_b128(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_i4_32(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_i4_64(const void* blocks, float* out, std::int64_t n) noexcept;
void decode_i4_128(const void* blocks, float* out, std::int64_t n) noexcept;

void encode_f8_e4m3_b128(const float* x, const float* importance, void* blocks,
                         std::int64_t n) noexcept;
void encode_i4_32(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_i4_64(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;
void encode_i4_128(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept;

}  // namespace kt::formats
