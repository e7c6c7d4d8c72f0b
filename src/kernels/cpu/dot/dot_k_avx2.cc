// AVX2 rows with int8 and int16 activations: super-blocks of 256 (Q2_K … Q6_K, Q8_K, TQ2_0,
// IQ4_XS).
#include "kernels/cpu/dot/n16_avx2.h"

namespace kt::kernels::dot {
namespace {

struct Scale {
  Pair d;
};
struct ScaleMin {
  Pair d;
  Pair minus_min;
};

/// Both numbers of SixBits as bytes, less `minus`.
struct SixBytes {
  alignas(32) std::uint8_t first[8][16];
  alignas(32) std::uint8_t second[8][16];
  KT_INLINE void unpack(const SixBits& from, int minus) {
    const __m256i nibble = _mm256_set1_epi8(15), top = _mm256_set1_epi8(0x30);
    const auto put = [&](std::uint8_t(*to)[16], __m256i l, __m256i h) {
      const __m256i v = _mm256_or_si256(_mm256_and_si256(l, nibble), _mm256_and_si256(h, top));
      _mm256_store_si256(reinterpret_cast<__m256i*>(to),
                         _mm256_sub_epi8(v, _mm256_set1_epi8(static_cast<char>(minus))));
    };
#pragma GCC unroll 2
    for (int j = 0; j < 4; j += 2) {
      const __m256i high = load32(from.high[j]);
      const __m256i low[2] = {load32(from.low[j]), load32(from.low[4 + j])};
      put(first + j, low[0], _mm256_slli_epi16(high, 4));
      put(first + 4 + j, low[1], high);
      put(second + j, _mm256_srli_epi16(low[0], 4), _mm256_slli_epi16(high, 2));
      put(second + 4 + j, _mm256_srli_epi16(low[1], 4), _mm256_srli_epi16(high, 2));
    }
  }
};
struct ScaleMinBytes {
  Pair d;
  Pair minus_min;
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
  KT_INLINE static void scales(const Tile&, const Unit& u, int b, Pair& scale, Pair& offset) {
    scale = multiply(u.d, load_u8(u.bytes.first[b]));
    offset = multiply(u.minus_min, load_u8(u.bytes.second[b]));
  }
};

struct Q4_K : ScaleMinK<TileQ4_K> {
  static constexpr Widen kWiden = Widen::kBlock;
  static constexpr bool kNibbles = true;
  KT_INLINE static const std::uint8_t (*lines(const Tile& t, int b))[64] { return t.block[b].q; }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    return nibbles(t.block[b].q, pass, g, h);
  }
};
struct Q5_K : ScaleMinK<TileQ5_K> {
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    return _mm256_or_si256(nibbles(t.block[b].q, pass, g, h),
                           mask_bits(t.block[b].q1, 4 * pass + g, 4, h));
  }
};
struct Q6_K : WeightBase {
  using Tile = TileQ6_K;
  using Unit = Scale;
  static constexpr int kBlocks = 8;
  static constexpr bool kSigned = true;
  static constexpr bool kSubScales = true;
  KT_INLINE static Unit unit(const Tile& t) { return {load_fp16(t.d)}; }
  KT_INLINE static void scales(const Tile&, const Unit& u, int, Pair& scale, Pair&) { scale = u.d; }
  KT_INLINE static __m256i sub_scale(const Tile& t, const Unit&, int b, int pass, int h) {
    return both_halves(widen_i8(t.block[b].scale[pass] + 8 * h));
  }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    const __m256i q =
        _mm256_or_si256(nibbles(t.block[b].q, pass, g, h), pair_bits(t.block[b].q2, pass, g, 4, h));
    return _mm256_sub_epi8(q, _mm256_set1_epi8(32));
  }
};
struct Q3_K : WeightBase {
  using Tile = TileQ3_K;
  struct Unit {
    Pair d;
    SixBytes bytes;
  };
  static constexpr int kBlocks = 8;
  static constexpr bool kSigned = true;
  static constexpr bool kSubScales = true;
  KT_INLINE static Unit unit(const Tile& t) {
    Unit u;
    u.d = load_fp16(t.d);
    u.bytes.unpack(t.scales, 32);
    return u;
  }
  KT_INLINE static void scales(const Tile&, const Unit& u, int, Pair& scale, Pair&) { scale = u.d; }
  KT_INLINE static __m256i sub_scale(const Tile&, const Unit& u, int b, int pass, int h) {
    const std::uint8_t* bytes = (pass == 0 ? u.bytes.first : u.bytes.second)[b] + 8 * h;
    return both_halves(widen_i8(bytes));
  }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    const __m256i q = _mm256_or_si256(pair_bits(t.block[b].q2, pass, g, 0, h),
                                      mask_bits(t.block[b].q1, 4 * pass + g, 2, h));
    return _mm256_sub_epi8(q, _mm256_set1_epi8(4));
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
  KT_INLINE static void scales(const Tile&, const Unit& u, int, Pair& scale, Pair& offset) {
    scale = u.d;
    offset = u.minus_min;
  }
  KT_INLINE static __m256i scale_min(const Tile& t, int b, int half, int h) {
    return _mm256_cvtepu8_epi32(
        _mm_loadl_epi64(reinterpret_cast<const __m128i*>(t.block[b].scale_min[half] + 8 * h)));
  }
  KT_INLINE static __m256i sub_scale(const Tile& t, const Unit&, int b, int pass, int h) {
    return both_halves(_mm256_and_si256(scale_min(t, b, pass, h), _mm256_set1_epi32(15)));
  }
  KT_INLINE static __m256i sub_mins(const Tile& t, int b, int h) {
    const __m256i first = _mm256_srli_epi32(scale_min(t, b, 0, h), 4);
    const __m256i second = _mm256_srli_epi32(scale_min(t, b, 1, h), 4);
    return _mm256_or_si256(first, _mm256_slli_epi32(second, 16));
  }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    return pair_bits(t.block[b].q2, pass, g, 0, h);
  }
};
struct Q8_K : WeightBase {
  using Tile = TileQ8_K;
  using Unit = Pair;
  static constexpr int kBlocks = 8;
  static constexpr bool kSigned = true;
  static constexpr Widen kWiden = Widen::kGroup;
  KT_INLINE static Unit unit(const Tile& t) {
    return {_mm256_loadu_ps(t.d), _mm256_loadu_ps(t.d + 8)};
  }
  KT_INLINE static void scales(const Tile&, const Unit& d, int, Pair& scale, Pair&) { scale = d; }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    return load32(t.block[b].q[4 * pass + g] + 32 * h);
  }
};
struct TQ2_0 : WeightBase {
  using Tile = TileTQ2_0;
  using Unit = Pair;
  static constexpr int kBlocks = 8;
  static constexpr bool kOffset = true;
  static constexpr Widen kWiden = Widen::kBlock;
  KT_INLINE static Unit unit(const Tile& t) { return load_fp16(t.d); }
  KT_INLINE static void scales(const Tile&, const Unit& d, int, Pair& scale, Pair& offset) {
    scale = d;
    offset = times(d, -1.0f);
  }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    return pair_bits(t.block[b].q2, pass, g, 0, h);
  }
};
struct IQ4_XS : WeightBase {
  using Tile = TileIQ4_XS;
  struct Unit {
    Pair d;
    alignas(32) std::int8_t scale[8][16];
  };
  static constexpr int kBlocks = 8;
  static constexpr bool kSigned = true;
  static constexpr Widen kWiden = Widen::kGroup;
  KT_INLINE static Unit unit(const Tile& t) {
    Unit u;
    u.d = load_fp16(t.d);
    const __m256i nibble = _mm256_set1_epi8(15);
#pragma GCC unroll 2
    for (int j = 0; j < 4; j += 2) {
      const __m256i low = load32(t.low[j]);
      put_scales(u.scale + j, _mm256_and_si256(low, nibble), t.high[0], 2 * j);
      put_scales(u.scale + 4 + j, _mm256_and_si256(_mm256_srli_epi16(low, 4), nibble), t.high[1],
                 2 * j);
    }
    return u;
  }
  // Two blocks, one in each 16-byte lane; the high bits of the first begin at bit `at`.
  KT_INLINE static void put_scales(std::int8_t (*to)[16], __m256i low, const std::uint8_t* high,
                                   int at) {
    const __m256i bytes =
        _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(high)));
    const __m256i right =
        _mm256_add_epi32(_mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2), _mm256_set1_epi32(at));
    const __m256i h = _mm256_slli_epi16(_mm256_srlv_epi32(bytes, right), 4);
    const __m256i top = _mm256_and_si256(h, _mm256_set1_epi8(0x30));
    _mm256_store_si256(reinterpret_cast<__m256i*>(to),
                       _mm256_sub_epi8(_mm256_or_si256(low, top), _mm256_set1_epi8(32)));
  }
  KT_INLINE static void scales(const Tile&, const Unit& u, int b, Pair& scale, Pair&) {
    scale = multiply(u.d, load_i8(u.scale[b]));
  }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    return iq4_values(nibbles(t.block[b].q, pass, g, h));
  }
};

}  // namespace

KT_ROWS(Q2_K, q2_k)
KT_ROWS(Q3_K, q3_k)
KT_ROWS(Q4_K, q4_k)
KT_ROWS(Q5_K, q5_k)
KT_ROWS(Q6_K, q6_k)
KT_ROWS(IQ4_XS, iq4_xs)
KT_ROWS(Q8_K, q8_k)
KT_ROWS(TQ2_0, tq2_0)

}  // namespace kt::kernels::dot
