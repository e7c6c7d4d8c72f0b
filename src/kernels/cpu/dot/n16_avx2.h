// AVX2 micro-kernels over kN16 tiles; included by dot_<weight>_avx2.cc only, everything here is
// internal to that object.
//
// run<W, kWide>: activations of int8, or int16 (kWide). W describes a format: its tile, how to
// expand one group of codes (32 bytes = 8 rows x 4 k) and its scales. Products are exact integers
// per block of 32 (or 16, where scales change); then, in k order,
//   acc = fma(float(sum), scale * a_scale, acc);  acc = fma(offset, a_sum, acc)
// Int8 products are maddubs with the sign of a weight moved to the activation, widened before they
// overflow. Int16 products are madd on codes widened to int16, which cannot overflow; they cost as
// much as two int8 terms where codes need no sign, less where they do.
// Each output sees the same operations in the same order whatever m is: from kBatchMin rows on the
// codes are expanded once into L1 (Bytes, Words), below they are expanded in registers.
#pragma once
#include <immintrin.h>

#include "kernels/cpu/dot/dot.h"
#include "kernels/cpu/dot/n16.h"

#define KT_INLINE [[gnu::always_inline]] inline

namespace kt::kernels::dot {
namespace {

/// How many maddubs results fit in int16 before widening: one, those of 8, 16 or 32 k.
enum class Widen { kGroup, kPair, kHalf, kBlock };

/// Defaults of a format description.
struct WeightBase {
  static constexpr int kBlocks = 1;       // blocks of 32 per tile unit
  static constexpr bool kSigned = false;  // codes() gives the signed weight, not an unsigned code
  static constexpr bool kOffset = false;  // scales() sets offset
  static constexpr bool kSubScales = false;   // sub_scale() gives integer scales of each 16 k
  static constexpr bool kSubMins = false;     // sub_mins() gives integer minima of each 16 k
  static constexpr bool kHalfScales = false;  // half_scale() gives float scales of each 16 k
  static constexpr bool kNibbles = false;     // codes() are the nibbles of lines()
  static constexpr Widen kWiden = Widen::kHalf;
  static constexpr bool kWords = false;  // codes lie as int16 (Words)
};

struct Pair {  // rows 0..7 and 8..15
  __m256 v[2];
};

/// Keeps additions in program order: GCC would gather products first and add them in a tree, which
/// needs more registers than there are.
KT_INLINE void keep(__m256i& v) { asm("" : "+x"(v)); }

KT_INLINE __m256i load32(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}

KT_INLINE Pair load_fp16(const std::uint16_t* p) {
  const __m256i h = load32(p);
  return {_mm256_cvtph_ps(_mm256_castsi256_si128(h)),
          _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1))};
}

KT_INLINE Pair load_u8(const std::uint8_t* p) {
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(b)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(b, 8)))};
}

KT_INLINE Pair load_i8(const std::int8_t* p) {
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(b)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(b, 8)))};
}

KT_INLINE Pair multiply(const Pair& a, const Pair& b) {
  return {_mm256_mul_ps(a.v[0], b.v[0]), _mm256_mul_ps(a.v[1], b.v[1])};
}

KT_INLINE Pair times(const Pair& a, float s) {
  const __m256 f = _mm256_set1_ps(s);
  return {_mm256_mul_ps(a.v[0], f), _mm256_mul_ps(a.v[1], f)};
}

/// Nibbles of line g, half h: k group g (pass 0) or g + 4 (pass 1).
KT_INLINE __m256i nibbles(const std::uint8_t (*q)[64], int pass, int g, int h) {
  __m256i v = load32(q[g] + 32 * h);
  if (pass == 1) v = _mm256_srli_epi16(v, 4);
  return _mm256_and_si256(v, _mm256_set1_epi8(15));
}

/// Bit `group` of every byte, moved to bit `to`.
KT_INLINE __m256i mask_bits(const std::uint8_t* q1, int group, int to, int h) {
  __m256i v = load32(q1 + 32 * h);
  v = group < to ? _mm256_slli_epi16(v, to - group) : _mm256_srli_epi16(v, group - to);
  return _mm256_and_si256(v, _mm256_set1_epi8(static_cast<char>(1 << to)));
}

