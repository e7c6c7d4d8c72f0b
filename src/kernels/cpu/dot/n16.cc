#include "kernels/cpu/dot/n16.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "formats/basic_quants.h"
#include "formats/checkpoint_quants.h"
#include "formats/codec_util.h"
#include "formats/fp4_quants.h"
#include "formats/iq4_quants.h"
#include "formats/iq_grids.h"
#include "formats/iq_quants.h"
#include "formats/k_quants.h"
#include "formats/ternary_quants.h"

namespace kt::kernels::dot {
namespace {

using formats::Format;

constexpr int kLen = 32;

std::uint32_t load4(const std::uint8_t* p) {
  std::uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}
void store4(std::uint8_t* p, std::uint32_t v) { std::memcpy(p, &v, 4); }

// Writers of the code planes of one row's 32-block; c holds one code per byte.

void put_nibbles(const std::uint8_t* c, int r, std::uint8_t (*q)[64]) {
  for (int g = 0; g < 4; ++g) {
    const std::uint32_t low = load4(c + 4 * g) & 0x0f0f0f0fu;
    const std::uint32_t high = load4(c + 16 + 4 * g) & 0x0f0f0f0fu;
    store4(q[g] + 4 * r, low | (high << 4));
  }
}

// Bits [shift, shift + 2) of every code.
void put_pairs(const std::uint8_t* c, int shift, int r, std::uint8_t (*q2)[64]) {
  for (int p = 0; p < 2; ++p) {
    std::uint32_t v = 0;
    for (int j = 0; j < 4; ++j)
      v |= ((load4(c + 16 * p + 4 * j) >> shift) & 0x03030303u) << (2 * j);
    store4(q2[p] + 4 * r, v);
  }
}

// Bit `shift` of every code.
void put_bits(const std::uint8_t* c, int shift, int r, std::uint8_t* q1) {
  std::uint32_t v = 0;
  for (int g = 0; g < 8; ++g) v |= ((load4(c + 4 * g) >> shift) & 0x01010101u) << g;
  store4(q1 + 4 * r, v);
}

// Readers of the code at k (0..31) of row r.

int nibble_at(const std::uint8_t (*q)[64], int r, int k) {
  return (q[(k / 4) % 4][4 * r + k % 4] >> (k < 16 ? 0 : 4)) & 15;
}
int pair_at(const std::uint8_t (*q2)[64], int r, int k) {
  return (q2[k / 16][4 * r + k % 4] >> (2 * ((k / 4) % 4))) & 3;
}
int bit_at(const std::uint8_t* q1, int r, int k) { return (q1[4 * r + k % 4] >> (k / 4)) & 1; }

float magnitude(std::uint16_t fp16) { return std::fabs(fp16_to_f32(fp16)); }

// One format each: bound(block) is at least its largest |weight|; pack(block, r, tile) moves a file
// block into row r, unpack(tile, r, out) decodes row r.

struct PlainF32 {
  using Block = float;
  using Tile = TileF32;
  static void pack(const Block& b, int r, Tile& t) { t.w[r] = b; }
  static void unpack(const Tile& t, int r, float* out) { *out = t.w[r]; }
};
struct PlainF16 {
  using Block = std::uint16_t;
  using Tile = TileF16;
  static void pack(const Block& b, int r, Tile& t) { t.w[r] = b; }
  static void unpack(const Tile& t, int r, float* out) { *out = fp16_to_f32(t.w[r]); }
};
struct PlainBF16 {
  using Block = std::uint16_t;
  using Tile = TileF16;
  static void pack(const Block& b, int r, Tile& t) { t.w[r] = b; }
  static void unpack(const Tile& t, int r, float* out) { *out = bf16_to_f32(t.w[r]); }
};

// The file's half-and-half nibble order is already that of the lines.
void move_nibbles(const std::uint8_t* qs, int r, std::uint8_t (*q)[64]) {
  for (int g = 0; g < 4; ++g) store4(q[g] + 4 * r, load4(qs + 4 * g));
}

// Bit j of the file's mask is the high bit of value j; here one mask byte holds one k of all
// groups.
void spread_high_bits(const std::uint8_t* qh, int r, std::uint8_t* q1) {
  std::uint8_t c[kLen];
  for (int j = 0; j < kLen; ++j) c[j] = (qh[j / 8] >> (j % 8)) & 1;
  put_bits(c, 0, r, q1);
}

struct Q4_0 {
  using Block = formats::BlockQ4_0;
  using Tile = TileQ4_0;
  static float bound(const Block& b) { return magnitude(b.d) * 8.0f; }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    move_nibbles(b.qs, r, t.q);
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]);
    for (int k = 0; k < kLen; ++k) out[k] = d * static_cast<float>(nibble_at(t.q, r, k) - 8);
  }
};
struct IQ4_NL {
  using Block = formats::BlockIQ4_NL;
  using Tile = TileQ4_0;
  static float bound(const Block& b) { return magnitude(b.d) * 127.0f; }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    move_nibbles(b.qs, r, t.q);
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]);
    for (int k = 0; k < kLen; ++k) {
      out[k] = d * static_cast<float>(formats::kIq4Codebook[nibble_at(t.q, r, k)]);
    }
  }
};
struct MXFP4 {
  using Block = formats::BlockMXFP4;
  using Tile = TileMXFP4;
  static float bound(const Block& b) { return formats::mxfp4_scale(b.e) * 12.0f; }
  static void pack(const Block& b, int r, Tile& t) {
    t.e[r] = b.e;
    move_nibbles(b.qs, r, t.q);
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = formats::mxfp4_scale(t.e[r]);
    for (int k = 0; k < kLen; ++k) {
      out[k] = d * static_cast<float>(formats::kFp4Doubled[nibble_at(t.q, r, k)]);
    }
  }
};
struct Q4_1 {
  using Block = formats::BlockQ4_1;
  using Tile = TileQ4_1;
  static float bound(const Block& b) { return magnitude(b.d) * 15.0f + magnitude(b.m); }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    t.m[r] = b.m;
    move_nibbles(b.qs, r, t.q);
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]), m = fp16_to_f32(t.m[r]);
    for (int k = 0; k < kLen; ++k) out[k] = d * static_cast<float>(nibble_at(t.q, r, k)) + m;
  }
};
struct Q5_0 {
  using Block = formats::BlockQ5_0;
  using Tile = TileQ5_0;
  static float bound(const Block& b) { return magnitude(b.d) * 16.0f; }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    move_nibbles(b.qs, r, t.q);
    spread_high_bits(b.qh, r, t.q1);
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]);
    for (int k = 0; k < kLen; ++k) {
      out[k] = d * static_cast<float>((nibble_at(t.q, r, k) | bit_at(t.q1, r, k) << 4) - 16);
    }
  }
};
struct Q5_1 {
  using Block = formats::BlockQ5_1;
  using Tile = TileQ5_1;
  static float bound(const Block& b) { return magnitude(b.d) * 31.0f + magnitude(b.m); }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    t.m[r] = b.m;
    move_nibbles(b.qs, r, t.q);
    spread_high_bits(b.qh, r, t.q1);
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]), m = fp16_to_f32(t.m[r]);
    for (int k = 0; k < kLen; ++k) {
      out[k] = d * static_cast<float>(nibble_at(t.q, r, k) | bit_at(t.q1, r, k) << 4) + m;
    }
  }
};
struct Q8_0 {
  using Block = formats::BlockQ8_0;
  using Tile = TileQ8_0;
  static float bound(const Block& b) { return magnitude(b.d) * 128.0f; }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    for (int g = 0; g < 8; ++g) std::memcpy(t.q[g] + 4 * r, b.qs + 4 * g, 4);
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]);
    for (int k = 0; k < kLen; ++k) out[k] = d * static_cast<float>(t.q[k / 4][4 * r + k % 4]);
  }
};

