// Descriptions (n16_codes_avx512.h) of the codebook formats below 4 bits. Entries are scalar loads,
// two lines of 4 k at a time where they hold 8 k.
#pragma once
#include "kernels/cpu/dot/iq_entries.h"
#include "kernels/cpu/dot/n16_codes_avx512.h"

namespace kt::kernels::dot {
namespace {

KT_INLINE __m512i four_lanes(__m128i a, __m128i b, __m128i c, __m128i d) {
  const __m256i ab = _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
  const __m256i cd = _mm256_inserti128_si256(_mm256_castsi128_si256(c), d, 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(ab), cd, 1);
}

/// Line `odd` of the two that the 8-byte entries of 16 rows make; entry(r) gives that of row r.
template <class Entry>
KT_INLINE __m512i line_of_eights(int odd, const Entry& entry) {
  const auto two = [&](int r) {
    return _mm_set_epi64x(static_cast<long long>(entry(r + 1)), static_cast<long long>(entry(r)));
  };
  const __m512i a = four_lanes(two(0), two(4), two(8), two(12));
  const __m512i b = four_lanes(two(2), two(6), two(10), two(14));
  const __m512 fa = _mm512_castsi512_ps(a), fb = _mm512_castsi512_ps(b);
  return _mm512_castps_si512(odd == 0 ? _mm512_shuffle_ps(fa, fb, 0x88)
                                      : _mm512_shuffle_ps(fa, fb, 0xdd));
}

/// The line that the 4-byte entries of 16 rows make.
template <class Entry>
KT_INLINE __m512i line_of_fours(const Entry& entry) {
  const auto four = [&](int r) {
    return _mm_setr_epi32(static_cast<int>(entry(r)), static_cast<int>(entry(r + 1)),
                          static_cast<int>(entry(r + 2)), static_cast<int>(entry(r + 3)));
  };
  return four_lanes(four(0), four(4), four(8), four(12));
}

/// 7 sign bits a byte to 8: the eighth makes their number even.
KT_INLINE __m512i complete_signs(__m512i seven) {
  const __m128i high =
      _mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0);
  const __m512i v = _mm512_and_si512(seven, _mm512_set1_epi8(127));
  const __m512i upper = _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
  const __m512i parity =
      _mm512_shuffle_epi8(_mm512_broadcast_i32x4(high), _mm512_xor_si512(v, upper));
  return _mm512_or_si512(v, parity);
}

/// Entries with the signs of line `line` (0..7) of a block applied. signs: byte 4 r + g.
KT_INLINE __m512i flip(__m512i entries, __m512i signs, int line) {
  const __m512i group = _mm512_set1_epi32(0x01010101 * (line / 2));
  const __m512i row =
      _mm512_broadcast_i32x4(_mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
  const __m512i mine = _mm512_shuffle_epi8(signs, _mm512_add_epi8(row, group));
  const __m512i bits =
      _mm512_set1_epi32(line % 2 == 0 ? 0x08040201 : static_cast<int>(0x80402010u));
  return _mm512_mask_sub_epi8(entries, _mm512_test_epi8_mask(mine, bits),
                              _mm512_set1_epi8(static_cast<char>(2 * kIqBias)), entries);
}

/// 2 s + 1 of the scales that the high bits of sign bytes hold.
KT_INLINE __m512i scale_of_signs(const std::uint8_t* s) {
  const __m512i bits =
      _mm512_and_si512(load64(s), _mm512_set1_epi32(static_cast<int>(0x80808080u)));
  const __m512i top = _mm512_mullo_epi32(bits, _mm512_set1_epi32(0x00204081));
  return _mm512_or_si512(_mm512_slli_epi32(_mm512_srli_epi32(top, 28), 1), _mm512_set1_epi32(1));
}

/// 2 s + 1 of nibbles.
KT_INLINE __m512i odd_scale(const std::uint8_t* p, int high) {
  __m512i v = _mm512_cvtepu8_epi32(load16(p));
  v = high == 0 ? _mm512_slli_epi32(v, 1) : _mm512_srli_epi32(v, 3);
  return _mm512_or_si512(_mm512_and_si512(v, _mm512_set1_epi32(30)), _mm512_set1_epi32(1));
}

/// What the codebook formats share: weight = scale * (2 s + 1) * (code - kIqBias).
template <class TileType>
struct IqBase : WeightBase {
  using Tile = TileType;
  using Unit = Scale;
  static constexpr int kBlocks = 8;
  static constexpr bool kSubScales = true;
  static constexpr int kBias = kIqBias;
  KT_INLINE static void scales(const Tile&, const Unit& u, int, __m512& scale, __m512&) {
    scale = u.d;
  }
};

/// Adds an eighth, or takes one away where bit `bit` of the row's word is set.
KT_INLINE __m512i add_delta(__m512i entries, const std::uint16_t* h, int bit) {
  const __m512i v = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(h)));
  const __mmask16 negative = _mm512_test_epi32_mask(v, _mm512_set1_epi32(1 << bit));
  return _mm512_add_epi8(entries, _mm512_mask_blend_epi32(negative, _mm512_set1_epi32(0x01010101),
                                                          _mm512_set1_epi32(-1)));
}

