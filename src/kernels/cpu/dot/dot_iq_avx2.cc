// AVX2 rows with int8 activations: codebook formats below 4 bits (IQ1, IQ2, IQ3).
#include "kernels/cpu/dot/n16_iq_avx2.h"

namespace kt::kernels::dot {

#define KT_ROW(weight, name)               \
  void name(const DotArgs& args) noexcept; \
  void name(const DotArgs& args) noexcept { run_q8<weight>(args); }
KT_ROW(IQ1_S, dot_f32_q8_iq1_s_n16_avx2)
KT_ROW(IQ1_M, dot_f32_q8_iq1_m_n16_avx2)
KT_ROW(IQ2_XXS, dot_f32_q8_iq2_xxs_n16_avx2)
KT_ROW(IQ2_XS, dot_f32_q8_iq2_xs_n16_avx2)
KT_ROW(IQ2_S, dot_f32_q8_iq2_s_n16_avx2)
KT_ROW(IQ3_XXS, dot_f32_q8_iq3_xxs_n16_avx2)
KT_ROW(IQ3_S, dot_f32_q8_iq3_s_n16_avx2)
#undef KT_ROW

}  // namespace kt::kernels::dot