void put_six(int first, int second, int s, int r, SixBits& to) {
  to.low[s][r] = static_cast<std::uint8_t>((first & 15) | (second & 15) << 4);
  to.high[s % 4][r] |= static_cast<std::uint8_t>((first >> 4 | second >> 4 << 2) << (4 * (s / 4)));
}
int first_six(const SixBits& from, int s, int r) {
  return (from.low[s][r] & 15) | ((from.high[s % 4][r] >> (4 * (s / 4))) & 3) << 4;
}
int second_six(const SixBits& from, int s, int r) {
  return from.low[s][r] >> 4 | ((from.high[s % 4][r] >> (4 * (s / 4) + 2)) & 3) << 4;
}

struct Q4_K {
  using Block = formats::BlockQ4_K;
  using Tile = TileQ4_K;
  static float bound(const Block& b) {
    return magnitude(b.d) * 63.0f * 15.0f + magnitude(b.dmin) * 63.0f;
  }
  static void pack(const Block& b, int r, Tile& t) {
    std::uint8_t scale[8], min[8];
    formats::unpack_scales_k4(b.scales, scale, min);
    t.d[r] = b.d;
    t.dmin[r] = b.dmin;
    for (int s = 0; s < 8; ++s) {
      put_six(scale[s], min[s], s, r, t.scales);
      std::uint8_t c[kLen];
      for (int l = 0; l < kLen; ++l) c[l] = (b.qs[32 * (s / 2) + l] >> (4 * (s % 2))) & 15;
      put_nibbles(c, r, t.block[s].q);
    }
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]), dmin = fp16_to_f32(t.dmin[r]);
    for (int s = 0; s < 8; ++s) {
      const Tile::Block& b = t.block[s];
      const float dl = d * static_cast<float>(first_six(t.scales, s, r));
      const float ml = dmin * static_cast<float>(second_six(t.scales, s, r));
      for (int k = 0; k < kLen; ++k) *out++ = dl * static_cast<float>(nibble_at(b.q, r, k)) - ml;
    }
  }
};
struct Q5_K {
  using Block = formats::BlockQ5_K;
  using Tile = TileQ5_K;
  static float bound(const Block& b) {
    return magnitude(b.d) * 63.0f * 31.0f + magnitude(b.dmin) * 63.0f;
  }
  static void pack(const Block& b, int r, Tile& t) {
    std::uint8_t scale[8], min[8];
    formats::unpack_scales_k4(b.scales, scale, min);
    t.d[r] = b.d;
    t.dmin[r] = b.dmin;
    for (int s = 0; s < 8; ++s) {
      put_six(scale[s], min[s], s, r, t.scales);
      std::uint8_t c[kLen];
      for (int l = 0; l < kLen; ++l) c[l] = (b.qs[32 * (s / 2) + l] >> (4 * (s % 2))) & 15;
      put_nibbles(c, r, t.block[s].q);
      put_bits(b.qh, s, r, t.block[s].q1);
    }
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]), dmin = fp16_to_f32(t.dmin[r]);
    for (int s = 0; s < 8; ++s) {
      const Tile::Block& b = t.block[s];
      const float dl = d * static_cast<float>(first_six(t.scales, s, r));
      const float ml = dmin * static_cast<float>(second_six(t.scales, s, r));
      for (int k = 0; k < kLen; ++k) {
        *out++ = dl * static_cast<float>(nibble_at(b.q, r, k) | bit_at(b.q1, r, k) << 4) - ml;
      }
    }
  }
};
struct Q6_K {
  using Block = formats::BlockQ6_K;
  using Tile = TileQ6_K;
  static float bound(const Block& b) { return magnitude(b.d) * 128.0f * 32.0f; }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    for (int s = 0; s < 8; ++s) {
      const std::uint8_t* low = b.ql + 64 * (s / 4) + 32 * (s % 2);
      const std::uint8_t* high = b.qh + 32 * (s / 4);
      std::uint8_t c[kLen];
      for (int l = 0; l < kLen; ++l) c[l] = (low[l] >> (4 * ((s % 4) / 2))) & 15;
      put_nibbles(c, r, t.block[s].q);
      put_pairs(high, 2 * (s % 4), r, t.block[s].q2);
      t.block[s].scale[0][r] = b.scales[2 * s];
      t.block[s].scale[1][r] = b.scales[2 * s + 1];
    }
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]);
    for (const Tile::Block& b : t.block) {
      for (int k = 0; k < kLen; ++k) {
        const int q = (nibble_at(b.q, r, k) | pair_at(b.q2, r, k) << 4) - 32;
        *out++ = d * static_cast<float>(b.scale[k / 16][r]) * static_cast<float>(q);
      }
    }
  }
};
struct Q2_K {
  using Block = formats::BlockQ2_K;
  using Tile = TileQ2_K;
  static float bound(const Block& b) {
    return magnitude(b.d) * 15.0f * 3.0f + magnitude(b.dmin) * 15.0f;
  }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    t.dmin[r] = b.dmin;
    for (int s = 0; s < 8; ++s) {
      put_pairs(b.qs + 32 * (s / 4), 2 * (s % 4), r, t.block[s].q2);
      t.block[s].scale_min[0][r] = b.scales[2 * s];
      t.block[s].scale_min[1][r] = b.scales[2 * s + 1];
    }
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]), dmin = fp16_to_f32(t.dmin[r]);
    for (const Tile::Block& b : t.block) {
      for (int k = 0; k < kLen; ++k) {
        const int scale_min = b.scale_min[k / 16][r];
        const float dl = d * static_cast<float>(scale_min & 15);
        *out++ = dl * static_cast<float>(pair_at(b.q2, r, k)) -
                 dmin * static_cast<float>(scale_min >> 4);
      }
    }
  }
};
struct Q3_K {
  using Block = formats::BlockQ3_K;
  using Tile = TileQ3_K;
  static float bound(const Block& b) { return magnitude(b.d) * 32.0f * 4.0f; }
  static void pack(const Block& b, int r, Tile& t) {
    std::int8_t scale[16];
    formats::unpack_scales_q3_k(b.scales, scale);
    t.d[r] = b.d;
    for (int s = 0; s < 8; ++s) {
      put_pairs(b.qs + 32 * (s / 4), 2 * (s % 4), r, t.block[s].q2);
      put_bits(b.hmask, s, r, t.block[s].q1);
      put_six(scale[2 * s] + 32, scale[2 * s + 1] + 32, s, r, t.scales);
    }
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]);
    for (int s = 0; s < 8; ++s) {
      const Tile::Block& b = t.block[s];
      const int scale[2] = {first_six(t.scales, s, r) - 32, second_six(t.scales, s, r) - 32};
      for (int k = 0; k < kLen; ++k) {
        const int q = (pair_at(b.q2, r, k) | bit_at(b.q1, r, k) << 2) - 4;
        *out++ = d * static_cast<float>(scale[k / 16]) * static_cast<float>(q);
      }
    }
  }
};
struct IQ4_XS {
  using Block = formats::BlockIQ4_XS;
  using Tile = TileIQ4_XS;
  static float bound(const Block& b) { return magnitude(b.d) * 32.0f * 127.0f; }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    for (int s = 0; s < 8; ++s) {
      const int low = (b.scales_l[s / 2] >> (4 * (s % 2))) & 15;
      const int high = (b.scales_h >> (2 * s)) & 3;
      t.low[s % 4][r] |= static_cast<std::uint8_t>(low << (4 * (s / 4)));
      t.high[s / 4][r] |= static_cast<std::uint8_t>(high << (2 * (s % 4)));
      move_nibbles(b.qs + 16 * s, r, t.block[s].q);
    }
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]);
    for (int s = 0; s < 8; ++s) {
      const Tile::Block& b = t.block[s];
      const int low = (t.low[s % 4][r] >> (4 * (s / 4))) & 15;
      const int high = (t.high[s / 4][r] >> (2 * (s % 4))) & 3;
      const float dl = d * static_cast<float>((low | high << 4) - 32);
      for (int k = 0; k < kLen; ++k) {
        *out++ = dl * static_cast<float>(formats::kIq4Codebook[nibble_at(b.q, r, k)]);
      }
    }
  }
};

