// AVX2 rows with float activations: F32, F16, BF16, block-FP8.
#include "kernels/cpu/dot/n16_float_avx2.h"

namespace kt::kernels::dot {
namespace {

/// load(): 16 weights of one k; in_order(): sums of these as rows 0 .. 7, 8 .. 15.
struct F32 {
  using Tile = TileF32;
  KT_INLINE static Pair load(const float* p) {
    return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
  }
  KT_INLINE static Pair in_order(const Pair& sum) { return sum; }
};
struct F16 {
  using Tile = TileF16;
  KT_INLINE static Pair load(const std::uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  KT_INLINE static Pair in_order(const Pair& sum) { return sum; }
};
struct BF16 {
  using Tile = TileF16;
  // Unpacking works inside 128-bit halves: rows 0 .. 3, 8 .. 11 and 4 .. 7, 12 .. 15.
  KT_INLINE static Pair load(const std::uint16_t* p) {
    const __m256i v = load32(p), zero = _mm256_setzero_si256();
    return {_mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, v)),
            _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, v))};
  }
  KT_INLINE static Pair in_order(const Pair& sum) {
    return {_mm256_permute2f128_ps(sum.v[0], sum.v[1], 0x20),
            _mm256_permute2f128_ps(sum.v[0], sum.v[1], 0x31)};
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
