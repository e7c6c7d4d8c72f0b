// Descriptions (n16_avx2.h) of the codebook formats below 4 bits. Entries are scalar loads, two
// lines of 8 k at a time.
#pragma once
#include "kernels/cpu/dot/iq_entries.h"
#include "kernels/cpu/dot/n16_avx2.h"

namespace kt::kernels::dot {
namespace {

/// Line `odd`, half h of the two that the 8-byte entries of 16 rows make.
template <class Entry>
KT_INLINE __m256i line_of_eights(int odd, int h, const Entry& entry) {
  const auto four = [&](int r) {  // rows r, r + 1 and r + 4, r + 5
    return _mm256_castsi256_ps(_mm256_setr_epi64x(
        static_cast<long long>(entry(r)), static_cast<long long>(entry(r + 1)),
        static_cast<long long>(entry(r + 4)), static_cast<long long>(entry(r + 5))));
  };
  const __m256 a = four(8 * h), b = four(8 * h + 2);
  return _mm256_castps_si256(odd == 0 ? _mm256_shuffle_ps(a, b, 0x88)
                                      : _mm256_shuffle_ps(a, b, 0xdd));
}

/// Half h of the line that the 4-byte entries of 16 rows make.
template <class Entry>
KT_INLINE __m256i line_of_fours(int h, const Entry& entry) {
  const auto at = [&](int r) { return static_cast<int>(entry(8 * h + r)); };
  return _mm256_setr_epi32(at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7));
}

/// 7 sign bits a byte to 8: the eighth makes their number even.
KT_INLINE __m256i complete_signs(__m256i seven) {
  const __m128i high =
      _mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0);
  const __m256i v = _mm256_and_si256(seven, _mm256_set1_epi8(127));
  const __m256i upper = _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15));
  const __m256i parity =
      _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(high), _mm256_xor_si256(v, upper));
  return _mm256_or_si256(v, parity);
}

/// Signed values of entries with the signs of line `line` (0..7) of a block. signs: byte 4 r + g.
KT_INLINE __m256i flip(__m256i entries, __m256i signs, int line) {
  const __m256i group = _mm256_set1_epi32(0x01010101 * (line / 2));
  const __m256i row = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12));
  const __m256i mine = _mm256_shuffle_epi8(signs, _mm256_add_epi8(row, group));
  const __m256i bits =
      _mm256_set1_epi32(line % 2 == 0 ? 0x08040201 : static_cast<int>(0x80402010u));
  const __m256i negative = _mm256_cmpeq_epi8(_mm256_and_si256(mine, bits), bits);
  return _mm256_sign_epi8(_mm256_sub_epi8(entries, _mm256_set1_epi8(kIqBias)),
                          _mm256_or_si256(negative, _mm256_set1_epi8(1)));
}

/// 2 s + 1, in both halves of a lane.
KT_INLINE __m256i odd_scale(__m256i s) {
  return both_halves(_mm256_or_si256(_mm256_slli_epi32(s, 1), _mm256_set1_epi32(1)));
}

/// The scales that the high bits of sign bytes hold.
KT_INLINE __m256i scale_of_signs(const std::uint8_t* s) {
  const __m256i bits =
      _mm256_and_si256(load32(s), _mm256_set1_epi32(static_cast<int>(0x80808080u)));
  return odd_scale(_mm256_srli_epi32(_mm256_mullo_epi32(bits, _mm256_set1_epi32(0x00204081)), 28));
}

KT_INLINE __m256i scale_of_nibble(const std::uint8_t* p, int high) {
  const __m256i v = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return odd_scale(
      _mm256_and_si256(_mm256_srlv_epi32(v, _mm256_set1_epi32(4 * high)), _mm256_set1_epi32(15)));
}

/// Words of rows 8 h .. 8 h + 7 shifted right, as bytes 4 r + g.
template <int kShift>
KT_INLINE __m256i words_to_signs(const std::uint16_t (*c)[4], int h) {
  return _mm256_packus_epi16(_mm256_srli_epi16(load32(c[4 * h]), kShift),
                             _mm256_srli_epi16(load32(c[8 + 4 * h]), kShift));
}