/// Bits 2 g, 2 g + 1 of plane `pass`, moved to bits to, to + 1.
KT_INLINE __m256i pair_bits(const std::uint8_t (*q2)[64], int pass, int g, int to, int h) {
  __m256i v = load32(q2[pass] + 32 * h);
  v = 2 * g < to ? _mm256_slli_epi16(v, to - 2 * g) : _mm256_srli_epi16(v, 2 * g - to);
  return _mm256_and_si256(v, _mm256_set1_epi8(static_cast<char>(3 << to)));
}

/// Codebook values of IQ4_NL and IQ4_XS.
KT_INLINE __m256i iq4_values(__m256i code) {
  const __m128i values =
      _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
  return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), code);
}

/// 8 bytes as int32 lanes.
KT_INLINE __m256i widen_i8(const void* p) {
  return _mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
}

/// Low int16 of each int32 lane copied to the high one: factors for madd over the two pairs of a
/// row.
KT_INLINE __m256i both_halves(__m256i v) {
  const __m256i low_twice = _mm256_setr_epi8(0, 1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13, 0,
                                             1, 0, 1, 4, 5, 4, 5, 8, 9, 8, 9, 12, 13, 12, 13);
  return _mm256_shuffle_epi8(v, low_twice);
}

KT_INLINE __m256i broadcast4(const std::int8_t* a) {
  std::int32_t v;
  __builtin_memcpy(&v, a, 4);
  return _mm256_set1_epi32(v);
}

/// Sums of a[0..15] (low int16) and a[16..31] (high int16) in every lane.
KT_INLINE __m256i half_sums(const std::int8_t* a) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), load32(a));
  const __m256i fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  __m256i s = _mm256_hadd_epi32(fours, fours);
  s = _mm256_hadd_epi32(s, s);
  const std::uint32_t low = static_cast<std::uint32_t>(_mm256_extract_epi32(s, 0));
  const std::uint32_t high = static_cast<std::uint32_t>(_mm256_extract_epi32(s, 4));
  return _mm256_set1_epi32(static_cast<int>((low & 0xffffu) | (high << 16)));
}

/// scale times the sums of the int16 a[0..15] and a[16..31], each in every lane.
KT_INLINE void half_sums(const std::int16_t* a, __m256 scale, __m256 (&sum)[2]) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i s = _mm256_hadd_epi32(_mm256_madd_epi16(load32(a), ones),
                                _mm256_madd_epi16(load32(a + 16), ones));
  s = _mm256_hadd_epi32(s, s);
  s = _mm256_add_epi32(s, _mm256_permute2x128_si256(s, s, 1));  // first, second, first, second
  const __m256 both = _mm256_mul_ps(_mm256_cvtepi32_ps(s), scale);
  sum[0] = _mm256_moveldup_ps(both);
  sum[1] = _mm256_movehdup_ps(both);
}

/// Writes 16 lanes, or the first n of them.
KT_INLINE void store_rows(float* out, __m256 low, __m256 high, std::int64_t n) {
  if (n >= kN16Rows) {
    _mm256_storeu_ps(out, low);
    _mm256_storeu_ps(out + 8, high);
    return;
  }
  float lanes[16];
  _mm256_storeu_ps(lanes, low);
  _mm256_storeu_ps(lanes + 8, high);
  for (std::int64_t j = 0; j < n; ++j) out[j] = lanes[j];
}

/// Of the activations: q, or wide with each 4 k in the order 0, 2, 1, 3.
template <int kM>
struct Rows {
  const std::int8_t* q[kM];
  const std::int16_t* wide[kM];
  const float* scale[kM];
  const float* sum[kM];
};

