// AVX512-BF16: dot products of bf16 pairs.
#include <immintrin.h>

#include "kernels/cpu/peak/peak.h"

namespace kt::kernels::peak {

void peak_bf16_avx512bf16(std::int64_t rounds) noexcept;
void peak_bf16_avx512bf16(std::int64_t rounds) noexcept {
  constexpr int kSums = 12;
  __m512 ones = _mm512_castsi512_ps(_mm512_set1_epi32(0x3f803f80)), sum[kSums];
  for (__m512& s : sum) {
    s = _mm512_setzero_ps();
    asm volatile("" : "+v"(s));  // equal sums must not become one
  }
  for (std::int64_t r = 0; r < rounds; ++r) {
    asm volatile("" : "+v"(ones));
    const auto pairs = reinterpret_cast<__m512bh>(ones);
    for (__m512& s : sum) s = _mm512_dpbf16_ps(s, pairs, pairs);
  }
  for (__m512& s : sum) asm volatile("" ::"v"(s));
}

}  // namespace kt::kernels::peak
