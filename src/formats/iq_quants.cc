#include "formats/iq_quants.h"

#include <bit>

#include "formats/codec_util.h"
#include "formats/iq_grids.h"

namespace kt::formats {
namespace {

constexpr int kSuper = 256;

/// Eight sign bits of a 7-bit field: the eighth makes their number even.
unsigned signs_of(unsigned field) {
  return field | static_cast<unsigned>(std::popcount(field) & 1) << 7;
}

/// out[i] = db * level * sign for the 8 values of an IQ2 grid entry.
void emit_iq2(float db, std::uint16_t entry, unsigned signs, float* out) {
  for (int i = 0; i < 8; ++i) {
    const float v = db * static_cast<float>(kIq2Levels[(entry >> (2 * i)) & 3]);
    out[i] = v * ((signs >> i) & 1 ? -1.0f : 1.0f);
  }
}

/// Same for the 4 values of an IQ3 grid entry.
void emit_iq3(float db, const std::uint8_t* levels, std::uint16_t entry, unsigned signs,
              float* out) {
  for (int i = 0; i < 4; ++i) {
    const float v = db * static_cast<float>(levels[(entry >> (4 * i)) & 7]);
    out[i] = v * ((signs >> i) & 1 ? -1.0f : 1.0f);
  }
}

void emit_iq1(float dl, std::uint16_t entry, float delta, float* out) {
  for (int i = 0; i < 8; ++i) {
    const int level = ((entry >> (2 * i)) & 3) - 1;
    out[i] = dl * (static_cast<float>(level) + delta);
  }
}

}  // namespace

void decode_iq2_xxs(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockIQ2_XXS*>(blocks);
  for (; n > 0; n -= kSuper, out += kSuper, ++b) {
    const float d = fp16_to_f32(b->d);
    for (int s = 0; s < 8; ++s) {
      const std::uint8_t* codes = b->qs + 8 * s;
      const std::uint32_t packed = load_u32(codes + 4);
      const float db = d * (0.5f + static_cast<float>(packed >> 28)) * 0.25f;
      for (int g = 0; g < 4; ++g) {
        emit_iq2(db, kIq2XxsGrid[codes[g]], signs_of((packed >> (7 * g)) & 127),
                 out + 32 * s + 8 * g);
      }
    }
  }
}

void decode_iq2_xs(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockIQ2_XS*>(blocks);
  for (; n > 0; n -= kSuper, out += kSuper, ++b) {
    const float d = fp16_to_f32(b->d);
    for (int g = 0; g < 32; ++g) {
      const unsigned q = load_u16(b->qs + 2 * g);
      const int s = (b->scales[g / 4] >> (4 * ((g / 2) % 2))) & 15;
      const float db = d * (0.5f + static_cast<float>(s)) * 0.25f;
      emit_iq2(db, kIq2XsGrid[q & 511], signs_of(q >> 9), out + 8 * g);
    }
  }
}

void decode_iq2_s(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockIQ2_S*>(blocks);
  for (; n > 0; n -= kSuper, out += kSuper, ++b) {
    const float d = fp16_to_f32(b->d);
    for (int g = 0; g < 32; ++g) {
      const int code = b->qs[g] | (((b->qh[g / 4] >> (2 * (g % 4))) & 3) << 8);
      const int s = (b->scales[g / 4] >> (4 * ((g / 2) % 2))) & 15;
      const float db = d * (0.5f + static_cast<float>(s)) * 0.25f;
      emit_iq2(db, kIq2SGrid[code], b->signs[g], out + 8 * g);
    }
  }
}

void decode_iq3_xxs(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockIQ3_XXS*>(blocks);
  for (; n > 0; n -= kSuper, out += kSuper, ++b) {
    const float d = fp16_to_f32(b->d);
    for (int s = 0; s < 8; ++s) {
      const std::uint32_t packed = load_u32(b->signs + 4 * s);
      const float db = d * (0.5f + static_cast<float>(packed >> 28)) * 0.5f;
      for (int g = 0; g < 8; ++g) {
        const unsigned signs = signs_of((packed >> (7 * (g / 2))) & 127) >> (4 * (g % 2));
        emit_iq3(db, kIq3XxsLevels, kIq3XxsGrid[b->qs[8 * s + g]], signs, out + 32 * s + 4 * g);
      }
    }
  }
}

void decode_iq3_s(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockIQ3_S*>(blocks);
  for (; n > 0; n -= kSuper, out += kSuper, ++b) {
    const float d = fp16_to_f32(b->d);
    for (int g = 0; g < 64; ++g) {
      const int code = b->qs[g] | (((b->qh[g / 8] >> (g % 8)) & 1) << 8);
      const int s = (b->scales[g / 16] >> (4 * ((g / 8) % 2))) & 15;
      const float db = d * static_cast<float>(1 + 2 * s);
      emit_iq3(db, kIq3SLevels, kIq3SGrid[code], b->signs[g / 2] >> (4 * (g % 2)), out + 4 * g);
    }
  }
}

void decode_iq1_s(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockIQ1_S*>(blocks);
  for (; n > 0; n -= kSuper, out += kSuper, ++b) {
    const float d = fp16_to_f32(b->d);
    for (int s = 0; s < 8; ++s) {
      const unsigned qh = load_u16(b->qh + 2 * s);
      const float dl = d * static_cast<float>(2 * ((qh >> 12) & 7) + 1);
      const float delta = qh & 0x8000 ? -kIq1Delta : kIq1Delta;
      for (int g = 0; g < 4; ++g) {
        const unsigned code = b->qs[4 * s + g] | (((qh >> (3 * g)) & 7) << 8);
        emit_iq1(dl, kIq1Grid[code], delta, out + 32 * s + 8 * g);
      }
    }
  }
}

void decode_iq1_m(const void* blocks, float* out, std::int64_t n) noexcept {
  const auto* b = static_cast<const BlockIQ1_M*>(blocks);
  for (; n > 0; n -= kSuper, out += kSuper, ++b) {
    unsigned scales[4], d_bits = 0;
    for (int j = 0; j < 4; ++j) {
      scales[j] = load_u16(b->scales + 2 * j);
      d_bits |= (scales[j] >> 12) << (4 * j);
    }
    const float d = fp16_to_f32(static_cast<std::uint16_t>(d_bits));
    for (int g = 0; g < 32; ++g) {
      const unsigned s = (scales[g / 8] >> (3 * ((g / 2) % 4))) & 7;
      const unsigned qh = b->qh[g / 2] >> (4 * (g % 2));
      const float dl = d * static_cast<float>(2 * s + 1);
      emit_iq1(dl, kIq1Grid[b->qs[g] | ((qh & 7) << 8)], qh & 8 ? -kIq1Delta : kIq1Delta,
               out + 8 * g);
    }
  }
}

}  // namespace kt::formats