/// Integer products of one block of 32 k: sum[i][h], lane = weight row.
template <class W, int kM>
KT_INLINE void dot_block(const typename W::Tile& tile, const typename W::Unit& unit, int b,
                         const Rows<kM>& act, std::int64_t k0, __m256i (&sum)[kM][2],
                         __m256i (&second)[kM][2]) {
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i acc[kM][2];
#pragma GCC unroll 2
  for (int pass = 0; pass < 2; ++pass) {
    __m256i factor[2] = {ones, ones};
    if constexpr (W::kSubScales) {
      factor[0] = W::sub_scale(tile, unit, b, pass, 0);
      factor[1] = W::sub_scale(tile, unit, b, pass, 1);
    }
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      __m256i w[2], magnitude[2];
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        w[h] = W::codes(tile, b, pass, g, h);
        magnitude[h] = W::kSigned ? _mm256_abs_epi8(w[h]) : w[h];
      }
#pragma GCC unroll 4
      for (int i = 0; i < kM; ++i) {
        const __m256i a = broadcast4(act.q[i] + k0 + 16 * pass + 4 * g);
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          const __m256i signed_a = W::kSigned ? _mm256_sign_epi8(a, w[h]) : a;
          const __m256i p = _mm256_maddubs_epi16(magnitude[h], signed_a);
          if (W::kWiden == Widen::kPair && g % 2 == 0) {
            acc[i][h] = p;
          } else if (W::kWiden == Widen::kGroup || W::kWiden == Widen::kPair) {
            const __m256i pair = W::kWiden == Widen::kPair ? _mm256_add_epi16(acc[i][h], p) : p;
            const __m256i wide = _mm256_madd_epi16(pair, factor[h]);
            const bool first = pass == 0 && g < 2 && (W::kWiden == Widen::kPair || g == 0);
            sum[i][h] = first ? wide : _mm256_add_epi32(sum[i][h], wide);
            keep(sum[i][h]);
          } else {
            const bool first = g == 0 && (pass == 0 || W::kWiden == Widen::kHalf);
            acc[i][h] = first ? p : _mm256_add_epi16(acc[i][h], p);
            keep(acc[i][h]);
          }
        }
      }
    }
    if (W::kWiden == Widen::kGroup || W::kWiden == Widen::kPair) continue;
    if (W::kWiden == Widen::kBlock && pass == 0) continue;
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
#pragma GCC unroll 4
      for (int i = 0; i < kM; ++i) {
        const __m256i wide = _mm256_madd_epi16(acc[i][h], factor[h]);
        const bool first = pass == 0 || W::kWiden == Widen::kBlock;
        if (W::kHalfScales && pass == 1) {
          second[i][h] = wide;
          continue;
        }
        sum[i][h] = first ? wide : _mm256_add_epi32(sum[i][h], wide);
      }
    }
  }
}

/// Codes of 8 rows as int16: k 4 g + 0, 2 of each row (odd 0) or 4 g + 1, 3 (odd 1).
template <class W>
KT_INLINE __m256i words(const typename W::Tile& tile, int b, int pass, int g, int odd, int h) {
  if constexpr (W::kWords) {
    return W::words(tile, pass, g, odd, h);
  } else if constexpr (W::kNibbles) {
    const __m256i v = _mm256_srli_epi16(load32(W::lines(tile, b)[g] + 32 * h), 4 * pass + 8 * odd);
    return pass + odd == 2 ? v : _mm256_and_si256(v, _mm256_set1_epi16(15));
  } else {
    const __m256i c = W::codes(tile, b, pass, g, h);
    if (W::kSigned) return _mm256_srai_epi16(odd == 1 ? c : _mm256_slli_epi16(c, 8), 8);
    return odd == 1 ? _mm256_srli_epi16(c, 8) : _mm256_and_si256(c, _mm256_set1_epi16(255));
  }
}

/// Integer products of one block with int16 activations: of all 32 k into sum, or with kHalves of
/// the second 16 k into second.
template <class W, bool kHalves, int kM>
KT_INLINE void dot_wide(const typename W::Tile& tile, int b, const Rows<kM>& act, std::int64_t k0,
                        __m256i (&sum)[kM][2], __m256i (&second)[kM][2]) {
#pragma GCC unroll 2
  for (int pass = 0; pass < 2; ++pass) {
    auto& to = kHalves && pass == 1 ? second : sum;
#pragma GCC unroll 8
    for (int p = 0; p < 8; ++p) {
      const int g = p / 2, odd = p % 2;
      const __m256i w[2] = {words<W>(tile, b, pass, g, odd, 0), words<W>(tile, b, pass, g, odd, 1)};
#pragma GCC unroll 4
      for (int i = 0; i < kM; ++i) {
        std::int32_t v;
        __builtin_memcpy(&v, act.wide[i] + k0 + 16 * pass + 2 * p, 4);
        const __m256i a = _mm256_set1_epi32(v);
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          const __m256i product = _mm256_madd_epi16(w[h], a);
          const bool first = p == 0 && (kHalves || pass == 0);
          to[i][h] = first ? product : _mm256_add_epi32(to[i][h], product);
          keep(to[i][h]);
        }
      }
    }
  }
}

