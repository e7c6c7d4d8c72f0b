// AVX2 rows with float activations: F32, F16, BF16, block-FP8.
#include "kernels/cpu/dot/n16_avx2.h"

namespace kt::kernels::dot {
namespace {

struct F32 {
  using Tile = TileF32;
  KT_INLINE static __m256 load(const float* p) { return _mm256_loadu_ps(p); }
};
struct F16 {
  using Tile = TileF16;
  KT_INLINE static __m256 load(const std::uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
};
struct BF16 {
  using Tile = TileF16;
  KT_INLINE static __m256 load(const std::uint16_t* p) {
    const __m256i v = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16));
  }
};

}  // namespace

void dot_f32_f32_f32_n16_avx2(const DotArgs& args) noexcept;
void dot_f32_f32_f16_n16_avx2(const DotArgs& args) noexcept;
void dot_f32_f32_bf16_n16_avx2(const DotArgs& args) noexcept;

void dot_f32_f32_f32_n16_avx2(const DotArgs& args) noexcept { run_f32<F32>(args); }
void dot_f32_f32_f16_n16_avx2(const DotArgs& args) noexcept { run_f32<F16>(args); }
void dot_f32_f32_bf16_n16_avx2(const DotArgs& args) noexcept { run_f32<BF16>(args); }

void dot_f32_f32_f8_e4m3_b128_n16_avx2(const DotArgs& args) noexcept;
void dot_f32_f32_f8_e4m3_b128_n16_avx2(const DotArgs& args) noexcept { run_f8(args); }

}  // namespace kt::kernels::dot
