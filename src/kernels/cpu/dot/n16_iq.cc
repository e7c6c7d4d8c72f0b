// Pack kN16 of the codebook formats IQ1, IQ2 and IQ3.
#include <bit>

#include "formats/codec_util.h"
#include "formats/iq_grids.h"
#include "formats/iq_quants.h"
#include "kernels/cpu/dot/n16_pack.h"

namespace kt::kernels::dot {
namespace {

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
constexpr N16Layout kLayouts[] = {
    layout_of<IQ2_XXS, 256>(Format::kIQ2_XXS), layout_of<IQ2_XS, 256>(Format::kIQ2_XS),
    layout_of<IQ2_S, 256>(Format::kIQ2_S),     layout_of<IQ3_XXS, 256>(Format::kIQ3_XXS),
    layout_of<IQ3_S, 256>(Format::kIQ3_S),     layout_of<IQ1_S, 256>(Format::kIQ1_S),
    layout_of<IQ1_M, 256>(Format::kIQ1_M),
};

}  // namespace

const N16Layout* n16_iq_layout(Format format) {
  for (const N16Layout& layout : kLayouts) {
    if (layout.format == format) return &layout;
  }
  return nullptr;
}

}  // namespace kt::kernels::dot