/// What the codebook formats share: weight = scale * (2 s + 1) * code.
template <class TileType>
struct IqBase : WeightBase {
  using Tile = TileType;
  struct Unit {
    Pair d;
  };
  static constexpr int kBlocks = 8;
  static constexpr bool kSigned = true;
  static constexpr bool kSubScales = true;
  static constexpr Widen kWiden = Widen::kPair;
  KT_INLINE static void scales(const Tile&, const Unit& u, int, Pair& scale, Pair&) { scale = u.d; }
};

/// Signed values of IQ1 entries: an eighth added, or taken away where bit `bit` of the row's word
/// is set.
KT_INLINE __m256i add_delta(__m256i entries, const std::uint16_t* h, int bit) {
  const __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(h)));
  // All ones where the bit is set.
  const __m256i negative = _mm256_srai_epi32(_mm256_sllv_epi32(v, _mm256_set1_epi32(31 - bit)), 31);
  const __m256i delta = _mm256_or_si256(negative, _mm256_set1_epi8(1));
  return _mm256_add_epi8(_mm256_sub_epi8(entries, _mm256_set1_epi8(kIqBias)), delta);
}

struct IQ1_S : IqBase<TileIQ1_S> {
  static constexpr Widen kWiden = Widen::kHalf;
  KT_INLINE static Unit unit(const Tile& t) { return {times(load_fp16(t.d), 0.125f)}; }
  KT_INLINE static __m256i sub_scale(const Tile& t, const Unit&, int b, int, int h) {
    const __m256i v = _mm256_cvtepu16_epi32(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(t.block[b].h + 8 * h)));
    return odd_scale(_mm256_and_si256(_mm256_srli_epi32(v, 12), _mm256_set1_epi32(7)));
  }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    const Tile::Block& block = t.block[b];
    const int group = (4 * pass + g) / 2;
    const __m256i e = line_of_eights(g % 2, h, [&](int r) {
      return kIq1Entries.v[block.c[r][group] | ((block.h[r] >> (3 * group)) & 7) << 8];
    });
    return add_delta(e, block.h + 8 * h, 15);
  }
};
struct IQ1_M : IqBase<TileIQ1_M> {
  static constexpr Widen kWiden = Widen::kHalf;
  KT_INLINE static Unit unit(const Tile& t) {
    __m256i bits = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int b = 0; b < 8; ++b) {
      const __m256i v =
          _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(t.block[b].scale)));
      bits = _mm256_or_si256(bits, _mm256_slli_epi16(_mm256_srli_epi16(v, 6), 2 * b));
    }
    return {times({_mm256_cvtph_ps(_mm256_castsi256_si128(bits)),
                   _mm256_cvtph_ps(_mm256_extracti128_si256(bits, 1))},
                  0.125f)};
  }
  KT_INLINE static __m256i sub_scale(const Tile& t, const Unit&, int b, int pass, int h) {
    const __m256i v = _mm256_cvtepu8_epi32(
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(t.block[b].scale + 8 * h)));
    const __m256i s = pass == 0 ? v : _mm256_srli_epi32(v, 3);
    return odd_scale(_mm256_and_si256(s, _mm256_set1_epi32(7)));
  }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    const Tile::Block& block = t.block[b];
    const int group = (4 * pass + g) / 2;
    const __m256i e = line_of_eights(g % 2, h, [&](int r) {
      return kIq1Entries.v[block.c[r][group] | ((block.h[r] >> (4 * group)) & 7) << 8];
    });
    return add_delta(e, block.h + 8 * h, 4 * group + 3);
  }
};

