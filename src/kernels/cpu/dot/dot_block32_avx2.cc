// AVX2 rows with int8 and int16 activations: blocks of 32 (Q4_0 … Q8_1, IQ4_NL, MXFP4), of 64 and
// 128 (NVFP4, Q1_0, the groups I4 of int4 checkpoints).
#include "kernels/cpu/dot/n16_avx2.h"

namespace kt::kernels::dot {
namespace {

struct Empty {};

struct Q4_0 : WeightBase {
  using Tile = TileQ4_0;
  using Unit = Empty;
  static constexpr bool kOffset = true;
  static constexpr Widen kWiden = Widen::kBlock;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, Pair& scale, Pair& offset) {
    scale = load_fp16(t.d);
    offset = times(scale, -8.0f);
  }
  static constexpr bool kNibbles = true;
  KT_INLINE static const std::uint8_t (*lines(const Tile& t, int))[64] { return t.q; }
  KT_INLINE static __m256i codes(const Tile& t, int, int pass, int g, int h) {
    return nibbles(t.q, pass, g, h);
  }
};
struct Q4_1 : WeightBase {
  using Tile = TileQ4_1;
  using Unit = Empty;
  static constexpr bool kOffset = true;
  static constexpr Widen kWiden = Widen::kBlock;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, Pair& scale, Pair& offset) {
    scale = load_fp16(t.d);
    offset = load_fp16(t.m);
  }
  static constexpr bool kNibbles = true;
  KT_INLINE static const std::uint8_t (*lines(const Tile& t, int))[64] { return t.q; }
  KT_INLINE static __m256i codes(const Tile& t, int, int pass, int g, int h) {
    return nibbles(t.q, pass, g, h);
  }
};
struct Q5_0 : WeightBase {
  using Tile = TileQ5_0;
  using Unit = Empty;
  static constexpr bool kOffset = true;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, Pair& scale, Pair& offset) {
    scale = load_fp16(t.d);
    offset = times(scale, -16.0f);
  }
  KT_INLINE static __m256i codes(const Tile& t, int, int pass, int g, int h) {
    return _mm256_or_si256(nibbles(t.q, pass, g, h), mask_bits(t.q1, 4 * pass + g, 4, h));
  }
};
struct Q5_1 : WeightBase {
  using Tile = TileQ5_1;
  using Unit = Empty;
  static constexpr bool kOffset = true;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, Pair& scale, Pair& offset) {
    scale = load_fp16(t.d);
    offset = load_fp16(t.m);
  }
  KT_INLINE static __m256i codes(const Tile& t, int, int pass, int g, int h) {
    return _mm256_or_si256(nibbles(t.q, pass, g, h), mask_bits(t.q1, 4 * pass + g, 4, h));
  }
};
struct Q8_0 : WeightBase {
  using Tile = TileQ8_0;
  using Unit = Empty;
  static constexpr bool kSigned = true;
  static constexpr Widen kWiden = Widen::kGroup;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, Pair& scale, Pair&) {
    scale = load_fp16(t.d);
  }
  KT_INLINE static __m256i codes(const Tile& t, int, int pass, int g, int h) {
    return load32(t.q[4 * pass + g] + 32 * h);
  }
};
struct IQ4_NL : WeightBase {
  using Tile = TileQ4_0;
  using Unit = Empty;
  static constexpr bool kSigned = true;
  static constexpr Widen kWiden = Widen::kGroup;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, Pair& scale, Pair&) {
    scale = load_fp16(t.d);
  }
  KT_INLINE static __m256i codes(const Tile& t, int, int pass, int g, int h) {
    return iq4_values(nibbles(t.q, pass, g, h));
  }
};
struct MXFP4 : WeightBase {
  using Tile = TileMXFP4;
  using Unit = Empty;
  static constexpr bool kOffset = true;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  // Half of 2^(e - 127) in every lane; e = 0 and 1 give subnormal floats.
  KT_INLINE static __m256 half_power(const std::uint8_t* e) {
    const __m256i v = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(e)));
    const __m256i one = _mm256_set1_epi32(1);
    const __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(v, one), 23);
    const __m256i tiny = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), v);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(tiny, normal, _mm256_cmpgt_epi32(v, one)));
  }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, Pair& scale, Pair& offset) {
    scale = {half_power(t.e), half_power(t.e + 8)};
    offset = times(scale, -12.0f);
  }
  // Twice the E2M1 value, plus 12 to be unsigned.
  KT_INLINE static __m256i codes(const Tile& t, int, int pass, int g, int h) {
    const __m256i values = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    return _mm256_shuffle_epi8(values, nibbles(t.q, pass, g, h));
  }
};

