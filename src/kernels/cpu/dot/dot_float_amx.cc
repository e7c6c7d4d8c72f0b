// AMX rows with bf16 activations: F16 (rounded to bf16), BF16 and block-FP8. F32 weights keep float
// products.
#include "kernels/cpu/dot/n16_amx.h"

namespace kt::kernels::dot {
namespace {

struct NoUnit {};

/// 16-bit floats, one k per unit; Pair::pair makes a line of two k.
template <class Pair>
struct Half {
  using Tile = TileF16;
  using Unit = NoUnit;
  static constexpr bool kInt8 = false;
  static constexpr bool kFloats = true;
  static constexpr bool kScaled = false;
  static constexpr std::int64_t kUnitK = 1;
  KT_INLINE static void lines(const Tile* tile, std::int64_t block, __m512, std::uint16_t* out) {
    tile += kTileCols * block;
    for (int k = 0; k < kTileCols; k += 4, out += 64) {
      _mm512_store_si512(out, Pair::pair(tile[k].w, tile[k + 2].w));
      _mm512_store_si512(out + 32, Pair::pair(tile[k + 1].w, tile[k + 3].w));
    }
  }
};
struct F16 {
  KT_INLINE static __m512i pair(const std::uint16_t* even, const std::uint16_t* odd) {
    return bf16_pairs(canonical(load_fp16(even)), canonical(load_fp16(odd)));
  }
};
struct BF16 {
  KT_INLINE static __m512i widen(const std::uint16_t* p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  KT_INLINE static __m512i pair(const std::uint16_t* even, const std::uint16_t* odd) {
    return _mm512_or_si512(widen(even), _mm512_slli_epi32(widen(odd), 16));
  }
};

/// E4M3 codes are fp16 of 2^-8 times their value once the exponent field is one bit wider. The four
/// codes of a lane lie as k 0, 2, 1, 3, so its halves are the two lines.
struct F8 {
  using Tile = TileF8;
  using Unit = NoUnit;
  static constexpr bool kInt8 = false;
  static constexpr bool kFloats = true;
  static constexpr bool kScaled = true;
  static constexpr std::int64_t kUnitK = 128;
  KT_INLINE static __m512i line(__m512i codes, __m512i order, __m512h scale) {
    const __m512i v = _mm512_srai_epi16(_mm512_shuffle_epi8(codes, order), 1);
    const __m512i half = _mm512_and_si512(v, _mm512_set1_epi16(static_cast<short>(0xbfff)));
    return narrow(_mm512_mul_ph(_mm512_castsi512_ph(half), scale));
  }
  KT_INLINE static void lines(const Tile* tile, std::int64_t block, __m512 factor,
                              std::uint16_t* out) {
    const Tile& unit = tile[block / 4];
    const __m512 magnitude = _mm512_abs_ps(_mm512_loadu_ps(unit.scale));
    const __m512h scale = twice_fp16(_mm512_mul_ps(magnitude, times(factor, 256.0f)));
    // Bytes 0, 1 or 2, 3 of each lane to the high bytes of its two words.
    const __m512i low = _mm512_broadcast_i32x4(
        _mm_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13));
    const __m512i high = _mm512_broadcast_i32x4(
        _mm_setr_epi8(-1, 2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15));
    for (std::int64_t g = 0; g < 8; ++g, out += 64) {
      const __m512i codes = load64(unit.q[8 * (block % 4) + g]);
      _mm512_store_si512(out, line(codes, low, scale));
      _mm512_store_si512(out + 32, line(codes, high, scale));
    }
  }
};

}  // namespace

#define KT_ROW(weight, name)               \
  void name(const DotArgs& args) noexcept; \
  void name(const DotArgs& args) noexcept { run_bf16<weight>(args); }
KT_ROW(Half<F16>, dot_f32_bf16_f16_n16_amx)
KT_ROW(Half<BF16>, dot_f32_bf16_bf16_n16_amx)
KT_ROW(F8, dot_f32_bf16_f8_e4m3_b128_n16_amx)
#undef KT_ROW

}  // namespace kt::kernels::dot
