// AMX rows with bf16 activations: F16 (rounded to bf16) and BF16. F32 weights keep float products.
#include "kernels/cpu/dot/n16_amx.h"

namespace kt::kernels::dot {
namespace {

struct F16 {
  using Tile = TileF16;
  static constexpr int kBlocks = 0;
  KT_INLINE static __m512i pair(const std::uint16_t* even, const std::uint16_t* odd) {
    return bf16_pairs(canonical(load_fp16(even)), canonical(load_fp16(odd)));
  }
};
struct BF16 {
  using Tile = TileF16;
  static constexpr int kBlocks = 0;
  KT_INLINE static __m512i widen(const std::uint16_t* p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  KT_INLINE static __m512i pair(const std::uint16_t* even, const std::uint16_t* odd) {
    return _mm512_or_si512(widen(even), _mm512_slli_epi32(widen(odd), 16));
  }
};

}  // namespace

#define KT_ROW(weight, name)               \
  void name(const DotArgs& args) noexcept; \
  void name(const DotArgs& args) noexcept { run_bf16<weight>(args); }
KT_ROW(F16, dot_f32_bf16_f16_n16_amx)
KT_ROW(BF16, dot_f32_bf16_bf16_n16_amx)
#undef KT_ROW

}  // namespace kt::kernels::dot