/// Float scale of k 16 pass .. 16 pass + 15 of a block.
template <class W>
KT_INLINE Pair half_scale(const typename W::Tile& tile, const typename W::Unit& unit, int b,
                          int pass) {
  if constexpr (W::kHalfScales) {
    return W::half_scale(tile, b, pass);
  } else {
    Pair scale, offset;
    W::scales(tile, unit, b, scale, offset);
    const auto factor = [&](int h) {  // from the high half of each lane
      return _mm256_cvtepi32_ps(_mm256_srai_epi32(W::sub_scale(tile, unit, b, pass, h), 16));
    };
    return multiply(scale, {factor(0), factor(1)});
  }
}

/// Float offset of the same, where minima are integers.
template <class W>
KT_INLINE Pair half_offset(const typename W::Tile& tile, const typename W::Unit& unit, int b,
                           int pass) {
  if constexpr (W::kWords) {
    return W::half_offset(tile, pass);
  } else {
    Pair scale, offset;
    W::scales(tile, unit, b, scale, offset);
    const auto min = [&](int h) {
      const __m256i v = W::sub_mins(tile, b, h);
      return _mm256_cvtepi32_ps(pass == 0 ? _mm256_and_si256(v, _mm256_set1_epi32(0xffff))
                                          : _mm256_srli_epi32(v, 16));
    };
    return multiply(offset, {min(0), min(1)});
  }
}

/// n_units tile units times kM rows, into acc.
template <class W, bool kWide, int kM>
KT_INLINE void add_units(const typename W::Tile* tile, std::int64_t n_units, const Rows<kM>& act,
                         __m256 (&acc)[kM][2]) {
  // Int8 sums of 16 k are multiplied by integer scales and added, int16 ones would overflow.
  constexpr bool kHalves = W::kHalfScales || (kWide && W::kSubScales);
  constexpr bool kHalfOffsets = kWide && W::kSubMins;
  std::int64_t block = 0;
  for (std::int64_t u = 0; u < n_units; ++u, ++tile) {
    const typename W::Unit unit = W::unit(*tile);
    for (int b = 0; b < W::kBlocks; ++b, ++block) {
      __m256i sum[kM][2], second[kM][2];
      if constexpr (kWide || W::kWords) {
        dot_wide<W, kHalves, kM>(*tile, b, act, 32 * block, sum, second);
      } else {
        dot_block<W, kM>(*tile, unit, b, act, 32 * block, sum, second);
      }
      Pair scale[2], offset, half_offsets[2];
      if constexpr (kHalves) {
        scale[0] = half_scale<W>(*tile, unit, b, 0);
        scale[1] = half_scale<W>(*tile, unit, b, 1);
      } else {
        W::scales(*tile, unit, b, scale[0], offset);
      }
      if constexpr (kHalfOffsets) {
        half_offsets[0] = half_offset<W>(*tile, unit, b, 0);
        half_offsets[1] = half_offset<W>(*tile, unit, b, 1);
      }
#pragma GCC unroll 4
      for (int i = 0; i < kM; ++i) {
        const __m256 a_scale = _mm256_broadcast_ss(act.scale[i] + block);
        __m256 a_sums[2];
        if constexpr (kHalfOffsets) half_sums(act.wide[i] + 32 * block, a_scale, a_sums);
        if constexpr (W::kOffset) a_sums[0] = _mm256_broadcast_ss(act.sum[i] + block);
        const __m256i sums = W::kSubMins && !kWide ? half_sums(act.q[i] + 32 * block) : __m256i{};
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          __m256 v = acc[i][h];
          v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[i][h]), _mm256_mul_ps(scale[0].v[h], a_scale),
                              v);
          if constexpr (kHalves) {
            v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(second[i][h]),
                                _mm256_mul_ps(scale[1].v[h], a_scale), v);
          }
          if constexpr (W::kOffset) v = _mm256_fmadd_ps(offset.v[h], a_sums[0], v);
          if constexpr (kHalfOffsets) {
            v = _mm256_fmadd_ps(half_offsets[0].v[h], a_sums[0], v);
            v = _mm256_fmadd_ps(half_offsets[1].v[h], a_sums[1], v);
          } else if constexpr (W::kSubMins) {
            const __m256i min = _mm256_madd_epi16(W::sub_mins(*tile, b, h), sums);
            v = _mm256_fmadd_ps(_mm256_cvtepi32_ps(min), _mm256_mul_ps(offset.v[h], a_scale), v);
          }
          acc[i][h] = v;
        }
      }
    }
  }
}

