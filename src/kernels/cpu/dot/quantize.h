// Int8 and int16 quantisation of one activation row, per ISA; bitwise the same on all of them.
//   max = max |x| of a block of 32,  scale = max / 127,  q = rint(x * (127 / max)),  sum = scale *
//   Σ q;  int16: 32767 for 127, each 4 values in the order 0, 2, 1, 3
// twice: x as the sum of two such rows, the second of x - scale * q of the first
// A block with a NaN or infinity gets q 0 and scale NaN; one below kQuantizeTiny (127 / max would
// overflow) counts as zeros.
// to_tiles_*: the same rows as bf16 tiles; to_i8_tiles_*: as int8 tiles with one scale for the row.
// Thread rule: pure.
#pragma once
#include <cstdint>

#include "kernels/cpu/dot/dot.h"

namespace kt::kernels::dot {

inline constexpr float kQuantizeTiny = 1e-36f;
inline constexpr float kQuantize16Tiny = 1e-33f;

void quantize_row_ref(const float* x, std::int64_t k, std::int8_t* q, float* scale,
                      float* sum) noexcept;
void quantize_row_avx2(const float* x, std::int64_t k, std::int8_t* q, float* scale,
                       float* sum) noexcept;

void quantize_twice_ref(const float* x, std::int64_t k, const QuantizedTerm& first,
                        const QuantizedTerm& second) noexcept;
void quantize_twice_avx2(const float* x, std::int64_t k, const QuantizedTerm& first,
                         const QuantizedTerm& second) noexcept;

void quantize16_row_ref(const float* x, std::int64_t k, std::int16_t* q, float* scale,
                        float* sum) noexcept;
void quantize16_row_avx2(const float* x, std::int64_t k, std::int16_t* q, float* scale,
                         float* sum) noexcept;

void to_tiles_ref(const float* x, std::int64_t k, std::uint16_t* out) noexcept;
void to_tiles_avx512(const float* x, std::int64_t k, std::uint16_t* out) noexcept;

void to_i8_tiles_ref(const float* x, std::int64_t k, std::int8_t* out, float* scale) noexcept;
void to_i8_tiles_avx512(const float* x, std::int64_t k, std::int8_t* out, float* scale) noexcept;

}  // namespace kt::kernels::dot
