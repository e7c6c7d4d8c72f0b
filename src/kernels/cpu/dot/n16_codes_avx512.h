// What 16 interleaved weight rows of each format hold, read with AVX-512: descriptions that the
// vector kernels (n16_avx512.h) and the tile kernels (n16_amx.h) share. Everything here is internal
// to the object that includes it.
//
// A description W of a format with int8 activations gives, for block b of 32 k of a tile unit:
//   codes(tile, b, pass, g)   64 unsigned codes: byte 4 r + i is row r, k = 32 b + 16 pass + 4 g +
//   i unit(tile), scales(...)   the floats below; lane = row
//
//   weight = scale * code + offset                                     (kOffset)
//   weight = scale * sub_scale(tile, unit, b, pass) * (code - kBias)   (kSubScales)
//            + offset * sub_min(tile, b, pass)                         (kSubMins)
//   weight = half_scale(tile, b, pass) * (code - kBias)                (kHalfScales)
#pragma once
#if defined(__GNUC__) && !defined(__clang__)
// GCC 12's own intrinsics headers read an undefined vector on purpose and warn about it.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include "kernels/cpu/dot/n16.h"

#define KT_INLINE [[gnu::always_inline]] inline

namespace kt::kernels::dot {
namespace {

/// Defaults of a format description.
struct WeightBase {
  static constexpr int kBlocks = 1;       // blocks of 32 per tile unit
  static constexpr bool kOffset = false;  // scales() sets offset, a multiple of the activation sum
  static constexpr bool kSubScales = false;   // sub_scale() gives integer scales of each 16 k
  static constexpr bool kSubMins = false;     // sub_min() gives integer minima of each 16 k
  static constexpr bool kHalfScales = false;  // half_scale() gives float scales of each 16 k
  static constexpr int kBias = 0;          // with kSubScales or kHalfScales: weight = code - kBias
  static constexpr bool kNibbles = false;  // codes() are the nibbles at q()
  static constexpr bool kBytes = false;    // codes() are the signed bytes at q(), plus 128
};

KT_INLINE __m512i load64(const void* p) { return _mm512_loadu_si512(p); }
KT_INLINE __m128i load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

KT_INLINE __m512 load_fp16(const std::uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
KT_INLINE __m512 load_u8(const std::uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load16(p)));
}
KT_INLINE __m512 load_i8(const std::int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(p)));
}
KT_INLINE __m512 times(__m512 a, float s) { return _mm512_mul_ps(a, _mm512_set1_ps(s)); }

/// Lanes of the rows from `col` on that exist.
KT_INLINE __mmask16 used_lanes(std::int64_t n, std::int64_t col) {
  return static_cast<__mmask16>(n - col >= kN16Rows ? 0xffffu : (1u << (n - col)) - 1u);
}

/// Nibbles of line g: k group g (pass 0) or g + 4 (pass 1).
KT_INLINE __m512i nibbles(const std::uint8_t (*q)[64], int pass, int g) {
  __m512i v = load64(q[g]);
  if (pass == 1) v = _mm512_srli_epi16(v, 4);
  return _mm512_and_si512(v, _mm512_set1_epi8(15));
}

/// Bit `group` of every byte, moved to bit `to`, added to `base`.
KT_INLINE __m512i add_mask_bits(__m512i base, const std::uint8_t* q1, int group, int to) {
  __m512i v = load64(q1);
  v = group < to ? _mm512_slli_epi16(v, static_cast<unsigned>(to - group))
                 : _mm512_srli_epi16(v, static_cast<unsigned>(group - to));
  // 0xf8: base | (v & mask)
  return _mm512_ternarylogic_epi32(base, v, _mm512_set1_epi8(static_cast<char>(1 << to)), 0xf8);
}

/// Bits 2 g, 2 g + 1 of plane `pass`, moved to bits to, to + 1, added to `base`.
KT_INLINE __m512i add_pair_bits(__m512i base, const std::uint8_t (*q2)[64], int pass, int g,
                                int to) {
  __m512i v = load64(q2[pass]);
  v = 2 * g < to ? _mm512_slli_epi16(v, static_cast<unsigned>(to - 2 * g))
                 : _mm512_srli_epi16(v, static_cast<unsigned>(2 * g - to));
  return _mm512_ternarylogic_epi32(base, v, _mm512_set1_epi8(static_cast<char>(3 << to)), 0xf8);
}

