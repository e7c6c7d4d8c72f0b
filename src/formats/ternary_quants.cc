#include "formats/ternary_quants.h"

#include <cmath>

#include "formats/codec_util.h"

namespace kt::formats {
namespace {

constexpr int kLen = 256;
constexpr int kPowers[5] = {1, 3, 9, 27, 81};

int digit(std::uint8_t byte, int i) {
  return (static_cast<std::uint8_t>(byte * kPowers[i]) * 3) >> 8;
}

/// The byte that holds n base-3 digits, t[stride * i] being digit i.
std::uint8_t pack_digits(const std::uint8_t* t, int n, int stride) {
  int v = 0;
  for (int i = 0; i < n; ++i) v += t[stride * i] * kPowers[4 - i];
  return static_cast<std::uint8_t>((v * 256 + 242) / 243);
}

/// Codes 0, 1, 2 of values -d, 0, d. Returns d, the largest magnitude of the block.
float ternary_codes(const float* x, std::uint8_t* t) {
  float d = 0.0f;
  for (int j = 0; j < kLen; ++j) d = std::fmax(d, std::fabs(clean(x[j])));
  const float id = d == 0.0f ? 0.0f : 1.0f / d;
  for (int j = 0; j < kLen; ++j) {
    t[j] = static_cast<std::uint8_t>(round_to(clean(x[j]) * id, -1, 1) + 1);
  }
  return d;
}

}  // namespace

void decode_q1_0(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockQ1_0*>(blocks);
  for (; n > 0; n -= 128, out += 128, ++b) {
    const float d = fp16_to_f32(b->d);
    for (int j = 0; j < 128; ++j) out[j] = (b->qs[j / 8] >> (j % 8)) & 1 ? d : -d;
  }
}

void decode_tq1_0(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockTQ1_0*>(blocks);
  for (; n > 0; n -= kLen, out += kLen, ++b) {
    const float d = fp16_to_f32(b->d);
    const auto value = [d](std::uint8_t byte, int i) {
      return d * static_cast<float>(digit(byte, i) - 1);
    };
    for (int i = 0; i < 5; ++i) {
      for (int j = 0; j < 32; ++j) out[32 * i + j] = value(b->qs[j], i);
      for (int j = 0; j < 16; ++j) out[160 + 16 * i + j] = value(b->qs[32 + j], i);
    }
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < 4; ++j) out[240 + 4 * i + j] = value(b->qh[j], i);
    }
  }
}

void decode_tq2_0(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockTQ2_0*>(blocks);
  for (; n > 0; n -= kLen, out += kLen, ++b) {
    const float d = fp16_to_f32(b->d);
    for (int j = 0; j < kLen; ++j) {
      const int q = (b->qs[32 * (j / 128) + j % 32] >> (2 * ((j % 128) / 32))) & 3;
      out[j] = d * static_cast<float>(q - 1);
    }
  }
}

void encode_q1_0(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept {
  auto* b = static_cast<BlockQ1_0*>(blocks);
  for (; n > 0; n -= 128, x += 128, ++b) {
    double weighted = 0.0, total = 0.0, plain = 0.0;
    *b = {};
    for (int j = 0; j < 128; ++j) {
      const float v = clean(x[j]);
      const float w = importance != nullptr ? clean_importance(importance[j]) : 1.0f;
      weighted += static_cast<double>(w) * std::fabs(v);
      total += w;
      plain += std::fabs(v);
      if (v >= 0.0f) b->qs[j / 8] |= static_cast<std::uint8_t>(1 << (j % 8));
    }
    // The weighted mean magnitude minimises the squared error.
    b->d = fp16_scale(static_cast<float>(total > 0.0 ? weighted / total : plain / 128.0));
    if (importance != nullptr) importance += 128;
  }
}

void encode_tq1_0(const float* x, const float*, void* blocks, std::int64_t n) noexcept {
  auto* b = static_cast<BlockTQ1_0*>(blocks);
  for (; n > 0; n -= kLen, x += kLen, ++b) {
    std::uint8_t t[kLen];
    b->d = fp16_scale(ternary_codes(x, t));
    for (int j = 0; j < 32; ++j) b->qs[j] = pack_digits(t + j, 5, 32);
    for (int j = 0; j < 16; ++j) b->qs[32 + j] = pack_digits(t + 160 + j, 5, 16);
    for (int j = 0; j < 4; ++j) b->qh[j] = pack_digits(t + 240 + j, 4, 4);
  }
}

void encode_tq2_0(const float* x, const float*, void* blocks, std::int64_t n) noexcept {
  auto* b = static_cast<BlockTQ2_0*>(blocks);
  for (; n > 0; n -= kLen, x += kLen, ++b) {
    std::uint8_t t[kLen];
    b->d = fp16_scale(ternary_codes(x, t));
    for (int j = 0; j < 64; ++j) {
      const std::uint8_t* q = t + 128 * (j / 32) + j % 32;
      b->qs[j] = static_cast<std::uint8_t>(q[0] | (q[32] << 2) | (q[64] << 4) | (q[96] << 6));
    }
  }
}

}  // namespace kt::formats
