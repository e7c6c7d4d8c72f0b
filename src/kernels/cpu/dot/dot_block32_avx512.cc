// AVX-512 rows with int8 activations: blocks of 32 (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4).
#include "kernels/cpu/dot/n16_avx512.h"

namespace kt::kernels::dot {
namespace {

struct Empty {};

struct Q4_0 : WeightBase {
  using Tile = TileQ4_0;
  using Unit = Empty;
  static constexpr bool kOffset = true;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, __m512& scale, __m512& offset) {
    scale = load_fp16(t.d);
    offset = times(scale, -8.0f);
  }
  KT_INLINE static __m512i codes(const Tile& t, int, int pass, int g) {
    return nibbles(t.q, pass, g);
  }
};
struct Q4_1 : WeightBase {
  using Tile = TileQ4_1;
  using Unit = Empty;
  static constexpr bool kOffset = true;
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, __m512& scale, __m512& offset) {
    scale = load_fp16(t.d);
    offset = load_fp16(t.m);
  }
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
  KT_INLINE static Unit unit(const Tile&) { return {}; }
  KT_INLINE static void scales(const Tile& t, const Unit&, int, __m512& scale, __m512& offset) {
    scale = load_fp16(t.d);
    offset = times(scale, -128.0f);
  }
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
  // Twice the E2M1 value, plus 12 to be unsigned.
  KT_INLINE static __m512i codes(const Tile& t, int, int pass, int g) {
    const __m512i values = _mm512_broadcast_i32x4(
        _mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    return _mm512_shuffle_epi8(values, nibbles(t.q, pass, g));
  }
};

}  // namespace

#define KT_ROW(weight, name)               \
  void name(const DotArgs& args) noexcept; \
  void name(const DotArgs& args) noexcept { run_q8<weight>(args); }
KT_ROW(Q4_0, dot_f32_q8_q4_0_n16_avx512)
KT_ROW(Q4_1, dot_f32_q8_q4_1_n16_avx512)
KT_ROW(Q5_0, dot_f32_q8_q5_0_n16_avx512)
KT_ROW(Q5_1, dot_f32_q8_q5_1_n16_avx512)
KT_ROW(Q8_0, dot_f32_q8_q8_0_n16_avx512)
KT_ROW(IQ4_NL, dot_f32_q8_iq4_nl_n16_avx512)
KT_ROW(MXFP4, dot_f32_q8_mxfp4_n16_avx512)
#undef KT_ROW

}  // namespace kt::kernels::dot