/// Codebook values of IQ4_NL and IQ4_XS plus 128, so that they are unsigned.
KT_INLINE __m512i iq4_values(__m512i code) {
  const __m128i values =
      _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, static_cast<char>(129), static_cast<char>(141),
                    static_cast<char>(153), static_cast<char>(166), static_cast<char>(181),
                    static_cast<char>(197), static_cast<char>(217), static_cast<char>(241));
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), code);
}

/// Twice the E2M1 value, plus 12 to be unsigned.
KT_INLINE __m512i fp4_values(__m512i code) {
  const __m128i values = _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0);
  return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), code);
}

struct Empty {};
struct Scale {
  __m512 d;
};
struct ScaleMin {
  __m512 d;
  __m512 minus_min;
};

/// Block-FP8 for float activations. pairs(): 16 words of line g, half h (rows 8 h .. 8 h + 7), each
/// the fp16 bits of an E4M3 value times 2^-8, exact; words 2 r, 2 r + 1 are row r, k = 4 g + 2 odd
/// + 0, 1. NaN codes read as numbers: scale() is NaN for a row that has one.
struct F8_E4M3_B128 {
  using Tile = TileF8;
  KT_INLINE static __m256i pairs(const Tile& t, int g, int h, int odd) {
    __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(t.q[g] + 32 * h));
    if (odd == 0) v = _mm256_slli_epi16(v, 8);
    return _mm256_and_si256(_mm256_srai_epi16(v, 1), _mm256_set1_epi16(static_cast<short>(0xbf80)));
  }
  KT_INLINE static __m512 scale(const Tile& t) {
    const __m512 s = _mm512_loadu_ps(t.scale);
    return _mm512_mask_mov_ps(s, _mm512_movepi32_mask(_mm512_castps_si512(s)),
                              _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000)));
  }
};

struct Q4_0 : WeightBase {
  using Tile = TileQ4_0;
  using Unit = Empty;
  static constexpr bool kOffset = true;
  static constexpr bool kNibbles = true;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, __m512& scale, __m512& offset) {
    scale = load_fp16(t.d);
    offset = times(scale, -8.0f);
  }
  KT_INLINE static const void* q(const Tile& t, int, int g) { return t.q[g]; }
  KT_INLINE static __m512i codes(const Tile& t, int, int pass, int g) {
    return nibbles(t.q, pass, g);
  }
};
struct Q4_1 : WeightBase {
  using Tile = TileQ4_1;
  using Unit = Empty;
  static constexpr bool kOffset = true;
  static constexpr bool kNibbles = true;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, __m512& scale, __m512& offset) {
    scale = load_fp16(t.d);
    offset = load_fp16(t.m);
  }
  KT_INLINE static const void* q(const Tile& t, int, int g) { return t.q[g]; }
  KT_INLINE static __m512i codes(const Tile& t, int, int pass, int g) {
    return nibbles(t.q, pass, g);
  }
};
struct Q5_0 : WeightBase {
  using Tile = TileQ5_0;
  using Unit = Empty;
  static constexpr bool kOffset = true;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, __m512& scale, __m512& offset) {
    scale = load_fp16(t.d);
    offset = times(scale, -16.0f);
  }
  KT_INLINE static __m512i codes(const Tile& t, int, int pass, int g) {
    return add_mask_bits(nibbles(t.q, pass, g), t.q1, 4 * pass + g, 4);
  }
};
struct Q5_1 : WeightBase {
  using Tile = TileQ5_1;
  using Unit = Empty;
  static constexpr bool kOffset = true;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, __m512& scale, __m512& offset) {
    scale = load_fp16(t.d);
    offset = load_fp16(t.m);
  }
  KT_INLINE static __m512i codes(const Tile& t, int, int pass, int g) {
    return add_mask_bits(nibbles(t.q, pass, g), t.q1, 4 * pass + g, 4);
  }
};
struct Q8_0 : WeightBase {
  using Tile = TileQ8_0;
  using Unit = Empty;
  static constexpr bool kOffset = true;
  static constexpr bool kBytes = true;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, __m512& scale, __m512& offset) {
    scale = load_fp16(t.d);
    offset = times(scale, -128.0f);
  }
  KT_INLINE static const void* q(const Tile& t, int, int g) { return t.q[g]; }
  KT_INLINE static __m512i codes(const Tile& t, int, int pass, int g) {
    return _mm512_xor_si512(load64(t.q[4 * pass + g]), _mm512_set1_epi8(-128));
  }
};
struct IQ4_NL : WeightBase {
  using Tile = TileQ4_0;
  using Unit = Empty;
  static constexpr bool kOffset = true;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, __m512& scale, __m512& offset) {
    scale = load_fp16(t.d);
    offset = times(scale, -128.0f);
  }
  KT_INLINE static __m512i codes(const Tile& t, int, int pass, int g) {
    return iq4_values(nibbles(t.q, pass, g));
  }
};
struct MXFP4 : WeightBase {
  using Tile = TileMXFP4;
  using Unit = Empty;
  static constexpr bool kOffset = true;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  // scale: half of 2^(e - 127), where e = 0 and 1 give subnormal floats.
  KT_INLINE static void scales(const Tile& t, const Unit&, int, __m512& scale, __m512& offset) {
    const __m512i e = _mm512_cvtepu8_epi32(load16(t.e));
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, one), 23);
    const __m512i tiny = _mm512_sllv_epi32(_mm512_set1_epi32(0x00200000), e);
    scale =
        _mm512_castsi512_ps(_mm512_mask_blend_epi32(_mm512_cmpgt_epi32_mask(e, one), tiny, normal));
    offset = times(scale, -12.0f);
  }
  KT_INLINE static __m512i codes(const Tile& t, int, int pass, int g) {
    return fp4_values(nibbles(t.q, pass, g));
  }
};

