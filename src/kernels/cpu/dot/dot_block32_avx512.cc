// AVX-512 rows with int8 activations: blocks of 32 (Q4_0 … Q8_1, IQ4_NL, MXFP4), of 64 and 128
// (NVFP4, Q1_0, the groups I4 of int4 checkpoints).
#include "kernels/cpu/dot/n16_avx512.h"

namespace kt::kernels::dot {

#define KT_ROW(weight, name)               \
  void name(const DotArgs& args) noexcept; \
  void name(const DotArgs& args) noexcept { run_q8<weight>(args); }
KT_ROW(Q4_0, dot_f32_q8_q4_0_n16_avx512)
KT_ROW(Q4_1, dot_f32_q8_q4_1_n16_avx512)
KT_ROW(Q5_0, dot_f32_q8_q5_0_n16_avx512)
KT_ROW(Q5_1, dot_f32_q8_q5_1_n16_avx512)
KT_ROW(Q8_0, dot_f32_q8_q8_0_n16_avx512)
KT_ROW(IQ4_NL, dot_f32_q8_iq4_nl_n16_avx512)
KT_ROW(MXFP4, dot_f32_q8_mxfp4_n16_avx512)
KT_ROW(I4<32>, dot_f32_q8_i4_32_n16_avx512)
KT_ROW(I4<64>, dot_f32_q8_i4_64_n16_avx512)
KT_ROW(I4<128>, dot_f32_q8_i4_128_n16_avx512)
KT_ROW(Q8_0, dot_f32_q8_q8_1_n16_avx512)
KT_ROW(Q1_0, dot_f32_q8_q1_0_n16_avx512)
KT_ROW(NVFP4, dot_f32_q8_nvfp4_n16_avx512)
#undef KT_ROW

}  // namespace kt::kernels::dot
