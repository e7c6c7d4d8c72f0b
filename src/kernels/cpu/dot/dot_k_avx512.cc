// AVX-512 rows with int8 activations: super-blocks of 256 (Q2_K … Q6_K, Q8_K, TQ2_0, IQ4_XS).
#include "kernels/cpu/dot/n16_avx512.h"

namespace kt::kernels::dot {

#define KT_ROW(weight, name)               \
  void name(const DotArgs& args) noexcept; \
  void name(const DotArgs& args) noexcept { run_q8<weight>(args); }
KT_ROW(Q2_K, dot_f32_q8_q2_k_n16_avx512)
KT_ROW(Q3_K, dot_f32_q8_q3_k_n16_avx512)
KT_ROW(Q4_K, dot_f32_q8_q4_k_n16_avx512)
KT_ROW(Q5_K, dot_f32_q8_q5_k_n16_avx512)
KT_ROW(Q6_K, dot_f32_q8_q6_k_n16_avx512)
KT_ROW(IQ4_XS, dot_f32_q8_iq4_xs_n16_avx512)
KT_ROW(Q8_K, dot_f32_q8_q8_k_n16_avx512)
KT_ROW(TQ2_0, dot_f32_q8_tq2_0_n16_avx512)
#undef KT_ROW

}  // namespace kt::kernels::dot