template <class W, bool kWide, int kM>
KT_INLINE Rows<kM> act_rows(const DotArgs& args, std::int64_t row, std::int64_t block) {
  Rows<kM> act;
  for (int i = 0; i < kM; ++i) {
    const std::int64_t at = (row + i) * args.act.block_stride + block;
    const std::int64_t first = (row + i) * args.act.q_stride + 32 * block;
    act.q[i] = kWide ? nullptr : args.act.q + first;
    act.wide[i] = kWide ? args.act.q16 + first : nullptr;
    act.scale[i] = args.act.scale + at;
    act.sum[i] = W::kOffset ? args.act.sum + at : nullptr;
  }
  return act;
}

template <class W, bool kWide, int kM>
[[gnu::noinline]] void panel(const typename W::Tile* tile, std::int64_t n_units,
                             const DotArgs& args, std::int64_t row, std::int64_t col) {
  __m256 acc[kM][2];
  for (int i = 0; i < kM; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
  add_units<W, kWide, kM>(tile, n_units, act_rows<W, kWide, kM>(args, row, 0), acc);
  float* out = args.out + row * args.out_stride + col;
  for (int i = 0; i < kM; ++i) {
    store_rows(out + i * args.out_stride, acc[i][0], acc[i][1], args.n - col);
  }
}

// Batches: the codes of a tile are expanded once, for kChunkBlocks x 32 k, and stay in L1 for all
// activation rows. The operations of each output are those of panel, in the same order.

constexpr int kChunkBlocks = 16;
constexpr std::int64_t kBatchMax = 128;
/// Rows from which on expanding pays.
constexpr std::int64_t kBatchMin = 16;

/// Description of a format whose codes of one block of 32 k lie expanded in memory as bytes.
template <class W>
struct Bytes : W {
  struct Tile {
    alignas(32) std::uint8_t codes[8][64];
    Pair scale;
    Pair offset;
    __m256i sub_scale[2][2];
    __m256i sub_mins[2];
    Pair half_scale[2];
  };
  struct Unit {};
  static constexpr int kBlocks = 1;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, Pair& scale, Pair& offset) {
    scale = t.scale;
    offset = t.offset;
  }
  KT_INLINE static __m256i sub_scale(const Tile& t, const Unit&, int, int pass, int h) {
    return t.sub_scale[pass][h];
  }
  KT_INLINE static __m256i sub_mins(const Tile& t, int, int h) { return t.sub_mins[h]; }
  KT_INLINE static Pair half_scale(const Tile& t, int, int pass) { return t.half_scale[pass]; }
  KT_INLINE static __m256i codes(const Tile& t, int, int pass, int g, int h) {
    return load32(t.codes[4 * pass + g] + 32 * h);
  }
  KT_INLINE static void expand(const typename W::Tile& tile, const typename W::Unit& unit, int b,
                               Tile& out) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
#pragma GCC unroll 8
      for (int g = 0; g < 8; ++g) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(out.codes[g] + 32 * h),
                           W::codes(tile, b, g / 4, g % 4, h));
      }
      if constexpr (W::kSubScales) {
        out.sub_scale[0][h] = W::sub_scale(tile, unit, b, 0, h);
        out.sub_scale[1][h] = W::sub_scale(tile, unit, b, 1, h);
      }
      if constexpr (W::kSubMins) out.sub_mins[h] = W::sub_mins(tile, b, h);
    }
    if constexpr (W::kHalfScales) {
      out.half_scale[0] = W::half_scale(tile, b, 0);
      out.half_scale[1] = W::half_scale(tile, b, 1);
    } else {
      W::scales(tile, unit, b, out.scale, out.offset);
    }
  }
};