struct Q1_0 : WeightBase {
  using Tile = TileQ1_0;
  using Unit = Pair;
  static constexpr int kBlocks = 4;
  static constexpr bool kOffset = true;
  static constexpr Widen kWiden = Widen::kBlock;
  KT_INLINE static Unit unit(const Tile& t) { return load_fp16(t.d); }
  KT_INLINE static void scales(const Tile&, const Unit& d, int, Pair& scale, Pair& offset) {
    scale = times(d, 2.0f);
    offset = times(d, -1.0f);
  }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    return mask_bits(t.block[b].q1, 4 * pass + g, 0, h);
  }
};
struct NVFP4 : WeightBase {
  using Tile = TileNVFP4;
  using Unit = Empty;
  static constexpr int kBlocks = 2;
  static constexpr bool kSigned = true;
  static constexpr bool kHalfScales = true;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile&, const Unit&, int, Pair&, Pair&) {}
  // Half of an unsigned E4M3: its bits are those of an fp16 of 2^-8 times the value.
  KT_INLINE static Pair half_scale(const Tile& t, int b, int pass) {
    const __m256i v =
        _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(t.d[2 * b + pass])));
    const __m256i h = _mm256_slli_epi16(_mm256_and_si256(v, _mm256_set1_epi16(127)), 7);
    return times({_mm256_cvtph_ps(_mm256_castsi256_si128(h)),
                  _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1))},
                 128.0f);
  }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    const __m256i values = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
    return _mm256_shuffle_epi8(values, nibbles(t.block[b].q, pass, g, h));
  }
};

template <int kLen>
struct I4 : WeightBase {
  using Tile = TileI4<kLen>;
  struct Unit {
    Pair scale, offset;
  };
  static constexpr int kBlocks = kLen / 32;
  static constexpr bool kOffset = true;
  static constexpr Widen kWiden = Widen::kBlock;
  KT_INLINE static Unit unit(const Tile& t) {
    const Pair scale = {_mm256_loadu_ps(t.scale), _mm256_loadu_ps(t.scale + 8)};
    const Pair zero = {_mm256_loadu_ps(t.zero), _mm256_loadu_ps(t.zero + 8)};
    return {scale, times(multiply(scale, zero), -1.0f)};
  }
  KT_INLINE static void scales(const Tile&, const Unit& u, int, Pair& scale, Pair& offset) {
    scale = u.scale;
    offset = u.offset;
  }
  static constexpr bool kNibbles = true;
  KT_INLINE static const std::uint8_t (*lines(const Tile& t, int b))[64] { return t.block[b].q; }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    return nibbles(t.block[b].q, pass, g, h);
  }
};

}  // namespace

KT_ROWS(Q4_0, q4_0)
KT_ROWS(Q4_1, q4_1)
KT_ROWS(Q5_0, q5_0)
KT_ROWS(Q5_1, q5_1)
KT_ROWS(Q8_0, q8_0)
KT_ROWS(IQ4_NL, iq4_nl)
KT_ROWS(MXFP4, mxfp4)
KT_ROWS(I4<32>, i4_32)
KT_ROWS(I4<64>, i4_64)
KT_ROWS(I4<128>, i4_128)
KT_ROWS(Q8_0, q8_1)
KT_ROWS(Q1_0, q1_0)
KT_ROWS(NVFP4, nvfp4)

}  // namespace kt::kernels::dot
