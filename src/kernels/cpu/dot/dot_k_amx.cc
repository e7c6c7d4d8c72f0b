// AMX rows with bf16 activations: super-blocks of 256 (Q2_K … Q6_K, Q8_K, IQ4_XS, TQ2_0).
#include "kernels/cpu/dot/n16_amx.h"

namespace kt::kernels::dot {

#define KT_ROW(weight, name)               \
  void name(const DotArgs& args) noexcept; \
  void name(const DotArgs& args) noexcept { run_bf16<Quantized<weight>>(args); }
KT_ROW(Q2_K, dot_f32_bf16_q2_k_n16_amx)
KT_ROW(Q3_K, dot_f32_bf16_q3_k_n16_amx)
KT_ROW(Q4_K, dot_f32_bf16_q4_k_n16_amx)
KT_ROW(Q5_K, dot_f32_bf16_q5_k_n16_amx)
KT_ROW(Q6_K, dot_f32_bf16_q6_k_n16_amx)
KT_ROW(IQ4_XS, dot_f32_bf16_iq4_xs_n16_amx)
KT_ROW(Q8_K, dot_f32_bf16_q8_k_n16_amx)
KT_ROW(TQ2_0, dot_f32_bf16_tq2_0_n16_amx)
#undef KT_ROW

}  // namespace kt::kernels::dot
