// AVX2 micro-kernels over kN16 tiles; included by dot_<weight>_avx2.cc only, everything here is
// internal to that object.
//
// run_q8<W>: int8 activations. W describes a format: its tile, how to expand one group of codes (32
// bytes = 8 rows x 4 k) and its scales. Products are exact integers per block of 32; then, in k
// order,
//   acc = fma(float(sum), scale * a_scale, acc);  acc = fma(offset, a_sum, acc)
// Each output sees the same operations in the same order whatever m is: from kBatchMin
// rows on the codes are expanded once into L1 (Expanded), below they are expanded in registers.
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
  static constexpr Widen kWiden = Widen::kHalf;
  static constexpr bool kWide = false;  // codes lie as int16 pairs (Expanded)
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

template <int kM>
struct Q8Rows {
  const std::int8_t* q[kM];
  const float* scale[kM];
  const float* sum[kM];
  const std::int16_t* wide[kM];  // the values of q, with Expanded descriptions of kWide formats
};

/// Integer products of one block of 32 k: sum[i][h], lane = weight row.
template <class W, int kM>
KT_INLINE void dot_block(const typename W::Tile& tile, const typename W::Unit& unit, int b,
                         const Q8Rows<kM>& act, std::int64_t k0, __m256i (&sum)[kM][2],
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

/// The same for codes and activations as int16, where nothing can overflow.
template <class W, int kM>
KT_INLINE void dot_wide(const typename W::Tile& tile, const Q8Rows<kM>& act, std::int64_t k0,
                        __m256i (&sum)[kM][2]) {
#pragma GCC unroll 4
  for (int i = 0; i < kM; ++i) sum[i][0] = sum[i][1] = _mm256_setzero_si256();
#pragma GCC unroll 16
  for (int p = 0; p < 16; ++p) {
    const __m256i w[2] = {load32(tile.pairs[p]), load32(tile.pairs[p] + 16)};
#pragma GCC unroll 4
    for (int i = 0; i < kM; ++i) {
      std::int32_t v;
      __builtin_memcpy(&v, act.wide[i] + k0 + 2 * p, 4);
      const __m256i a = _mm256_set1_epi32(v);
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        sum[i][h] = _mm256_add_epi32(sum[i][h], _mm256_madd_epi16(w[h], a));
        keep(sum[i][h]);
      }
    }
  }
}

template <class W, int kM>
KT_INLINE void q8_rows(const typename W::Tile* tile, std::int64_t n_units, const Q8Rows<kM>& act,
                       __m256 (&acc)[kM][2]) {
  std::int64_t block = 0;
  for (std::int64_t u = 0; u < n_units; ++u, ++tile) {
    const typename W::Unit unit = W::unit(*tile);
    for (int b = 0; b < W::kBlocks; ++b, ++block) {
      __m256i sum[kM][2], second[kM][2];
      if constexpr (W::kWide) {
        dot_wide<W, kM>(*tile, act, 32 * block, sum);
      } else {
        dot_block<W, kM>(*tile, unit, b, act, 32 * block, sum, second);
      }
      if constexpr (W::kHalfScales) {
        const Pair scales[2] = {W::half_scale(*tile, b, 0), W::half_scale(*tile, b, 1)};
#pragma GCC unroll 4
        for (int i = 0; i < kM; ++i) {
          const __m256 a_scale = _mm256_broadcast_ss(act.scale[i] + block);
#pragma GCC unroll 2
          for (int h = 0; h < 2; ++h) {
            acc[i][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[i][h]),
                                        _mm256_mul_ps(scales[0].v[h], a_scale), acc[i][h]);
            acc[i][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(second[i][h]),
                                        _mm256_mul_ps(scales[1].v[h], a_scale), acc[i][h]);
          }
        }
        continue;
      }
      Pair scale, offset;
      W::scales(*tile, unit, b, scale, offset);
#pragma GCC unroll 4
      for (int i = 0; i < kM; ++i) {
        const __m256 a_scale = _mm256_broadcast_ss(act.scale[i] + block);
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
          acc[i][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[i][h]),
                                      _mm256_mul_ps(scale.v[h], a_scale), acc[i][h]);
        }
        if constexpr (W::kOffset) {
          const __m256 a_sum = _mm256_broadcast_ss(act.sum[i] + block);
#pragma GCC unroll 2
          for (int h = 0; h < 2; ++h) acc[i][h] = _mm256_fmadd_ps(offset.v[h], a_sum, acc[i][h]);
        }
        if constexpr (W::kSubMins) {
          const __m256i sums = half_sums(act.q[i] + 32 * block);
#pragma GCC unroll 2
          for (int h = 0; h < 2; ++h) {
            const __m256i min = _mm256_madd_epi16(W::sub_mins(*tile, b, h), sums);
            acc[i][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(min),
                                        _mm256_mul_ps(offset.v[h], a_scale), acc[i][h]);
          }
        }
      }
    }
  }
}