struct IQ1_S : IqBase<TileIQ1_S> {
  KT_INLINE static Unit unit(const Tile& t) { return {times(load_fp16(t.d), 0.125f)}; }
  KT_INLINE static __m512i sub_scale(const Tile& t, const Unit&, int b, int) {
    const __m512i v =
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(t.block[b].h)));
    return _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi32(v, 11), _mm512_set1_epi32(14)),
                           _mm512_set1_epi32(1));
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    const Tile::Block& block = t.block[b];
    const int group = (4 * pass + g) / 2;
    const __m512i e = line_of_eights(g % 2, [&](int r) {
      return kIq1Entries.v[block.c[r][group] | ((block.h[r] >> (3 * group)) & 7) << 8];
    });
    return add_delta(e, block.h, 15);
  }
};
struct IQ1_M : IqBase<TileIQ1_M> {
  KT_INLINE static Unit unit(const Tile& t) {
    __m256i bits = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int b = 0; b < 8; ++b) {
      const __m256i v = _mm256_srli_epi16(_mm256_cvtepu8_epi16(load16(t.block[b].scale)), 6);
      bits = _mm256_or_si256(bits, _mm256_slli_epi16(v, 2 * b));
    }
    return {times(_mm512_cvtph_ps(bits), 0.125f)};
  }
  KT_INLINE static __m512i sub_scale(const Tile& t, const Unit&, int b, int pass) {
    const __m512i v = _mm512_cvtepu8_epi32(load16(t.block[b].scale));
    const __m512i s = pass == 0 ? _mm512_slli_epi32(v, 1) : _mm512_srli_epi32(v, 2);
    return _mm512_or_si512(_mm512_and_si512(s, _mm512_set1_epi32(14)), _mm512_set1_epi32(1));
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    const Tile::Block& block = t.block[b];
    const int group = (4 * pass + g) / 2;
    const __m512i e = line_of_eights(g % 2, [&](int r) {
      return kIq1Entries.v[block.c[r][group] | ((block.h[r] >> (4 * group)) & 7) << 8];
    });
    return add_delta(e, block.h, 4 * group + 3);
  }
};