struct Q1_0 : WeightBase {
  using Tile = TileQ1_0;
  using Unit = ScaleMin;
  static constexpr int kBlocks = 4;
  static constexpr bool kOffset = true;
  KT_INLINE static Unit unit(const Tile& t) {
    const __m512 d = load_fp16(t.d);
    return {times(d, 2.0f), times(d, -1.0f)};
  }
  KT_INLINE static void scales(const Tile&, const Unit& u, int, __m512& scale, __m512& offset) {
    scale = u.d;
    offset = u.minus_min;
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    return add_mask_bits(_mm512_setzero_si512(), t.block[b].q1, 4 * pass + g, 0);
  }
};
struct NVFP4 : WeightBase {
  using Tile = TileNVFP4;
  using Unit = Empty;
  static constexpr int kBlocks = 2;
  static constexpr bool kHalfScales = true;
  static constexpr int kBias = 12;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile&, const Unit&, int, __m512&, __m512&) {}
  // Half of an unsigned E4M3: its bits are those of an fp16 of 2^-8 times the value.
  KT_INLINE static __m512 half_scale(const Tile& t, int b, int pass) {
    const __m256i v = _mm256_cvtepu8_epi16(load16(t.d[2 * b + pass]));
    const __m256i h = _mm256_slli_epi16(_mm256_and_si256(v, _mm256_set1_epi16(127)), 7);
    return times(_mm512_cvtph_ps(h), 128.0f);
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    return fp4_values(nibbles(t.block[b].q, pass, g));
  }
};

template <int kLen>
struct I4 : WeightBase {
  using Tile = TileI4<kLen>;
  using Unit = ScaleMin;
  static constexpr int kBlocks = kLen / 32;
  static constexpr bool kOffset = true;
  static constexpr bool kNibbles = true;
  KT_INLINE static Unit unit(const Tile& t) {
    const __m512 scale = _mm512_loadu_ps(t.scale);
    return {scale, times(_mm512_mul_ps(scale, _mm512_loadu_ps(t.zero)), -1.0f)};
  }
  KT_INLINE static void scales(const Tile&, const Unit& u, int, __m512& scale, __m512& offset) {
    scale = u.d;
    offset = u.minus_min;
  }
  KT_INLINE static const void* q(const Tile& t, int b, int g) { return t.block[b].q[g]; }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    return nibbles(t.block[b].q, pass, g);
  }
};

