#include "formats/fp4_quants.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "formats/codec_util.h"

namespace kt::formats {
namespace {

/// Code whose value times `scale` is nearest to x; the lower code on ties.
int nearest_fp4(float x, float scale) {
  const float a = std::fabs(x);
  int best = 0;
  float best_error = a;
  for (int q = 1; q < 8; ++q) {
    const float error = std::fabs(scale * static_cast<float>(kFp4Doubled[q]) - a);
    if (error < best_error) {
      best_error = error;
      best = q;
    }
  }
  return x < 0.0f && best != 0 ? best + 8 : best;
}

/// Weighted squared error of n values at `scale`, and their codes.
double try_scale(const float* x, const float* w, int n, float scale, std::uint8_t* q) {
  double sum = 0.0;
  for (int j = 0; j < n; ++j) {
    const int code = nearest_fp4(x[j], scale);
    const double error = x[j] - scale * static_cast<float>(kFp4Doubled[code]);
    q[j] = static_cast<std::uint8_t>(code);
    sum += w[j] * error * error;
  }
  return sum;
}

/// Cleaned values and weights of one (sub-)block; all-zero weights become ones. Returns max |x|.
float load_values(const float* x, const float* importance, int n, float* values, float* w) {
  float top = 0.0f, total = 0.0f;
  for (int j = 0; j < n; ++j) {
    values[j] = clean(x[j]);
    w[j] = importance != nullptr ? clean_importance(importance[j]) : 1.0f;
    top = std::max(top, std::fabs(values[j]));
    total += w[j];
  }
  if (total == 0.0f) std::fill(w, w + n, 1.0f);
  return top;
}

}  // namespace

float mxfp4_scale(std::uint8_t e) noexcept {
  const std::uint32_t bits = e < 2 ? 0x00200000u << e : static_cast<std::uint32_t>(e - 1) << 23;
  return std::bit_cast<float>(bits);
}

float nvfp4_scale(std::uint8_t v) noexcept {
  if (v == 0 || v == 0x7f) return 0.0f;
  const int exponent = (v >> 3) & 15;
  const float mantissa = static_cast<float>(v & 7);
  if (exponent == 0) return mantissa * 0x1p-10f;
  return std::ldexp(1.0f + mantissa / 8.0f, exponent - 8);
}

void decode_mxfp4(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockMXFP4*>(blocks);
  for (; n > 0; n -= 32, out += 32, ++b) {
    const float d = mxfp4_scale(b->e);
    for (int j = 0; j < 16; ++j) {
      out[j] = d * static_cast<float>(kFp4Doubled[b->qs[j] & 15]);
      out[j + 16] = d * static_cast<float>(kFp4Doubled[b->qs[j] >> 4]);
    }
  }
}

void decode_nvfp4(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockNVFP4*>(blocks);
  for (; n > 0; n -= 64, out += 64, ++b) {
    for (int s = 0; s < 4; ++s) {
      const float d = nvfp4_scale(b->d[s]);
      for (int j = 0; j < 8; ++j) {
        const std::uint8_t q = b->qs[8 * s + j];
        out[16 * s + j] = d * static_cast<float>(kFp4Doubled[q & 15]);
        out[16 * s + 8 + j] = d * static_cast<float>(kFp4Doubled[q >> 4]);
      }
    }
  }
}

void encode_mxfp4(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept {
  auto* b = static_cast<BlockMXFP4*>(blocks);
  for (; n > 0; n -= 32, x += 32, ++b) {
    float values[32], w[32];
    const float top = load_values(x, importance, 32, values, w);
    if (importance != nullptr) importance += 32;
    std::uint8_t best_q[32] = {};
    int best_e = 0;
    if (top > 0.0f) {
      // The MX rule floor(log2 max) - 2 first; its neighbours only where they are strictly better.
      const int rule = std::ilogb(top) - 2 + 127;
      double best = -1.0;
      for (int e : {rule, rule + 1, rule - 1}) {
        if (e < 0 || e > 254) continue;
        std::uint8_t q[32];
        const double error = try_scale(values, w, 32, mxfp4_scale(static_cast<std::uint8_t>(e)), q);
        if (best >= 0.0 && !(error < best)) continue;
        best = error;
        best_e = e;
        std::copy(q, q + 32, best_q);
      }
    }
    b->e = static_cast<std::uint8_t>(best_e);
    for (int j = 0; j < 16; ++j)
      b->qs[j] = static_cast<std::uint8_t>(best_q[j] | (best_q[j + 16] << 4));
  }
}

void encode_nvfp4(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept {
  auto* b = static_cast<BlockNVFP4*>(blocks);
  for (std::int64_t i = 0; i < n; i += 16) {
    BlockNVFP4& block = b[i / 64];
    const int s = static_cast<int>(i % 64) / 16;
    float values[16], w[16];
    const float top =
        load_values(x + i, importance != nullptr ? importance + i : nullptr, 16, values, w);
    // Byte codes are ordered like their values, so the neighbours of max / 12 are the candidates.
    int first = 0;
    while (first < 126 && nvfp4_scale(static_cast<std::uint8_t>(first)) * 12.0f < top) ++first;
    std::uint8_t best_q[16] = {};
    int best_d = 0;
    double best = -1.0;
    for (int d = std::max(first - 4, 0); d <= std::min(first + 2, 126); ++d) {
      std::uint8_t q[16];
      const double error = try_scale(values, w, 16, nvfp4_scale(static_cast<std::uint8_t>(d)), q);
      if (best >= 0.0 && !(error < best)) continue;
      best = error;
      best_d = d;
      std::copy(q, q + 16, best_q);
    }
    block.d[s] = static_cast<std::uint8_t>(best_d);
    for (int j = 0; j < 8; ++j) {
      block.qs[8 * s + j] = static_cast<std::uint8_t>(best_q[j] | (best_q[j + 8] << 4));
    }
  }
}

}  // namespace kt::formats