unsigned all_signs(unsigned seven) {
  return seven | static_cast<unsigned>(std::popcount(seven) & 1) << 7;
}
float with_sign(float v, unsigned signs, int i) { return v * ((signs >> i) & 1 ? -1.0f : 1.0f); }

void emit_iq2(float db, std::uint16_t entry, unsigned signs, float* out) {
  for (int i = 0; i < 8; ++i) {
    const float v = db * static_cast<float>(formats::kIq2Levels[(entry >> (2 * i)) & 3]);
    out[i] = with_sign(v, signs, i);
  }
}
void emit_iq3(float db, const std::uint8_t* levels, std::uint16_t entry, unsigned signs,
              float* out) {
  for (int i = 0; i < 4; ++i) {
    out[i] = with_sign(db * static_cast<float>(levels[(entry >> (4 * i)) & 7]), signs, i);
  }
}
float iq2_scale(float d, int s) { return d * (0.5f + static_cast<float>(s)) * 0.25f; }

// 4 x 7 sign bits and a scale of 4 bits, as IQ2_XXS and IQ3_XXS have them, to bytes and back.
void put_signs(std::uint32_t packed, int r, std::uint8_t* s) {
  for (int g = 0; g < 4; ++g) {
    s[4 * r + g] =
        static_cast<std::uint8_t>(((packed >> (7 * g)) & 127) | ((packed >> (28 + g)) & 1) << 7);
  }
}
int scale_of_signs(const std::uint8_t* s, int r) {
  int scale = 0;
  for (int g = 0; g < 4; ++g) scale |= (s[4 * r + g] >> 7) << g;
  return scale;
}