/// Both numbers of SixBits as bytes, less `minus`.
struct SixBytes {
  alignas(64) std::uint8_t first[8][16];
  alignas(64) std::uint8_t second[8][16];
  KT_INLINE void unpack(const SixBits& from, int minus) {
    const __m512i nibble = _mm512_set1_epi8(15), top = _mm512_set1_epi8(0x30);
    const __m512i high = load64(from.high);
    const __m512i low[2] = {load64(from.low), load64(from.low + 4)};
    // 0xf8: a | (b & c)
    const auto put = [&](std::uint8_t(*to)[16], __m512i l, __m512i h) {
      const __m512i v = _mm512_and_si512(l, nibble);
      _mm512_store_si512(to, _mm512_sub_epi8(_mm512_ternarylogic_epi32(v, h, top, 0xf8),
                                             _mm512_set1_epi8(static_cast<char>(minus))));
    };
    put(first, low[0], _mm512_slli_epi16(high, 4));
    put(first + 4, low[1], high);
    put(second, _mm512_srli_epi16(low[0], 4), _mm512_slli_epi16(high, 2));
    put(second + 4, _mm512_srli_epi16(low[1], 4), _mm512_srli_epi16(high, 2));
  }
};
struct ScaleMinBytes {
  __m512 d;
  __m512 minus_min;
  SixBytes bytes;
};

/// What Q4_K and Q5_K share: 6-bit scales and minima of each 32 k.
template <class TileType>
struct ScaleMinK : WeightBase {
  using Tile = TileType;
  using Unit = ScaleMinBytes;
  static constexpr int kBlocks = 8;
  static constexpr bool kOffset = true;
  KT_INLINE static Unit unit(const Tile& t) {
    Unit u;
    u.d = load_fp16(t.d);
    u.minus_min = times(load_fp16(t.dmin), -1.0f);
    u.bytes.unpack(t.scales, 0);
    return u;
  }
  KT_INLINE static void scales(const Tile&, const Unit& u, int b, __m512& scale, __m512& offset) {
    scale = _mm512_mul_ps(u.d, load_u8(u.bytes.first[b]));
    offset = _mm512_mul_ps(u.minus_min, load_u8(u.bytes.second[b]));
  }
};

