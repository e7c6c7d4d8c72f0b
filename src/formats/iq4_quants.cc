#include "formats/iq4_quants.h"

#include "formats/codec_util.h"
#include "formats/scale_search.h"

namespace kt::formats {
namespace {

struct CodebookLevels {
  static constexpr float kFirst = -127.0f;
  static constexpr float kLast = 113.0f;
  static constexpr float kSpan = 18.0f;
  static int code(float v) {
    int code = 0;
    for (int i = 1; i < 16; ++i) code += 2.0f * v > kIq4Codebook[i - 1] + kIq4Codebook[i];
    return code;
  }
  /// Sum of the steps below v: no table look-up, so that loops over it vectorise.
  static float nearest(float v) {
    float level = kFirst;
    for (int i = 1; i < 16; ++i) {
      const float step = static_cast<float>(kIq4Codebook[i] - kIq4Codebook[i - 1]);
      const float sum = static_cast<float>(kIq4Codebook[i] + kIq4Codebook[i - 1]);
      level += 2.0f * v > sum ? step : 0.0f;
    }
    return level;
  }
};

/// Nibbles of 32 values at scale e: value j low, 16 + j high.
void store_codes(const float* x, float e, std::uint8_t* qs) {
  const float inverse = e != 0.0f ? 1.0f / e : 0.0f;
  for (int j = 0; j < 16; ++j) {
    const int low = CodebookLevels::code(x[j] * inverse);
    const int high = CodebookLevels::code(x[j + 16] * inverse);
    qs[j] = static_cast<std::uint8_t>(low | (high << 4));
  }
}

}  // namespace

void decode_iq4_nl(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockIQ4_NL*>(blocks);
  for (; n > 0; n -= 32, out += 32, ++b) {
    const float d = fp16_to_f32(b->d);
    for (int j = 0; j < 16; ++j) {
      out[j] = d * static_cast<float>(kIq4Codebook[b->qs[j] & 15]);
      out[j + 16] = d * static_cast<float>(kIq4Codebook[b->qs[j] >> 4]);
    }
  }
}

void decode_iq4_xs(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockIQ4_XS*>(blocks);
  for (; n > 0; n -= 256, out += 256, ++b) {
    const float d = fp16_to_f32(b->d);
    for (int s = 0; s < 8; ++s) {
      const int low = (b->scales_l[s / 2] >> (4 * (s % 2))) & 15;
      const int high = (b->scales_h >> (2 * s)) & 3;
      const float dl = d * static_cast<float>((low | (high << 4)) - 32);
      for (int j = 0; j < 16; ++j) {
        const std::uint8_t q = b->qs[16 * s + j];
        out[32 * s + j] = dl * static_cast<float>(kIq4Codebook[q & 15]);
        out[32 * s + 16 + j] = dl * static_cast<float>(kIq4Codebook[q >> 4]);
      }
    }
  }
}

void encode_iq4_nl(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept {
  auto* b = static_cast<BlockIQ4_NL*>(blocks);
  for (std::int64_t i = 0; i < n; i += 32, ++b) {
    SearchBlock values;
    load_search_block(x + i, importance != nullptr ? importance + i : nullptr, 32, &values);
    const float d = fp16_rounded_scale(fit_scale<CodebookLevels>(values.x, values.w, 32));
    b->d = fp16_scale(d);
    store_codes(values.x, d, b->qs);
  }
}

void encode_iq4_xs(const float* x, const float* importance, void* blocks, std::int64_t n) noexcept {
  auto* b = static_cast<BlockIQ4_XS*>(blocks);
  for (std::int64_t i = 0; i < n; i += 256, ++b) {
    SearchBlock values;
    load_search_block(x + i, importance != nullptr ? importance + i : nullptr, 256, &values);
    *b = {};
    std::int8_t sc[16];
    const float d = fit_signed_super<CodebookLevels, 32, -32, 31>(values, sc);
    b->d = fp16_scale(d);
    unsigned high = 0;
    for (int s = 0; s < 8; ++s) {
      const unsigned ls = static_cast<unsigned>(sc[s] + 32);
      high |= (ls >> 4) << (2 * s);
      b->scales_l[s / 2] |= static_cast<std::uint8_t>((ls & 15) << (4 * (s % 2)));
      store_codes(values.x + 32 * s, d * static_cast<float>(sc[s]), b->qs + 16 * s);
    }
    b->scales_h = static_cast<std::uint16_t>(high);
  }
}

}  // namespace kt::formats
