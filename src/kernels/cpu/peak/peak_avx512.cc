// AVX-512: fused multiply-adds, and VNNI int8 dot products.
#include <immintrin.h>

#include "kernels/cpu/peak/peak.h"

namespace kt::kernels::peak {

void peak_f32_avx512(std::int64_t rounds) noexcept;
void peak_f32_avx512(std::int64_t rounds) noexcept {
  constexpr int kSums = 12;
  __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(0.25f), sum[kSums];
  for (__m512& s : sum) {
    s = _mm512_setzero_ps();
    asm volatile("" : "+v"(s));  // equal sums must not become one
  }
  for (std::int64_t r = 0; r < rounds; ++r) {
    asm volatile("" : "+v"(a), "+v"(b));
    for (__m512& s : sum) s = _mm512_fmadd_ps(a, b, s);
  }
  for (__m512& s : sum) asm volatile("" ::"v"(s));
}

void peak_int8_avx512(std::int64_t rounds) noexcept;
void peak_int8_avx512(std::int64_t rounds) noexcept {
  constexpr int kSums = 12;
  __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5), sum[kSums];
  for (__m512i& s : sum) {
    s = _mm512_setzero_si512();
    asm volatile("" : "+v"(s));
  }
  for (std::int64_t r = 0; r < rounds; ++r) {
    asm volatile("" : "+v"(a), "+v"(b));
    for (__m512i& s : sum) s = _mm512_dpbusd_epi32(s, a, b);
  }
  for (__m512i& s : sum) asm volatile("" ::"v"(s));
}

}  // namespace kt::kernels::peak
