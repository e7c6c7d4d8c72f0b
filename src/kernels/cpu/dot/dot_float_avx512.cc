// AVX-512 rows with float activations: F32, F16, BF16, block-FP8.
#include "kernels/cpu/dot/n16_float_avx512.h"

namespace kt::kernels::dot {
namespace {

struct F32 {
  using Tile = TileF32;
  KT_INLINE static __m512 load(const float* p) { return _mm512_loadu_ps(p); }
};
struct F16 {
  using Tile = TileF16;
  KT_INLINE static __m512 load(const std::uint16_t* p) { return load_fp16(p); }
};
struct BF16 {
  using Tile = TileF16;
  KT_INLINE static __m512 load(const std::uint16_t* p) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    // Word i to word 2 i + 1, zeros between.
    const __m512i index = _mm512_slli_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), 16);
    return _mm512_castsi512_ps(
        _mm512_maskz_permutexvar_epi16(0xaaaaaaaau, index, _mm512_castsi256_si512(v)));
  }
};

}  // namespace

#define KT_ROW(weight, name)               \
  void name(const DotArgs& args) noexcept; \
  void name(const DotArgs& args) noexcept { run_f32<weight>(args); }
KT_ROW(F32, dot_f32_f32_f32_n16_avx512)
KT_ROW(F16, dot_f32_f32_f16_n16_avx512)
KT_ROW(BF16, dot_f32_f32_bf16_n16_avx512)
#undef KT_ROW

void dot_f32_f32_f8_e4m3_b128_n16_avx512(const DotArgs& args) noexcept;
void dot_f32_f32_f8_e4m3_b128_n16_avx512(const DotArgs& args) noexcept { run_f8(args); }

}  // namespace kt::kernels::dot