struct IQ2_XXS {
  using Block = formats::BlockIQ2_XXS;
  using Tile = TileIQ2_XXS;
  static float bound(const Block& b) { return magnitude(b.d) * 3.875f * 43.0f; }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    for (int s = 0; s < 8; ++s) {
      std::memcpy(t.block[s].c[r], b.qs + 8 * s, 4);
      put_signs(formats::load_u32(b.qs + 8 * s + 4), r, t.block[s].s);
    }
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]);
    for (const Tile::Block& b : t.block) {
      const float db = iq2_scale(d, scale_of_signs(b.s, r));
      for (int g = 0; g < 4; ++g, out += 8) {
        emit_iq2(db, formats::kIq2XxsGrid[b.c[r][g]], all_signs(b.s[4 * r + g] & 127), out);
      }
    }
  }
};
struct IQ2_XS {
  using Block = formats::BlockIQ2_XS;
  using Tile = TileIQ2_XS;
  static float bound(const Block& b) { return magnitude(b.d) * 3.875f * 43.0f; }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    for (int s = 0; s < 8; ++s) {
      std::memcpy(t.block[s].c[iq_row(r)], b.qs + 8 * s, 8);
      t.block[s].scale[r] = b.scales[s];
    }
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]);
    for (const Tile::Block& b : t.block) {
      for (int g = 0; g < 4; ++g, out += 8) {
        const float db = iq2_scale(d, (b.scale[r] >> (4 * (g / 2))) & 15);
        const unsigned c = b.c[iq_row(r)][g];
        emit_iq2(db, formats::kIq2XsGrid[c & 511], all_signs(c >> 9), out);
      }
    }
  }
};
struct IQ2_S {
  using Block = formats::BlockIQ2_S;
  using Tile = TileIQ2_S;
  static float bound(const Block& b) { return magnitude(b.d) * 3.875f * 43.0f; }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    for (int s = 0; s < 8; ++s) {
      int high = 0;
      for (int g = 0; g < 4; ++g) {
        const int sign = b.signs[4 * s + g];
        const int code = b.qs[4 * s + g] | ((b.qh[s] >> (2 * g)) & 3) << 8;
        t.block[s].c[iq_row(r)][g] = static_cast<std::uint16_t>(code | (sign & 63) << 10);
        high |= (sign >> 6) << (2 * g);
      }
      t.block[s].s[r] = static_cast<std::uint8_t>(high);
      t.block[s].scale[r] = b.scales[s];
    }
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]);
    for (const Tile::Block& b : t.block) {
      for (int g = 0; g < 4; ++g, out += 8) {
        const float db = iq2_scale(d, (b.scale[r] >> (4 * (g / 2))) & 15);
        const unsigned c = b.c[iq_row(r)][g];
        const unsigned signs = c >> 10 | ((static_cast<unsigned>(b.s[r]) >> (2 * g)) & 3u) << 6;
        emit_iq2(db, formats::kIq2SGrid[c & 1023], signs, out);
      }
    }
  }
};
struct IQ3_XXS {
  using Block = formats::BlockIQ3_XXS;
  using Tile = TileIQ3_XXS;
  static float bound(const Block& b) { return magnitude(b.d) * 7.75f * 62.0f; }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    for (int s = 0; s < 8; ++s) {
      std::memcpy(t.block[s].c[r], b.qs + 8 * s, 8);
      put_signs(formats::load_u32(b.signs + 4 * s), r, t.block[s].s);
    }
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]);
    for (const Tile::Block& b : t.block) {
      const float db = d * (0.5f + static_cast<float>(scale_of_signs(b.s, r))) * 0.5f;
      for (int g = 0; g < 8; ++g, out += 4) {
        const unsigned signs = all_signs(b.s[4 * r + g / 2] & 127) >> (4 * (g % 2));
        emit_iq3(db, formats::kIq3XxsLevels, formats::kIq3XxsGrid[b.c[r][g]], signs, out);
      }
    }
  }
};
struct IQ3_S {
  using Block = formats::BlockIQ3_S;
  using Tile = TileIQ3_S;
  static float bound(const Block& b) { return magnitude(b.d) * 31.0f * 15.0f; }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    for (int s = 0; s < 4; ++s) t.scale[s][r] = b.scales[s];
    for (int s = 0; s < 8; ++s) {
      std::uint8_t* c = t.block[s].c[r];
      for (int g = 0; g < 8; ++g) {
        const int code = b.qs[8 * s + g] | ((b.qh[s] >> g) & 1) << 8;
        c[g] |= static_cast<std::uint8_t>(code << g);
        c[g + 1] |= static_cast<std::uint8_t>(code >> (8 - g));
      }
      std::memcpy(t.block[s].s + 4 * r, b.signs + 4 * s, 4);
    }
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]);
    for (int s = 0; s < 8; ++s) {
      const Tile::Block& b = t.block[s];
      const float db = d * static_cast<float>(1 + 2 * ((t.scale[s / 2][r] >> (4 * (s % 2))) & 15));
      for (int g = 0; g < 8; ++g, out += 4) {
        const int code = ((b.c[r][g] | b.c[r][g + 1] << 8) >> g) & 511;
        emit_iq3(db, formats::kIq3SLevels, formats::kIq3SGrid[code],
                 b.s[4 * r + g / 2] >> (4 * (g % 2)), out);
      }
    }
  }
};

