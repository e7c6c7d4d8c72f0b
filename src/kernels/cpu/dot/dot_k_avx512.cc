// AVX-512 rows with int8 activations: super-blocks of 256 (Q2_K … Q6_K, IQ4_XS).
#include "kernels/cpu/dot/n16_avx512.h"

namespace kt::kernels::dot {
namespace {

struct Scale {
  __m512 d;
};
struct ScaleMin {
  __m512 d;
  __m512 minus_min;
};

struct Q4_K : WeightBase {
  using Tile = TileQ4_K;
  using Unit = ScaleMin;
  static constexpr int kBlocks = 8;
  static constexpr bool kOffset = true;
  KT_INLINE static Unit unit(const Tile& t) {
    return {load_fp16(t.d), times(load_fp16(t.dmin), -1.0f)};
  }
  KT_INLINE static void scales(const Tile& t, const Unit& u, int b, __m512& scale, __m512& offset) {
    scale = _mm512_mul_ps(u.d, load_u8(t.block[b].scale));
    offset = _mm512_mul_ps(u.minus_min, load_u8(t.block[b].min));
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    return nibbles(t.block[b].q, pass, g);
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
  KT_INLINE static void scales(const Tile& t, const Unit& u, int b, __m512& scale, __m512& offset) {
    scale = _mm512_mul_ps(u.d, load_u8(t.block[b].scale));
    offset = _mm512_mul_ps(u.minus_min, load_u8(t.block[b].min));
  }
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
  KT_INLINE static __m512i sub_scale(const Tile& t, int b, int pass) {
    return _mm512_cvtepi8_epi32(load16(t.block[b].scale[pass]));
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    return add_pair_bits(nibbles(t.block[b].q, pass, g), t.block[b].q2, pass, g, 4);
  }
};
struct Q3_K : WeightBase {
  using Tile = TileQ3_K;
  using Unit = Scale;
  static constexpr int kBlocks = 8;
  static constexpr bool kSubScales = true;
  static constexpr int kBias = 4;
  KT_INLINE static Unit unit(const Tile& t) { return {load_fp16(t.d)}; }
  KT_INLINE static void scales(const Tile&, const Unit& u, int, __m512& scale, __m512&) {
    scale = u.d;
  }
  KT_INLINE static __m512i sub_scale(const Tile& t, int b, int pass) {
    return _mm512_cvtepi8_epi32(load16(t.block[b].scale[pass]));
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
  KT_INLINE static __m512i sub_scale(const Tile& t, int b, int pass) {
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
struct IQ4_XS : WeightBase {
  using Tile = TileIQ4_XS;
  using Unit = Scale;
  static constexpr int kBlocks = 8;
  static constexpr bool kOffset = true;
  KT_INLINE static Unit unit(const Tile& t) { return {load_fp16(t.d)}; }
  KT_INLINE static void scales(const Tile& t, const Unit& u, int b, __m512& scale, __m512& offset) {
    scale = _mm512_mul_ps(u.d, load_i8(t.block[b].scale));
    offset = times(scale, -128.0f);
  }
  KT_INLINE static __m512i codes(const Tile& t, int b, int pass, int g) {
    return iq4_values(nibbles(t.block[b].q, pass, g));
  }
};

}  // namespace

#define KT_ROW(weight, name)               \
  void name(const DotArgs& args) noexcept; \
  void name(const DotArgs& args) noexcept { run_q8<weight>(args); }
KT_ROW(Q2_K, dot_f32_q8_q2_k_n16_avx512)
KT_ROW(Q3_K, dot_f32_q8_q3_k_n16_avx512)
KT_ROW(Q4_K, dot_f32_q8_q4_k_n16_avx512)
KT_ROW(Q5_K, dot_f32_q8_q5_k_n16_avx512)
KT_ROW(Q6_K, dot_f32_q8_q6_k_n16_avx512)
KT_ROW(IQ4_XS, dot_f32_q8_iq4_xs_n16_avx512)
#undef KT_ROW

}  // namespace kt::kernels::dot