struct IQ2_XXS : IqBase<TileIQ2_XXS> {
  KT_INLINE static Unit unit(const Tile& t) { return {times(load_fp16(t.d), 0.125f)}; }
  KT_INLINE static __m256i sub_scale(const Tile& t, const Unit&, int b, int, int h) {
    return scale_of_signs(t.block[b].s + 32 * h);
  }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    const Tile::Block& block = t.block[b];
    const int line = 4 * pass + g;
    const __m256i e =
        line_of_eights(g % 2, h, [&](int r) { return kIq2XxsEntries.v[block.c[r][line / 2]]; });
    return flip(e, complete_signs(load32(block.s + 32 * h)), line);
  }
};
struct IQ2_XS : IqBase<TileIQ2_XS> {
  KT_INLINE static Unit unit(const Tile& t) { return {times(load_fp16(t.d), 0.125f)}; }
  KT_INLINE static __m256i sub_scale(const Tile& t, const Unit&, int b, int pass, int h) {
    return scale_of_nibble(t.block[b].scale + 8 * h, pass);
  }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    const Tile::Block& block = t.block[b];
    const int line = 4 * pass + g;
    const __m256i e = line_of_eights(
        g % 2, h, [&](int r) { return kIq2XsEntries.v[block.c[iq_row(r)][line / 2] & 511]; });
    return flip(e, complete_signs(words_to_signs<9>(block.c, h)), line);
  }
};
struct IQ2_S : IqBase<TileIQ2_S> {
  KT_INLINE static Unit unit(const Tile& t) { return {times(load_fp16(t.d), 0.125f)}; }
  KT_INLINE static __m256i sub_scale(const Tile& t, const Unit&, int b, int pass, int h) {
    return scale_of_nibble(t.block[b].scale + 8 * h, pass);
  }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    const Tile::Block& block = t.block[b];
    const int line = 4 * pass + g;
    const __m256i e = line_of_eights(
        g % 2, h, [&](int r) { return kIq2SEntries.v[block.c[iq_row(r)][line / 2] & 1023]; });
    // Bits 2 g, 2 g + 1 of the row's byte to bits 6 and 7 of byte g.
    const __m256i bytes =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(block.s + 8 * h)));
    const __m256i nibbles = _mm256_and_si256(_mm256_or_si256(bytes, _mm256_slli_epi32(bytes, 12)),
                                             _mm256_set1_epi32(0x000f000f));
    const __m256i high = _mm256_and_si256(
        _mm256_or_si256(_mm256_slli_epi32(nibbles, 6), _mm256_slli_epi32(nibbles, 12)),
        _mm256_set1_epi8(static_cast<char>(0xc0)));
    return flip(e, _mm256_or_si256(words_to_signs<10>(block.c, h), high), line);
  }
};
struct IQ3_XXS : IqBase<TileIQ3_XXS> {
  KT_INLINE static Unit unit(const Tile& t) { return {times(load_fp16(t.d), 0.25f)}; }
  KT_INLINE static __m256i sub_scale(const Tile& t, const Unit&, int b, int, int h) {
    return scale_of_signs(t.block[b].s + 32 * h);
  }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    const Tile::Block& block = t.block[b];
    const int line = 4 * pass + g;
    const __m256i e = line_of_fours(h, [&](int r) { return kIq3XxsEntries.v[block.c[r][line]]; });
    return flip(e, complete_signs(load32(block.s + 32 * h)), line);
  }
};
struct IQ3_S : IqBase<TileIQ3_S> {
  static constexpr Widen kWiden = Widen::kHalf;
  KT_INLINE static Unit unit(const Tile& t) { return {load_fp16(t.d)}; }
  KT_INLINE static __m256i sub_scale(const Tile& t, const Unit&, int b, int, int h) {
    return scale_of_nibble(t.scale[b / 2] + 8 * h, b % 2);
  }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    const Tile::Block& block = t.block[b];
    const int line = 4 * pass + g;
    const __m256i e = line_of_fours(h, [&](int r) {
      std::uint16_t c;
      __builtin_memcpy(&c, &block.c[r][line], 2);
      return kIq3SEntries.v[(c >> line) & 511];
    });
    return flip(e, load32(block.s + 32 * h), line);
  }
};

}  // namespace
}  // namespace kt::kernels::dot