template <class W, int kM>
KT_INLINE Q8Rows<kM> q8_act(const DotArgs& args, std::int64_t row, std::int64_t block) {
  Q8Rows<kM> act;
  for (int i = 0; i < kM; ++i) {
    const std::int64_t at = (row + i) * args.act.block_stride + block;
    act.q[i] = args.act.q + (row + i) * args.act.q_stride + 32 * block;
    act.scale[i] = args.act.scale + at;
    act.sum[i] = W::kOffset ? args.act.sum + at : nullptr;
  }
  return act;
}

template <class W, int kM>
[[gnu::noinline]] void q8_panel(const typename W::Tile* tile, std::int64_t n_units,
                                const DotArgs& args, std::int64_t row, std::int64_t col) {
  __m256 acc[kM][2];
  for (int i = 0; i < kM; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
  q8_rows<W, kM>(tile, n_units, q8_act<W, kM>(args, row, 0), acc);
  float* out = args.out + row * args.out_stride + col;
  for (int i = 0; i < kM; ++i) {
    store_rows(out + i * args.out_stride, acc[i][0], acc[i][1], args.n - col);
  }
}

// Batches: the codes of a tile are expanded once, for kChunkBlocks x 32 k, and stay in L1 for all
// activation rows. The operations of each output are those of q8_rows, in the same order.

constexpr int kChunkBlocks = 16;
constexpr std::int64_t kBatchMin = 16;
constexpr std::int64_t kBatchMax = 128;

/// Description of a format whose codes and scales of one block of 32 k lie expanded in memory.
template <class W>
struct Expanded : W {
  // Signed codes that need widening after each product are quicker as int16.
  static constexpr bool kWide = W::kSigned && W::kWiden == Widen::kGroup && !W::kSubScales;
  struct Tile {
    union {
      alignas(32) std::uint8_t codes[8][64];
      alignas(32) std::int16_t pairs[kWide ? 16 : 1][32];  // line p: 16 rows x k 2 p, 2 p + 1
    };
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
};

template <class W>
[[gnu::noinline]] void expand_blocks(const typename W::Tile* tile, std::int64_t n_units,
                                     typename Expanded<W>::Tile* out) {
  for (std::int64_t u = 0; u < n_units; ++u, ++tile) {
    const typename W::Unit unit = W::unit(*tile);
    for (int b = 0; b < W::kBlocks; ++b, ++out) {
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        __m256i line[8];
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g) line[g] = W::codes(*tile, b, g / 4, g % 4, h);
#pragma GCC unroll 8
        for (int g = 0; g < 8; ++g) {
          if constexpr (Expanded<W>::kWide) {
            const __m256i low = _mm256_broadcastsi128_si256(
                _mm_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13));
            const __m256i high = _mm256_broadcastsi128_si256(
                _mm_setr_epi8(-1, 2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15));
            auto* to = reinterpret_cast<__m256i*>(out->pairs[2 * g] + 16 * h);
            _mm256_store_si256(to, _mm256_srai_epi16(_mm256_shuffle_epi8(line[g], low), 8));
            _mm256_store_si256(to + 2, _mm256_srai_epi16(_mm256_shuffle_epi8(line[g], high), 8));
          } else {
            _mm256_store_si256(reinterpret_cast<__m256i*>(out->codes[g] + 32 * h), line[g]);
          }
        }
        if constexpr (W::kSubScales) {
          out->sub_scale[0][h] = W::sub_scale(*tile, unit, b, 0, h);
          out->sub_scale[1][h] = W::sub_scale(*tile, unit, b, 1, h);
        }
        if constexpr (W::kSubMins) out->sub_mins[h] = W::sub_mins(*tile, b, h);
      }
      if constexpr (W::kHalfScales) {
        out->half_scale[0] = W::half_scale(*tile, b, 0);
        out->half_scale[1] = W::half_scale(*tile, b, 1);
      } else {
        W::scales(*tile, unit, b, out->scale, out->offset);
      }
    }
  }
}