/// The same as int16, with scales and offsets as floats.
template <class W>
struct Words : W {
  static constexpr bool kWords = true;
  static constexpr bool kHalfScales = W::kHalfScales || W::kSubScales;
  struct Tile {
    alignas(32) std::int16_t words[16][32];
    Pair scale[kHalfScales ? 2 : 1];
    Pair offset[W::kSubMins ? 2 : 1];
  };
  struct Unit {};
  static constexpr int kBlocks = 1;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, Pair& scale, Pair& offset) {
    scale = t.scale[0];
    offset = t.offset[0];
  }
  KT_INLINE static Pair half_scale(const Tile& t, int, int pass) { return t.scale[pass]; }
  KT_INLINE static Pair half_offset(const Tile& t, int pass) { return t.offset[pass]; }
  KT_INLINE static __m256i words(const Tile& t, int pass, int g, int odd, int h) {
    return load32(t.words[8 * pass + 2 * g + odd] + 16 * h);
  }
  KT_INLINE static void expand(const typename W::Tile& tile, const typename W::Unit& unit, int b,
                               Tile& out) {
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
#pragma GCC unroll 16
      for (int p = 0; p < 16; ++p) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(out.words[p] + 16 * h),
                           kernels::dot::words<W>(tile, b, p / 8, p % 8 / 2, p % 2, h));
      }
    }
    if constexpr (kHalfScales) {
      out.scale[0] = kernels::dot::half_scale<W>(tile, unit, b, 0);
      out.scale[1] = kernels::dot::half_scale<W>(tile, unit, b, 1);
    } else {
      W::scales(tile, unit, b, out.scale[0], out.offset[0]);
    }
    if constexpr (W::kSubMins) {
      out.offset[0] = kernels::dot::half_offset<W>(tile, unit, b, 0);
      out.offset[1] = kernels::dot::half_offset<W>(tile, unit, b, 1);
    }
  }
};

/// Signed codes that int8 products would widen one by one are quicker as int16 there too.
template <class W, bool kWide>
constexpr bool kExpandWords = kWide || (W::kSigned && W::kWiden == Widen::kGroup && !W::kSubScales);

template <class W, class Expanded>
[[gnu::noinline]] void expand_blocks(const typename W::Tile* tile, std::int64_t n_units,
                                     typename Expanded::Tile* out) {
  for (std::int64_t u = 0; u < n_units; ++u, ++tile) {
    const typename W::Unit unit = W::unit(*tile);
    for (int b = 0; b < W::kBlocks; ++b, ++out) Expanded::expand(*tile, unit, b, *out);
  }
}

/// int8 → int16, each 4 in the order 0, 2, 1, 3.
KT_INLINE void widen_row(const std::int8_t* q, std::int64_t n, std::int16_t* out) {
  const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
  for (std::int64_t k = 0; k < n; k += 16) {
    const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q + k));
    _mm256_store_si256(reinterpret_cast<__m256i*>(out + k),
                       _mm256_cvtepi8_epi16(_mm_shuffle_epi8(v, order)));
  }
}

