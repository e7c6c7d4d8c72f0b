// Rounding of activations to bf16 and int8 tiles with AVX-512; bitwise equal to to_tiles_ref and
// to_i8_tiles_ref.
#include "kernels/cpu/dot/dot.h"
#include "kernels/cpu/dot/n16_codes_avx512.h"
#include "kernels/cpu/dot/quantize.h"

namespace kt::kernels::dot {
namespace {

KT_INLINE __m256i round_16(const float* x) {
  const __m512i bits = _mm512_loadu_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __m512 v = _mm512_castsi512_ps(bits);
  const __m512i r = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), bits,
                                         _mm512_set1_epi32(0x400000));
  // Each 4 values in the order 0, 2, 1, 3.
  const __m512i ordered = _mm512_shuffle_epi32(r, static_cast<_MM_PERM_ENUM>(0xd8));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(ordered, 16));
}

/// The largest magnitude's bits; infinity and NaN come out on top.
KT_INLINE std::int32_t max_magnitude(const float* x, std::int64_t k) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i max[4] = {};
  for (std::int64_t i = 0; i < k; i += 64) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m512i v = _mm512_and_si512(load64(x + i + 16 * j), magnitude);
      max[j] = _mm512_max_epi32(max[j], v);
    }
  }
  return _mm512_reduce_max_epi32(
      _mm512_max_epi32(_mm512_max_epi32(max[0], max[1]), _mm512_max_epi32(max[2], max[3])));
}

}  // namespace

void to_tiles_avx512(const float* x, std::int64_t k, std::uint16_t* out) noexcept {
  for (std::int64_t c = 0; c < k; c += kTileCols, out += kTileValues) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), round_16(x + c));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16), round_16(x + c + 16));
  }
}

void to_i8_tiles_avx512(const float* x, std::int64_t k, std::int8_t* out, float* scale) noexcept {
  const std::int32_t max_bits = max_magnitude(x, k);
  const float max = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(max_bits)));
  const bool finite = max_bits < 0x7f800000;
  if (!finite || !(max >= kQuantizeTiny)) {
    *scale = finite ? 0.0f : __builtin_nanf("");
    for (std::int64_t i = 0; i < k; i += kI8TileCols, out += kI8TileBytes)
      _mm512_storeu_si512(out, _mm512_setzero_si512());
    return;
  }
  *scale = max / 127.0f;
  const __m512 inverse = _mm512_set1_ps(127.0f / max);
  for (std::int64_t i = 0; i < k; i += kI8TileCols, x += kI8TileCols, out += kI8TileBytes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + 16 * j), inverse));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 16 * j), _mm512_cvtepi32_epi8(v));
    }
  }
}

}  // namespace kt::kernels::dot
