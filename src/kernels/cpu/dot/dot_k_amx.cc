// AMX rows with bf16 activations: super-blocks of 256 (Q2_K … Q6_K, Q8_K, IQ4_XS, TQ2_0).
#include "kernels/cpu/dot/n16_amx.h"

namespace kt::kernels::dot {
namespace {

/// Q4_K with the scales of a unit made in fp16, those of two blocks at a time. Factors are powers
/// of two and scales far above the least fp16, so products are rounded as those in float are.
struct QuantizedQ4_K : Quantized<Q4_K> {
  struct Unit {
    __m512i scale[4], offset[4];  // of blocks 2 i and 2 i + 1
  };
  KT_INLINE static Unit scaled_unit(const Tile& tile, __m512 factor) {
    SixBytes bytes;
    bytes.unpack(tile.scales, 0);
    const __m512 d = _mm512_mul_ps(load_fp16(tile.d), factor);
    const __m512 m = _mm512_mul_ps(load_fp16(tile.dmin), factor);
    const __m512h scale = fp16_twice_over(times(d, 1.0f / kCodeUnit<Q4_K>));
    const __m512h offset = fp16_twice_over(times(m, -1.0f));
    Unit u;
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      u.scale[i] = products(bytes.first[2 * i], scale);
      u.offset[i] = products(bytes.second[2 * i], offset);
    }
    return u;
  }
  KT_INLINE static Affine affine(const Tile&, const Unit& unit, int b, int, __m512) {
    const __m512i rows = load64(kTwice[b % 2]);
    return {_mm512_castsi512_ph(_mm512_permutexvar_epi16(rows, unit.scale[b / 2])),
            _mm512_castsi512_ph(_mm512_permutexvar_epi16(rows, unit.offset[b / 2]))};
  }

 private:
  KT_INLINE static __m512h fp16_twice_over(__m512 v) {
    return _mm512_castsi512_ph(
        _mm512_broadcast_i64x4(_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT)));
  }
  KT_INLINE static __m512i products(const std::uint8_t* of_two_blocks, __m512h by) {
    const __m256i bytes = _mm256_load_si256(reinterpret_cast<const __m256i*>(of_two_blocks));
    return _mm512_castph_si512(_mm512_mul_ph(_mm512_cvtepu16_ph(_mm512_cvtepu8_epi16(bytes)), by));
  }
};

}  // namespace

#define KT_ROW(weight, name)               \
  void name(const DotArgs& args) noexcept; \
  void name(const DotArgs& args) noexcept { run_bf16<weight>(args); }
KT_ROW(Quantized<Q2_K>, dot_f32_bf16_q2_k_n16_amx)
KT_ROW(Quantized<Q3_K>, dot_f32_bf16_q3_k_n16_amx)
KT_ROW(QuantizedQ4_K, dot_f32_bf16_q4_k_n16_amx)
KT_ROW(Quantized<Q5_K>, dot_f32_bf16_q5_k_n16_amx)
KT_ROW(Quantized<Q6_K>, dot_f32_bf16_q6_k_n16_amx)
KT_ROW(Quantized<IQ4_XS>, dot_f32_bf16_iq4_xs_n16_amx)
KT_ROW(Quantized<Q8_K>, dot_f32_bf16_q8_k_n16_amx)
KT_ROW(Quantized<TQ2_0>, dot_f32_bf16_tq2_0_n16_amx)
#undef KT_ROW

}  // namespace kt::kernels::dot
