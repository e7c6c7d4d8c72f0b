// Int8 and int16 quantisation with AVX2; bitwise equal to the ref functions.
#include <immintrin.h>

#include "kernels/cpu/dot/quantize.h"

namespace kt::kernels::dot {
namespace {

inline std::int32_t max_lanes(__m256i v) noexcept {
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
  return _mm_cvtsi128_si32(m);
}

inline std::int32_t sum_lanes(__m256i v) noexcept {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
  return _mm_cvtsi128_si32(s);
}

constexpr __m256i kNone = {};

/// The 32 values of a block, 8 i .. 8 i + 7 in lane order of [i].
using BlockValues = __m256[4];
using BlockInts = __m256i[4];

inline void load_block(const float* x, BlockValues& v) noexcept {
  for (int i = 0; i < 4; ++i) v[i] = _mm256_loadu_ps(x + 8 * i);
}

/// n = v / *scale, rounded.
inline void quantize_block(const BlockValues& v, float most, float tiny, BlockInts& n, float* scale,
                           float* sum) noexcept {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i bits = kNone;
  for (int i = 0; i < 4; ++i) {
    bits = _mm256_max_epi32(bits, _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude));
    n[i] = kNone;
  }
  const std::int32_t max_bits = max_lanes(bits);
  const float max = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(max_bits)));
  const bool finite = max_bits < 0x7f800000;
  if (!finite || !(max >= tiny)) {
    *scale = *sum = finite ? 0.0f : __builtin_nanf("");
    return;
  }
  const __m256 inverse = _mm256_set1_ps(most / max);
  for (int i = 0; i < 4; ++i) n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
  const __m256i total =
      _mm256_add_epi32(_mm256_add_epi32(n[0], n[1]), _mm256_add_epi32(n[2], n[3]));
  *scale = max / most;
  *sum = *scale * static_cast<float>(sum_lanes(total));
}

inline void store_bytes(const BlockInts& n, std::int8_t* q) noexcept {
  // packs work inside 128-bit halves; this puts the 32-bit groups back in order.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i bytes =
      _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm256_permutevar8x32_epi32(bytes, order));
}

}  // namespace

void quantize_row_avx2(const float* x, std::int64_t k, std::int8_t* q, float* scale,
                       float* sum) noexcept {
  for (std::int64_t b = 0; b < k / 32; ++b) {
    BlockValues v;
    BlockInts n;
    load_block(x + 32 * b, v);
    quantize_block(v, 127.0f, kQuantizeTiny, n, scale + b, sum + b);
    store_bytes(n, q + 32 * b);
  }
}

void quantize_twice_avx2(const float* x, std::int64_t k, const QuantizedTerm& first,
                         const QuantizedTerm& second) noexcept {
  for (std::int64_t b = 0; b < k / 32; ++b) {
    BlockValues v;
    BlockInts n;
    load_block(x + 32 * b, v);
    quantize_block(v, 127.0f, kQuantizeTiny, n, first.scale + b, first.sum + b);
    store_bytes(n, first.q + 32 * b);
    const __m256 scale = _mm256_set1_ps(first.scale[b]);
    for (int i = 0; i < 4; ++i)
      v[i] = _mm256_sub_ps(v[i], _mm256_mul_ps(scale, _mm256_cvtepi32_ps(n[i])));
    quantize_block(v, 127.0f, kQuantizeTiny, n, second.scale + b, second.sum + b);
    store_bytes(n, second.q + 32 * b);
  }
}

void quantize16_row_avx2(const float* x, std::int64_t k, std::int16_t* q, float* scale,
                         float* sum) noexcept {
  const __m256i order = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15));
  for (std::int64_t b = 0; b < k / 32; ++b) {
    BlockValues v;
    BlockInts n;
    load_block(x + 32 * b, v);
    quantize_block(v, 32767.0f, kQuantize16Tiny, n, scale + b, sum + b);
    for (int i = 0; i < 4; i += 2) {
      const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(n[i], n[i + 1]), 0xd8);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + 32 * b + 8 * i),
                          _mm256_shuffle_epi8(words, order));
    }
  }
}

}  // namespace kt::kernels::dot