void emit_iq1(float dl, std::uint16_t entry, bool negative, float* out) {
  const float delta = negative ? -formats::kIq1Delta : formats::kIq1Delta;
  for (int i = 0; i < 8; ++i) {
    out[i] = dl * (static_cast<float>(static_cast<int>((entry >> (2 * i)) & 3) - 1) + delta);
  }
}

struct IQ1_S {
  using Block = formats::BlockIQ1_S;
  using Tile = TileIQ1_S;
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    for (int s = 0; s < 8; ++s) {
      std::memcpy(t.block[s].c[r], b.qs + 4 * s, 4);
      t.block[s].h[r] = formats::load_u16(b.qh + 2 * s);
    }
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]);
    for (const Tile::Block& b : t.block) {
      const unsigned h = b.h[r];
      const float dl = d * static_cast<float>(2 * ((h >> 12) & 7) + 1);
      for (int g = 0; g < 4; ++g, out += 8) {
        const unsigned code = b.c[r][g] | ((h >> (3 * g)) & 7) << 8;
        emit_iq1(dl, formats::kIq1Grid[code], (h & 0x8000) != 0, out);
      }
    }
  }
};
struct IQ1_M {
  using Block = formats::BlockIQ1_M;
  using Tile = TileIQ1_M;
  static void pack(const Block& b, int r, Tile& t) {
    for (int s = 0; s < 8; ++s) {
      const int scales = formats::load_u16(b.scales + s / 2 * 2);
      const int d_bits = (scales >> (12 + 2 * (s % 2))) & 3;
      std::memcpy(t.block[s].c[r], b.qs + 4 * s, 4);
      t.block[s].h[r] = formats::load_u16(b.qh + 2 * s);
      t.block[s].scale[r] =
          static_cast<std::uint8_t>(((scales >> (6 * (s % 2))) & 63) | d_bits << 6);
    }
  }
  static void unpack(const Tile& t, int r, float* out) {
    unsigned d_bits = 0;
    for (int s = 0; s < 8; ++s)
      d_bits |= static_cast<unsigned>(t.block[s].scale[r] >> 6) << (2 * s);
    const float d = fp16_to_f32(static_cast<std::uint16_t>(d_bits));
    for (const Tile::Block& b : t.block) {
      for (int g = 0; g < 4; ++g, out += 8) {
        const unsigned h = static_cast<unsigned>(b.h[r]) >> (4 * g);
        const float dl = d * static_cast<float>(2 * ((b.scale[r] >> (3 * (g / 2))) & 7) + 1);
        emit_iq1(dl, formats::kIq1Grid[b.c[r][g] | (h & 7) << 8], (h & 8) != 0, out);
      }
    }
  }
};
struct Q8_1 {
  using Block = formats::BlockQ8_1;
  using Tile = TileQ8_0;
  static float bound(const Block& b) { return magnitude(b.d) * 128.0f; }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    for (int g = 0; g < 8; ++g) std::memcpy(t.q[g] + 4 * r, b.qs + 4 * g, 4);
  }
  static void unpack(const Tile& t, int r, float* out) { Q8_0::unpack(t, r, out); }
};
struct Q8_K {
  using Block = formats::BlockQ8_K;
  using Tile = TileQ8_K;
  static float bound(const Block& b) { return std::fabs(b.d) * 128.0f; }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    for (int g = 0; g < 64; ++g) {
      std::memcpy(t.block[g / 8].q[g % 8] + 4 * r, b.qs + 4 * g, 4);
    }
  }
  static void unpack(const Tile& t, int r, float* out) {
    for (int k = 0; k < 256; ++k) {
      out[k] = t.d[r] * static_cast<float>(t.block[k / kLen].q[k % kLen / 4][4 * r + k % 4]);
    }
  }
};
struct TQ2_0 {
  using Block = formats::BlockTQ2_0;
  using Tile = TileTQ2_0;
  static float bound(const Block& b) { return magnitude(b.d) * 2.0f; }
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    for (int s = 0; s < 8; ++s) put_pairs(b.qs + 32 * (s / 4), 2 * (s % 4), r, t.block[s].q2);
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]);
    for (const Tile::Block& b : t.block) {
      for (int k = 0; k < kLen; ++k) *out++ = d * static_cast<float>(pair_at(b.q2, r, k) - 1);
    }
  }
};
struct Q1_0 {
  using Block = formats::BlockQ1_0;
  using Tile = TileQ1_0;
  static void pack(const Block& b, int r, Tile& t) {
    t.d[r] = b.d;
    for (int s = 0; s < 4; ++s) spread_high_bits(b.qs + 4 * s, r, t.block[s].q1);
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float d = fp16_to_f32(t.d[r]);
    for (const Tile::Block& b : t.block) {
      for (int k = 0; k < kLen; ++k) *out++ = bit_at(b.q1, r, k) != 0 ? d : -d;
    }
  }
};
struct NVFP4 {
  using Block = formats::BlockNVFP4;
  using Tile = TileNVFP4;
  static float bound(const Block& b) {
    float largest = 0.0f;
    for (const std::uint8_t d : b.d) largest = std::max(largest, formats::nvfp4_scale(d));
    return largest * 12.0f;
  }
  static void pack(const Block& b, int r, Tile& t) {
    for (int j = 0; j < 4; ++j) t.d[j][r] = b.d[j] == 0x7f ? std::uint8_t{0} : b.d[j];
    for (int s = 0; s < 2; ++s) {
      std::uint8_t c[kLen];
      for (int l = 0; l < kLen; ++l) {
        c[l] = b.qs[16 * s + 8 * (l / 16) + l % 8] >> (l % 16 < 8 ? 0 : 4);
      }
      put_nibbles(c, r, t.block[s].q);
    }
  }
  static void unpack(const Tile& t, int r, float* out) {
    for (int k = 0; k < 64; ++k) {
      const int code = nibble_at(t.block[k / kLen].q, r, k % kLen);
      out[k] =
          formats::nvfp4_scale(t.d[k / 16][r]) * static_cast<float>(formats::kFp4Doubled[code]);
    }
  }
};

