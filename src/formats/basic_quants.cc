#include "formats/basic_quants.h"

#include <cmath>

#include "formats/codec_util.h"

namespace kt::formats {
namespace {

constexpr int kLen = 32;

int high_bit(const std::uint8_t* qh, int j) { return (qh[j / 8] >> (j % 8)) & 1; }

/// Nibble of value j in the half-and-half order.
int nibble(const std::uint8_t* qs, int j) { return j < 16 ? qs[j] & 15 : qs[j - 16] >> 4; }

struct Cleaned {
  float x[kLen];
  float extreme = 0.0f;  // the value of largest magnitude, first one on ties
  float low, high;
};

Cleaned clean_block(const float* x) {
  Cleaned c;
  for (int j = 0; j < kLen; ++j) {
    c.x[j] = clean(x[j]);
    if (std::fabs(c.x[j]) > std::fabs(c.extreme)) c.extreme = c.x[j];
  }
  c.low = c.high = c.x[0];
  for (float v : c.x) {
    if (v < c.low) c.low = v;
    if (v > c.high) c.high = v;
  }
  return c;
}

float inverse(float d) { return d == 0.0f ? 0.0f : 1.0f / d; }

/// Codes of x = d * (q - 2^(bits-1)): the extreme value maps to the most negative code exactly.
float codes_symmetric(const float* x, int bits, std::uint8_t* q) {
  const Cleaned c = clean_block(x);
  const int half = 1 << (bits - 1);
  const float d = c.extreme / static_cast<float>(-half);
  const float id = inverse(d);
  for (int j = 0; j < kLen; ++j) {
    q[j] = static_cast<std::uint8_t>(
        truncate_to(c.x[j] * id + (static_cast<float>(half) + 0.5f), 0, 2 * half - 1));
  }
  return d;
}

struct Affine {
  float d, m;
};

/// Codes of x = d * q + m over the whole range of the block.
Affine codes_affine(const float* x, int bits, std::uint8_t* q) {
  const Cleaned c = clean_block(x);
  const int top = (1 << bits) - 1;
  const float d = (c.high - c.low) / static_cast<float>(top);
  const float id = inverse(d);
  for (int j = 0; j < kLen; ++j) {
    q[j] = static_cast<std::uint8_t>(truncate_to((c.x[j] - c.low) * id + 0.5f, 0, top));
  }
  return {d, c.low};
}

void store_codes(const std::uint8_t* q, std::uint8_t* qs, std::uint8_t* qh) {
  for (int j = 0; j < 16; ++j) {
    qs[j] = static_cast<std::uint8_t>((q[j] & 15) | ((q[j + 16] & 15) << 4));
  }
  if (qh == nullptr) return;
  for (int b = 0; b < 4; ++b) {
    unsigned bits = 0;
    for (int j = 0; j < 8; ++j) bits |= static_cast<unsigned>(q[8 * b + j] >> 4) << j;
    qh[b] = static_cast<std::uint8_t>(bits);
  }
}

/// Codes of x = d * q with signed 8-bit q. Returns d.
float codes_q8(const float* x, std::int8_t* q) {
  const Cleaned c = clean_block(x);
  const float d = std::fabs(c.extreme) / 127.0f;
  const float id = inverse(d);
  for (int j = 0; j < kLen; ++j) q[j] = static_cast<std::int8_t>(round_to(c.x[j] * id, -127, 127));
  return d;
}

}  // namespace

void decode_q4_0(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockQ4_0*>(blocks);
  for (std::int64_t i = 0; i < n; i += kLen, ++b) {
    const float d = fp16_to_f32(b->d);
    for (int j = 0; j < kLen; ++j) out[i + j] = d * static_cast<float>(nibble(b->qs, j) - 8);
  }
}

void decode_q4_1(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockQ4_1*>(blocks);
  for (std::int64_t i = 0; i < n; i += kLen, ++b) {
    const float d = fp16_to_f32(b->d), m = fp16_to_f32(b->m);
    for (int j = 0; j < kLen; ++j) out[i + j] = d * static_cast<float>(nibble(b->qs, j)) + m;
  }
}

void decode_q5_0(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockQ5_0*>(blocks);
  for (std::int64_t i = 0; i < n; i += kLen, ++b) {
    const float d = fp16_to_f32(b->d);
    for (int j = 0; j < kLen; ++j) {
      const int q = nibble(b->qs, j) | (high_bit(b->qh, j) << 4);
      out[i + j] = d * static_cast<float>(q - 16);
    }
  }
}

void decode_q5_1(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockQ5_1*>(blocks);
  for (std::int64_t i = 0; i < n; i += kLen, ++b) {
    const float d = fp16_to_f32(b->d), m = fp16_to_f32(b->m);
    for (int j = 0; j < kLen; ++j) {
      const int q = nibble(b->qs, j) | (high_bit(b->qh, j) << 4);
      out[i + j] = d * static_cast<float>(q) + m;
    }
  }
}

void decode_q8_0(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockQ8_0*>(blocks);
  for (std::int64_t i = 0; i < n; i += kLen, ++b) {
    const float d = fp16_to_f32(b->d);
    for (int j = 0; j < kLen; ++j) out[i + j] = d * static_cast<float>(b->qs[j]);
  }
}

void decode_q8_1(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockQ8_1*>(blocks);
  for (std::int64_t i = 0; i < n; i += kLen, ++b) {
    const float d = fp16_to_f32(b->d);
    for (int j = 0; j < kLen; ++j) out[i + j] = d * static_cast<float>(b->qs[j]);
  }
}

void encode_q4_0(const float* x, const float*, void* blocks, std::int64_t n) noexcept {
  auto* b = static_cast<BlockQ4_0*>(blocks);
  for (std::int64_t i = 0; i < n; i += kLen, ++b) {
    std::uint8_t q[kLen];
    b->d = fp16_scale(codes_symmetric(x + i, 4, q));
    store_codes(q, b->qs, nullptr);
  }
}

void encode_q4_1(const float* x, const float*, void* blocks, std::int64_t n) noexcept {
  auto* b = static_cast<BlockQ4_1*>(blocks);
  for (std::int64_t i = 0; i < n; i += kLen, ++b) {
    std::uint8_t q[kLen];
    const Affine a = codes_affine(x + i, 4, q);
    b->d = fp16_scale(a.d);
    b->m = fp16_scale(a.m);
    store_codes(q, b->qs, nullptr);
  }
}

void encode_q5_0(const float* x, const float*, void* blocks, std::int64_t n) noexcept {
  auto* b = static_cast<BlockQ5_0*>(blocks);
  for (std::int64_t i = 0; i < n; i += kLen, ++b) {
    std::uint8_t q[kLen];
    b->d = fp16_scale(codes_symmetric(x + i, 5, q));
    store_codes(q, b->qs, b->qh);
  }
}

void encode_q5_1(const float* x, const float*, void* blocks, std::int64_t n) noexcept {
  auto* b = static_cast<BlockQ5_1*>(blocks);
  for (std::int64_t i = 0; i < n; i += kLen, ++b) {
    std::uint8_t q[kLen];
    const Affine a = codes_affine(x + i, 5, q);
    b->d = fp16_scale(a.d);
    b->m = fp16_scale(a.m);
    store_codes(q, b->qs, b->qh);
  }
}

void encode_q8_0(const float* x, const float*, void* blocks, std::int64_t n) noexcept {
  auto* b = static_cast<BlockQ8_0*>(blocks);
  for (std::int64_t i = 0; i < n; i += kLen, ++b) b->d = fp16_scale(codes_q8(x + i, b->qs));
}

void encode_q8_1(const float* x, const float*, void* blocks, std::int64_t n) noexcept {
  auto* b = static_cast<BlockQ8_1*>(blocks);
  for (std::int64_t i = 0; i < n; i += kLen, ++b) {
    const float d = codes_q8(x + i, b->qs);
    int sum = 0;
    for (std::int8_t q : b->qs) sum += q;
    b->d = fp16_scale(d);
    b->s = fp16_scale(d * static_cast<float>(sum));
  }
}

}  // namespace kt::formats