struct Q4_K : ScaleMinK<TileQ4_K> {
  static constexpr bool kNibbles = true;
  KT_INLINE static const void* q(const Tile& t, int b, int g) { return t.block[b].q[g]; }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    return nibbles(t.block[b].q, pass, g);
  }
};
struct Q5_K : ScaleMinK<TileQ5_K> {
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    return add_mask_bits(nibbles(t.block[b].q, pass, g), t.block[b].q1, 4 * pass + g, 4);
  }
};
struct Q6_K : WeightBase {
  using Tile = TileQ6_K;
  using Unit = Scale;
  static constexpr int kBlocks = 8;
  static constexpr bool kSubScales = true;
  static constexpr int kBias = 32;
  KT_INLINE static Unit unit(const Tile& t) { return {load_fp16(t.d)}; }
  KT_INLINE static void scales(const Tile&, const Unit& u, int, __m512& scale, __m512&) {
    scale = u.d;
  }
  KT_INLINE static __m512i sub_scale(const Tile& t, const Unit&, int b, int pass) {
    return _mm512_cvtepi8_epi32(load16(t.block[b].scale[pass]));
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    return add_pair_bits(nibbles(t.block[b].q, pass, g), t.block[b].q2, pass, g, 4);
  }
};
struct Q3_K : WeightBase {
  using Tile = TileQ3_K;
  struct Unit {
    __m512 d;
    SixBytes bytes;
  };
  static constexpr int kBlocks = 8;
  static constexpr bool kSubScales = true;
  static constexpr int kBias = 4;
  KT_INLINE static Unit unit(const Tile& t) {
    Unit u;
    u.d = load_fp16(t.d);
    u.bytes.unpack(t.scales, 32);
    return u;
  }
  KT_INLINE static void scales(const Tile&, const Unit& u, int, __m512& scale, __m512&) {
    scale = u.d;
  }
  KT_INLINE static __m512i sub_scale(const Tile&, const Unit& u, int b, int pass) {
    return _mm512_cvtepi8_epi32(load16(pass == 0 ? u.bytes.first[b] : u.bytes.second[b]));
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    return add_mask_bits(add_pair_bits(_mm512_setzero_si512(), t.block[b].q2, pass, g, 0),
                         t.block[b].q1, 4 * pass + g, 2);
  }
};
struct Q2_K : WeightBase {
  using Tile = TileQ2_K;
  using Unit = ScaleMin;
  static constexpr int kBlocks = 8;
  static constexpr bool kSubScales = true;
  static constexpr bool kSubMins = true;
  KT_INLINE static Unit unit(const Tile& t) {
    return {load_fp16(t.d), times(load_fp16(t.dmin), -1.0f)};
  }
  KT_INLINE static void scales(const Tile&, const Unit& u, int, __m512& scale, __m512& offset) {
    scale = u.d;
    offset = u.minus_min;
  }
  KT_INLINE static __m512i sub_scale(const Tile& t, const Unit&, int b, int pass) {
    const __m512i v = _mm512_cvtepu8_epi32(load16(t.block[b].scale_min[pass]));
    return _mm512_and_si512(v, _mm512_set1_epi32(15));
  }
  KT_INLINE static __m512i sub_min(const Tile& t, int b, int half) {
    return _mm512_srli_epi32(_mm512_cvtepu8_epi32(load16(t.block[b].scale_min[half])), 4);
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    return add_pair_bits(_mm512_setzero_si512(), t.block[b].q2, pass, g, 0);
  }
};
struct Q8_K : WeightBase {
  using Tile = TileQ8_K;
  using Unit = ScaleMin;
  static constexpr int kBlocks = 8;
  static constexpr bool kOffset = true;
  static constexpr bool kBytes = true;
  KT_INLINE static Unit unit(const Tile& t) {
    const __m512 d = _mm512_loadu_ps(t.d);
    return {d, times(d, -128.0f)};
  }
  KT_INLINE static void scales(const Tile&, const Unit& u, int, __m512& scale, __m512& offset) {
    scale = u.d;
    offset = u.minus_min;
  }
  KT_INLINE static const void* q(const Tile& t, int b, int g) { return t.block[b].q[g]; }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    return _mm512_xor_si512(load64(t.block[b].q[4 * pass + g]), _mm512_set1_epi8(-128));
  }
};
struct TQ2_0 : WeightBase {
  using Tile = TileTQ2_0;
  using Unit = ScaleMin;
  static constexpr int kBlocks = 8;
  static constexpr bool kOffset = true;
  KT_INLINE static Unit unit(const Tile& t) {
    const __m512 d = load_fp16(t.d);
    return {d, times(d, -1.0f)};
  }
  KT_INLINE static void scales(const Tile&, const Unit& u, int, __m512& scale, __m512& offset) {
    scale = u.d;
    offset = u.minus_min;
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    return add_pair_bits(_mm512_setzero_si512(), t.block[b].q2, pass, g, 0);
  }
};
struct IQ4_XS : WeightBase {
  using Tile = TileIQ4_XS;
  struct Unit {
    __m512 d;
    alignas(64) std::int8_t scale[8][16];
  };
  static constexpr int kBlocks = 8;
  static constexpr bool kOffset = true;
  KT_INLINE static Unit unit(const Tile& t) {
    Unit u;
    u.d = load_fp16(t.d);
    const __m512i low = load64(t.low), nibble = _mm512_set1_epi8(15);
    put_scales(u.scale, _mm512_and_si512(low, nibble), t.high[0]);
    put_scales(u.scale + 4, _mm512_and_si512(_mm512_srli_epi16(low, 4), nibble), t.high[1]);
    return u;
  }
  // Four blocks, one in each 16-byte lane.
  KT_INLINE static void put_scales(std::int8_t (*to)[16], __m512i low, const std::uint8_t* high) {
    const __m512i right = _mm512_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6);
    const __m512i h = _mm512_srlv_epi32(_mm512_broadcast_i32x4(load16(high)), right);
    const __m512i top = _mm512_and_si512(_mm512_slli_epi16(h, 4), _mm512_set1_epi8(0x30));
    _mm512_store_si512(to, _mm512_sub_epi8(_mm512_or_si512(low, top), _mm512_set1_epi8(32)));
  }
  KT_INLINE static void scales(const Tile&, const Unit& u, int b, __m512& scale, __m512& offset) {
    scale = _mm512_mul_ps(u.d, load_i8(u.scale[b]));
    offset = times(scale, -128.0f);
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    return iq4_values(nibbles(t.block[b].q, pass, g));
  }
};

}  // namespace
}  // namespace kt::kernels::dot