template <int kGroup>
struct I4 {
  using Block = formats::BlockI4<kGroup>;
  using Tile = TileI4<kGroup>;
  static float bound(const Block& b) {
    return std::fabs(b.scale) * (15.0f + std::fabs(static_cast<float>(b.zero)));
  }
  static void pack(const Block& b, int r, Tile& t) {
    t.scale[r] = b.scale;
    t.zero[r] = b.zero;
    if constexpr (kGroup == kLen) {
      move_nibbles(b.q, r, t.block[0].q);
    } else {
      constexpr int kHalf = kGroup / kLen / 2;  // blocks in the low nibbles, then those in the high
      for (int s = 0; s < 2 * kHalf; ++s) {
        std::uint8_t c[kLen];
        for (int l = 0; l < kLen; ++l) c[l] = b.q[kLen * (s % kHalf) + l] >> (s < kHalf ? 0 : 4);
        put_nibbles(c, r, t.block[s].q);
      }
    }
  }
  static void unpack(const Tile& t, int r, float* out) {
    for (const auto& b : t.block) {
      for (int k = 0; k < kLen; ++k) {
        *out++ = (static_cast<float>(nibble_at(b.q, r, k)) - t.zero[r]) * t.scale[r];
      }
    }
  }
};

struct F8_E4M3_B128 {
  using Block = formats::BlockF8_E4M3_B128;
  using Tile = TileF8;
  static float bound(const Block& b) {
    for (const std::uint8_t code : b.q) {
      if ((code & 0x7f) == 0x7f) return NAN;
    }
    return std::fabs(b.scale) * 448.0f;
  }
  static constexpr int kByte[4] = {0, 2, 1, 3};  // of k % 4
  // A negative scale moves into the signs of the codes, bitwise the same products, which frees its
  // sign bit for "this row has a NaN code": kernels then need not look for one in every code.
  static void pack(const Block& b, int r, Tile& t) {
    const std::uint32_t flip = std::signbit(b.scale) ? 0x80808080u : 0;
    std::uint32_t nans = 0;
    for (int g = 0; g < 32; ++g) {
      const std::uint32_t v = load4(b.q + 4 * g);
      nans |= ((v & 0x7f7f7f7fu) + 0x01010101u) & 0x80808080u;
      const std::uint32_t swapped =
          (v & 0xff0000ffu) | ((v >> 8) & 0x0000ff00u) | ((v << 8) & 0x00ff0000u);
      store4(t.q[g] + 4 * r, swapped ^ flip);
    }
    t.scale[r] = std::copysign(b.scale, nans != 0 ? -1.0f : 1.0f);
  }
  static void unpack(const Tile& t, int r, float* out) {
    const float scale = std::fabs(t.scale[r]);
    for (int k = 0; k < 128; ++k) {
      out[k] = fp8_e4m3_to_f32(t.q[k / 4][4 * r + kByte[k % 4]]) * scale;
    }
  }
};

