#include "kernels/cpu/dot/n16.h"

#include <algorithm>

#include "formats/basic_quants.h"
#include "formats/checkpoint_quants.h"
#include "formats/codec_util.h"
#include "formats/fp4_quants.h"
#include "formats/iq4_quants.h"
#include "formats/k_quants.h"
#include "formats/ternary_quants.h"
#include "kernels/cpu/dot/n16_pack.h"

namespace kt::kernels::dot {
namespace {

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

constexpr N16Layout kLayouts[] = {
    layout_of<PlainF32, 1>(Format::kF32),
    layout_of<PlainF16, 1>(Format::kF16),
    layout_of<PlainBF16, 1>(Format::kBF16),
    layout_of<Q4_0, 32>(Format::kQ4_0),
    layout_of<Q4_1, 32>(Format::kQ4_1),
    layout_of<Q5_0, 32>(Format::kQ5_0),
    layout_of<Q5_1, 32>(Format::kQ5_1),
    layout_of<Q8_0, 32>(Format::kQ8_0),
    layout_of<IQ4_NL, 32>(Format::kIQ4_NL),
    layout_of<MXFP4, 32>(Format::kMXFP4),
    layout_of<Q2_K, 256>(Format::kQ2_K),
    layout_of<Q3_K, 256>(Format::kQ3_K),
    layout_of<Q4_K, 256>(Format::kQ4_K),
    layout_of<Q5_K, 256>(Format::kQ5_K),
    layout_of<Q6_K, 256>(Format::kQ6_K),
    layout_of<IQ4_XS, 256>(Format::kIQ4_XS),
    layout_of<Q8_1, 32>(Format::kQ8_1),
    layout_of<Q8_K, 256>(Format::kQ8_K),
    layout_of<TQ2_0, 256>(Format::kTQ2_0),
    layout_of<Q1_0, 128>(Format::kQ1_0),
    layout_of<NVFP4, 64>(Format::kNVFP4),
    layout_of<I4<32>, 32>(Format::kI4_32),
    layout_of<I4<64>, 64>(Format::kI4_64),
    layout_of<I4<128>, 128>(Format::kI4_128),
    layout_of<F8_E4M3_B128, 128>(Format::kF8_E4M3_B128),
};

}  // namespace

const N16Layout* n16_layout(Format format) {
  for (const N16Layout& layout : kLayouts) {
    if (layout.format == format) return &layout;
  }
  return n16_iq_layout(format);
}

}  // namespace kt::kernels::dot