/// kM rows over a chunk of blocks from `block` on; acc: [kM][16].
template <class W, int kM>
[[gnu::noinline]] void batch_panel(const typename Expanded<W>::Tile* blocks, std::int64_t n_blocks,
                                   const DotArgs& args, std::int64_t row, std::int64_t block,
                                   float* acc) {
  __m256 v[kM][2];
  for (int i = 0; i < kM; ++i) {
    v[i][0] = _mm256_loadu_ps(acc + 16 * i);
    v[i][1] = _mm256_loadu_ps(acc + 16 * i + 8);
  }
  Q8Rows<kM> act = q8_act<W, kM>(args, row, block);
  alignas(32) std::int16_t wide[kM][Expanded<W>::kWide ? kChunkBlocks * 32 : 1];
  if constexpr (Expanded<W>::kWide) {
    for (int i = 0; i < kM; ++i) {
      act.wide[i] = wide[i];
      for (std::int64_t k = 0; k < 32 * n_blocks; k += 16) {
        const __m128i q = _mm_loadu_si128(reinterpret_cast<const __m128i*>(act.q[i] + k));
        _mm256_store_si256(reinterpret_cast<__m256i*>(wide[i] + k), _mm256_cvtepi8_epi16(q));
      }
    }
  }
  q8_rows<Expanded<W>, kM>(blocks, n_blocks, act, v);
  for (int i = 0; i < kM; ++i) {
    _mm256_storeu_ps(acc + 16 * i, v[i][0]);
    _mm256_storeu_ps(acc + 16 * i + 8, v[i][1]);
  }
}

/// n_rows rows from `row` on, at most kBatchMax, and one tile.
template <class W>
KT_INLINE void batch_q8(const DotArgs& args, const typename W::Tile* tile, std::int64_t row,
                        std::int64_t n_rows, std::int64_t col) {
  typename Expanded<W>::Tile blocks[kChunkBlocks];
  alignas(32) float acc[kBatchMax * 16];
  for (std::int64_t i = 0; i < n_rows * 16; ++i) acc[i] = 0.0f;
  const std::int64_t n_blocks = args.k / 32;
  for (std::int64_t block = 0; block < n_blocks; block += kChunkBlocks) {
    const std::int64_t count = n_blocks - block < kChunkBlocks ? n_blocks - block : kChunkBlocks;
    expand_blocks<W>(tile + block / W::kBlocks, count / W::kBlocks, blocks);
    std::int64_t i = 0;
    // Panels of 3 until the rest divides by 4.
    for (; (n_rows - i) % 4 != 0; i += 3)
      batch_panel<W, 3>(blocks, count, args, row + i, block, acc + 16 * i);
    for (; i < n_rows; i += 4) batch_panel<W, 4>(blocks, count, args, row + i, block, acc + 16 * i);
  }
  for (std::int64_t i = 0; i < n_rows; ++i) {
    store_rows(args.out + (row + i) * args.out_stride + col, _mm256_loadu_ps(acc + 16 * i),
               _mm256_loadu_ps(acc + 16 * i + 8), args.n - col);
  }
}

/// All m rows on one weight tile before the next, so that the tile is read from cache after the
/// first.
template <class W>
KT_INLINE void run_q8(const DotArgs& args) {
  const auto* tile = reinterpret_cast<const typename W::Tile*>(args.weights);
  const std::int64_t n_units = args.k / (32 * W::kBlocks);
  for (std::int64_t col = 0; col < args.n; col += kN16Rows, tile += n_units) {
    if (args.m >= kBatchMin) {
      const std::int64_t n_batches = (args.m + kBatchMax - 1) / kBatchMax;
      for (std::int64_t i = 0; i < n_batches; ++i) {
        const std::int64_t begin = args.m * i / n_batches;
        batch_q8<W>(args, tile, begin, args.m * (i + 1) / n_batches - begin, col);
      }
      continue;
    }
    std::int64_t row = 0;
    for (; row + 4 <= args.m; row += 4) q8_panel<W, 4>(tile, n_units, args, row, col);
    if (row + 2 <= args.m) {
      q8_panel<W, 2>(tile, n_units, args, row, col);
      row += 2;
    }
    if (row < args.m) q8_panel<W, 1>(tile, n_units, args, row, col);
  }
}

}  // namespace
}  // namespace kt::kernels::dot