/// kM rows over a chunk of blocks from `block` on; acc: [kM][16].
template <class W, bool kWide, class Expanded, int kM>
[[gnu::noinline]] void batch_panel(const typename Expanded::Tile* blocks, std::int64_t n_blocks,
                                   const DotArgs& args, std::int64_t row, std::int64_t block,
                                   float* acc) {
  __m256 v[kM][2];
  for (int i = 0; i < kM; ++i) {
    v[i][0] = _mm256_loadu_ps(acc + 16 * i);
    v[i][1] = _mm256_loadu_ps(acc + 16 * i + 8);
  }
  Rows<kM> act = act_rows<W, kWide, kM>(args, row, block);
  constexpr bool kWidened = Expanded::kWords && !kWide;
  alignas(32) std::int16_t wide[kM][kWidened ? kChunkBlocks * 32 : 1];
  if constexpr (kWidened) {
    for (int i = 0; i < kM; ++i) {
      widen_row(act.q[i], 32 * n_blocks, wide[i]);
      act.wide[i] = wide[i];
    }
  }
  add_units<Expanded, kWide, kM>(blocks, n_blocks, act, v);
  for (int i = 0; i < kM; ++i) {
    _mm256_storeu_ps(acc + 16 * i, v[i][0]);
    _mm256_storeu_ps(acc + 16 * i + 8, v[i][1]);
  }
}

/// n_rows rows from `row` on, at most kBatchMax, and one tile.
template <class W, bool kWide>
KT_INLINE void batch(const DotArgs& args, const typename W::Tile* tile, std::int64_t row,
                     std::int64_t n_rows, std::int64_t col) {
  using Expanded = std::conditional_t<kExpandWords<W, kWide>, Words<W>, Bytes<W>>;
  typename Expanded::Tile blocks[kChunkBlocks];
  alignas(32) float acc[kBatchMax * 16];
  for (std::int64_t i = 0; i < n_rows * 16; ++i) acc[i] = 0.0f;
  const std::int64_t n_blocks = args.k / 32;
  for (std::int64_t block = 0; block < n_blocks; block += kChunkBlocks) {
    const std::int64_t count = n_blocks - block < kChunkBlocks ? n_blocks - block : kChunkBlocks;
    expand_blocks<W, Expanded>(tile + block / W::kBlocks, count / W::kBlocks, blocks);
    std::int64_t i = 0;
    // Panels of 3 until the rest divides by 4.
    for (; (n_rows - i) % 4 != 0; i += 3)
      batch_panel<W, kWide, Expanded, 3>(blocks, count, args, row + i, block, acc + 16 * i);
    for (; i < n_rows; i += 4)
      batch_panel<W, kWide, Expanded, 4>(blocks, count, args, row + i, block, acc + 16 * i);
  }
  for (std::int64_t i = 0; i < n_rows; ++i) {
    store_rows(args.out + (row + i) * args.out_stride + col, _mm256_loadu_ps(acc + 16 * i),
               _mm256_loadu_ps(acc + 16 * i + 8), args.n - col);
  }
}

/// All m rows on one weight tile before the next, so that the tile is read from cache after the
/// first.
template <class W, bool kWide>
KT_INLINE void run(const DotArgs& args) {
  const auto* tile = reinterpret_cast<const typename W::Tile*>(args.weights);
  const std::int64_t n_units = args.k / (32 * W::kBlocks);
  for (std::int64_t col = 0; col < args.n; col += kN16Rows, tile += n_units) {
    if (args.m >= kBatchMin) {
      const std::int64_t n_batches = (args.m + kBatchMax - 1) / kBatchMax;
      for (std::int64_t i = 0; i < n_batches; ++i) {
        const std::int64_t begin = args.m * i / n_batches;
        batch<W, kWide>(args, tile, begin, args.m * (i + 1) / n_batches - begin, col);
      }
      continue;
    }
    std::int64_t row = 0;
    for (; row + 4 <= args.m; row += 4) panel<W, kWide, 4>(tile, n_units, args, row, col);
    if (row + 2 <= args.m) {
      panel<W, kWide, 2>(tile, n_units, args, row, col);
      row += 2;
    }
    if (row < args.m) panel<W, kWide, 1>(tile, n_units, args, row, col);
  }
}

}  // namespace
}  // namespace kt::kernels::dot

/// The rows of one weight format.
#define KT_ROWS(weight, id)                                                                   \
  void dot_f32_q8_##id##_n16_avx2(const DotArgs& args) noexcept;                              \
  void dot_f32_q8_##id##_n16_avx2(const DotArgs& args) noexcept { run<weight, false>(args); } \
  void dot_f32_q16_##id##_n16_avx2(const DotArgs& args) noexcept;                             \
  void dot_f32_q16_##id##_n16_avx2(const DotArgs& args) noexcept { run<weight, true>(args); }