template <class Codec, std::int64_t kUnitLen>
void pack_row(const std::byte* row, std::int64_t k, int r, std::byte* tile) noexcept {
  using Block = typename Codec::Block;
  auto* t = reinterpret_cast<typename Codec::Tile*>(tile);
  for (std::int64_t u = 0; u < k / kUnitLen; ++u, row += sizeof(Block)) {
    Block b;
    std::memcpy(&b, row, sizeof(Block));
    Codec::pack(b, r, t[u]);
  }
}

template <class Codec, std::int64_t kUnitLen>
void unpack_row(const std::byte* tile, std::int64_t k, int r, float* out) noexcept {
  const auto* t = reinterpret_cast<const typename Codec::Tile*>(tile);
  for (std::int64_t u = 0; u < k / kUnitLen; ++u) Codec::unpack(t[u], r, out + u * kUnitLen);
}

template <class Codec, std::int64_t kUnitLen>
float row_bound(const std::byte* row, std::int64_t k) noexcept {
  using Block = typename Codec::Block;
  float largest = 0.0f;
  for (std::int64_t u = 0; u < k; u += kUnitLen, row += sizeof(Block)) {
    Block b;
    std::memcpy(&b, row, sizeof(Block));
    const float bound = Codec::bound(b);
    if (!std::isfinite(bound)) return bound;
    if (bound > largest) largest = bound;
  }
  return largest;
}