struct IQ2_XXS : IqBase<TileIQ2_XXS> {
  KT_INLINE static Unit unit(const Tile& t) { return {times(load_fp16(t.d), 0.125f)}; }
  KT_INLINE static __m512i sub_scale(const Tile& t, const Unit&, int b, int) {
    return scale_of_signs(t.block[b].s);
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    const Tile::Block& block = t.block[b];
    const int line = 4 * pass + g;
    const __m512i e =
        line_of_eights(g % 2, [&](int r) { return kIq2XxsEntries.v[block.c[r][line / 2]]; });
    return flip(e, complete_signs(load64(block.s)), line);
  }
};
struct IQ2_XS : IqBase<TileIQ2_XS> {
  KT_INLINE static Unit unit(const Tile& t) { return {times(load_fp16(t.d), 0.125f)}; }
  KT_INLINE static __m512i sub_scale(const Tile& t, const Unit&, int b, int pass) {
    return odd_scale(t.block[b].scale, pass);
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    const Tile::Block& block = t.block[b];
    const int line = 4 * pass + g;
    const __m512i e = line_of_eights(
        g % 2, [&](int r) { return kIq2XsEntries.v[block.c[iq_row(r)][line / 2] & 511]; });
    const __m512i signs = _mm512_packus_epi16(_mm512_srli_epi16(load64(block.c[0]), 9),
                                              _mm512_srli_epi16(load64(block.c[8]), 9));
    return flip(e, complete_signs(signs), line);
  }
};
struct IQ2_S : IqBase<TileIQ2_S> {
  KT_INLINE static Unit unit(const Tile& t) { return {times(load_fp16(t.d), 0.125f)}; }
  KT_INLINE static __m512i sub_scale(const Tile& t, const Unit&, int b, int pass) {
    return odd_scale(t.block[b].scale, pass);
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    const Tile::Block& block = t.block[b];
    const int line = 4 * pass + g;
    const __m512i e = line_of_eights(
        g % 2, [&](int r) { return kIq2SEntries.v[block.c[iq_row(r)][line / 2] & 1023]; });
    const __m512i low = _mm512_packus_epi16(_mm512_srli_epi16(load64(block.c[0]), 10),
                                            _mm512_srli_epi16(load64(block.c[8]), 10));
    // Bits 2 g, 2 g + 1 of the row's byte to bits 6 and 7 of byte g.
    const __m512i bytes = _mm512_cvtepu8_epi32(load16(block.s));
    const __m512i nibbles = _mm512_and_si512(_mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12)),
                                             _mm512_set1_epi32(0x000f000f));
    const __m512i high =
        _mm512_or_si512(_mm512_slli_epi32(nibbles, 6), _mm512_slli_epi32(nibbles, 12));
    const __m512i top = _mm512_set1_epi8(static_cast<char>(0xc0));
    return flip(e, _mm512_ternarylogic_epi32(low, high, top, 0xf8), line);
  }
};
struct IQ3_XXS : IqBase<TileIQ3_XXS> {
  KT_INLINE static Unit unit(const Tile& t) { return {times(load_fp16(t.d), 0.25f)}; }
  KT_INLINE static __m512i sub_scale(const Tile& t, const Unit&, int b, int) {
    return scale_of_signs(t.block[b].s);
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    const Tile::Block& block = t.block[b];
    const int line = 4 * pass + g;
    const __m512i e = line_of_fours([&](int r) { return kIq3XxsEntries.v[block.c[r][line]]; });
    return flip(e, complete_signs(load64(block.s)), line);
  }
};
struct IQ3_S : IqBase<TileIQ3_S> {
  KT_INLINE static Unit unit(const Tile& t) { return {load_fp16(t.d)}; }
  KT_INLINE static __m512i sub_scale(const Tile& t, const Unit&, int b, int) {
    const __m512i v = _mm512_cvtepu8_epi32(load16(t.scale[b / 2]));
    const __m512i s = _mm512_srlv_epi32(v, _mm512_set1_epi32(4 * (b % 2)));
    const __m512i nibble = _mm512_and_si512(s, _mm512_set1_epi32(15));
    return _mm512_or_si512(_mm512_slli_epi32(nibble, 1), _mm512_set1_epi32(1));
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    const Tile::Block& block = t.block[b];
    const int line = 4 * pass + g;
    const __m512i e = line_of_fours([&](int r) {
      std::uint16_t c;
      __builtin_memcpy(&c, &block.c[r][line], 2);
      return kIq3SEntries.v[(c >> line) & 511];
    });
    return flip(e, load64(block.s), line);
  }
};

}  // namespace
}  // namespace kt::kernels::dot
