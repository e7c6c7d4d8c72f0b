// AVX2 rows with int8 activations: super-blocks of 256 (Q2_K … Q6_K, Q8_K, TQ2_0, IQ4_XS).
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

struct Q4_K : WeightBase {
  using Tile = TileQ4_K;
  using Unit = ScaleMin;
  static constexpr int kBlocks = 8;
  static constexpr bool kOffset = true;
  static constexpr Widen kWiden = Widen::kBlock;
  KT_INLINE static Unit unit(const Tile& t) {
    return {load_fp16(t.d), times(load_fp16(t.dmin), -1.0f)};
  }
  KT_INLINE static void scales(const Tile& t, const Unit& u, int b, Pair& scale, Pair& offset) {
    scale = multiply(u.d, load_u8(t.block[b].scale));
    offset = multiply(u.minus_min, load_u8(t.block[b].min));
  }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    return nibbles(t.block[b].q, pass, g, h);
  }
};
struct Q5_K : WeightBase {
  using Tile = TileQ5_K;
  using Unit = ScaleMin;
  static constexpr int kBlocks = 8;
  static constexpr bool kOffset = true;
  KT_INLINE static Unit unit(const Tile& t) {
    return {load_fp16(t.d), times(load_fp16(t.dmin), -1.0f)};
  }
  KT_INLINE static void scales(const Tile& t, const Unit& u, int b, Pair& scale, Pair& offset) {
    scale = multiply(u.d, load_u8(t.block[b].scale));
    offset = multiply(u.minus_min, load_u8(t.block[b].min));
  }
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
  KT_INLINE static __m256i sub_scale(const Tile& t, int b, int pass, int h) {
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
  using Unit = Scale;
  static constexpr int kBlocks = 8;
  static constexpr bool kSigned = true;
  static constexpr bool kSubScales = true;
  KT_INLINE static Unit unit(const Tile& t) { return {load_fp16(t.d)}; }
  KT_INLINE static void scales(const Tile&, const Unit& u, int, Pair& scale, Pair&) { scale = u.d; }
  KT_INLINE static __m256i sub_scale(const Tile& t, int b, int pass, int h) {
    return both_halves(widen_i8(t.block[b].scale[pass] + 8 * h));
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
  KT_INLINE static __m256i sub_scale(const Tile& t, int b, int pass, int h) {
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
  using Unit = Scale;
  static constexpr int kBlocks = 8;
  static constexpr bool kSigned = true;
  static constexpr Widen kWiden = Widen::kGroup;
  KT_INLINE static Unit unit(const Tile& t) { return {load_fp16(t.d)}; }
  KT_INLINE static void scales(const Tile& t, const Unit& u, int b, Pair& scale, Pair&) {
    scale = multiply(u.d, load_i8(t.block[b].scale));
  }
  KT_INLINE static __m256i codes(const Tile& t, int b, int pass, int g, int h) {
    return iq4_values(nibbles(t.block[b].q, pass, g, h));
  }
};

}  // namespace

#define KT_ROW(weight, name)               \
  void name(const DotArgs& args) noexcept; \
  void name(const DotArgs& args) noexcept { run_q8<weight>(args); }
KT_ROW(Q2_K, dot_f32_q8_q2_k_n16_avx2)
KT_ROW(Q3_K, dot_f32_q8_q3_k_n16_avx2)
KT_ROW(Q4_K, dot_f32_q8_q4_k_n16_avx2)
KT_ROW(Q5_K, dot_f32_q8_q5_k_n16_avx2)
KT_ROW(Q6_K, dot_f32_q8_q6_k_n16_avx2)
KT_ROW(IQ4_XS, dot_f32_q8_iq4_xs_n16_avx2)
KT_ROW(Q8_K, dot_f32_q8_q8_k_n16_avx2)
KT_ROW(TQ2_0, dot_f32_q8_tq2_0_n16_avx2)
#undef KT_ROW

}  // namespace kt::kernels::dot