template <class Codec>
concept HasScales = requires(const typename Codec::Block& block) { Codec::bound(block); };

template <class Codec, std::int64_t kUnitLen>
constexpr N16Layout layout_of(Format format) {
  N16Layout layout = {format,
                      kUnitLen,
                      sizeof(typename Codec::Tile),
                      pack_row<Codec, kUnitLen>,
                      unpack_row<Codec, kUnitLen>,
                      nullptr};
  if constexpr (HasScales<Codec>) layout.row_bound = row_bound<Codec, kUnitLen>;
  return layout;
}

constexpr N16Layout kLayouts[] = {
    layout_of<PlainF32, 1>(Format::kF32),      layout_of<PlainF16, 1>(Format::kF16),
    layout_of<PlainBF16, 1>(Format::kBF16),    layout_of<Q4_0, 32>(Format::kQ4_0),
    layout_of<Q4_1, 32>(Format::kQ4_1),        layout_of<Q5_0, 32>(Format::kQ5_0),
    layout_of<Q5_1, 32>(Format::kQ5_1),        layout_of<Q8_0, 32>(Format::kQ8_0),
    layout_of<IQ4_NL, 32>(Format::kIQ4_NL),    layout_of<MXFP4, 32>(Format::kMXFP4),
    layout_of<Q2_K, 256>(Format::kQ2_K),       layout_of<Q3_K, 256>(Format::kQ3_K),
    layout_of<Q4_K, 256>(Format::kQ4_K),       layout_of<Q5_K, 256>(Format::kQ5_K),
    layout_of<Q6_K, 256>(Format::kQ6_K),       layout_of<IQ4_XS, 256>(Format::kIQ4_XS),
    layout_of<IQ2_XXS, 256>(Format::kIQ2_XXS), layout_of<IQ2_XS, 256>(Format::kIQ2_XS),
    layout_of<IQ2_S, 256>(Format::kIQ2_S),     layout_of<IQ3_XXS, 256>(Format::kIQ3_XXS),
    layout_of<IQ3_S, 256>(Format::kIQ3_S),     layout_of<IQ1_S, 256>(Format::kIQ1_S),
    layout_of<IQ1_M, 256>(Format::kIQ1_M),     layout_of<Q8_1, 32>(Format::kQ8_1),
    layout_of<Q8_K, 256>(Format::kQ8_K),       layout_of<TQ2_0, 256>(Format::kTQ2_0),
    layout_of<Q1_0, 128>(Format::kQ1_0),       layout_of<NVFP4, 64>(Format::kNVFP4),
    layout_of<I4<32>, 32>(Format::kI4_32),     layout_of<I4<64>, 64>(Format::kI4_64),
    layout_of<I4<128>, 128>(Format::kI4_128),  layout_of<F8_E4M3_B128, 128>(Format::kF8_E4M3_B128),
};

}  // namespace

const N16Layout* n16_layout(Format format) {
  for (const N16Layout& layout : kLayouts) {
    if (layout.format == format) return &layout;
  }
  return nullptr;
}

}  // namespace kt::kernels::dot
