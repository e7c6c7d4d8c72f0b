// Rounding of activations to bf16 tiles with AVX-512; bitwise equal to to_tiles_ref.
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

}  // namespace

void to_tiles_avx512(const float* x, std::int64_t k, std::uint16_t* out) noexcept {
  for (std::int64_t c = 0; c < k; c += kTileCols, out += kTileValues) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), round_16(x + c));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16), round_16(x + c + 16));
  }
}

}  // namespace kt::kernels::dot
