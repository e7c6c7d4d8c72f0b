// AVX2: fused multiply-adds, the int8 chain maddubs → add in 16 bits → madd → add in 32 bits, and
// the int16 chain madd → add in 32 bits.
#include <immintrin.h>

#include "kernels/cpu/peak/peak.h"

namespace kt::kernels::peak {

void peak_f32_avx2(std::int64_t rounds) noexcept;
void peak_f32_avx2(std::int64_t rounds) noexcept {
  constexpr int kSums = 12;
  __m256 a = _mm256_set1_ps(0.5f), b = _mm256_set1_ps(0.25f), sum[kSums];
  for (__m256& s : sum) {
    s = _mm256_setzero_ps();
    asm volatile("" : "+x"(s));  // equal sums must not become one
  }
  for (std::int64_t r = 0; r < rounds; ++r) {
    asm volatile("" : "+x"(a), "+x"(b));
    for (__m256& s : sum) s = _mm256_fmadd_ps(a, b, s);
  }
  for (__m256& s : sum) asm volatile("" ::"x"(s));
}

void peak_int8_avx2(std::int64_t rounds) noexcept;
void peak_int8_avx2(std::int64_t rounds) noexcept {
  constexpr int kSums = 4, kPerWidening = 4;
  __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5), sum[kSums];
  const __m256i ones = _mm256_set1_epi16(1);
  for (__m256i& s : sum) {
    s = _mm256_setzero_si256();
    asm volatile("" : "+x"(s));
  }
  for (std::int64_t r = 0; r < rounds; ++r) {
    for (__m256i& s : sum) {
      __m256i narrow = _mm256_maddubs_epi16(a, b);
      for (int i = 1; i < kPerWidening; ++i) {
        asm volatile("" : "+x"(a));  // another product to the compiler
        narrow = _mm256_add_epi16(narrow, _mm256_maddubs_epi16(a, b));
      }
      s = _mm256_add_epi32(s, _mm256_madd_epi16(narrow, ones));
      asm volatile("" : "+x"(a));
    }
  }
  for (__m256i& s : sum) asm volatile("" ::"x"(s));
}

void peak_int16_avx2(std::int64_t rounds) noexcept;
void peak_int16_avx2(std::int64_t rounds) noexcept {
  constexpr int kSums = 8;
  __m256i a = _mm256_set1_epi16(3), b = _mm256_set1_epi16(5), sum[kSums];
#pragma GCC unroll 8
  for (int i = 0; i < kSums; ++i) {
    sum[i] = _mm256_setzero_si256();
    asm volatile("" : "+x"(sum[i]));
  }
  for (std::int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 8
    for (int i = 0; i < kSums; ++i) {
      asm("" : "+x"(a));  // another product to the compiler
      sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(a, b));
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kSums; ++i) asm volatile("" ::"x"(sum[i]));
}

}  // namespace kt::kernels::peak
