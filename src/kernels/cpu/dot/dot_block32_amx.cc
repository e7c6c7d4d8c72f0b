// AMX rows with bf16 activations: blocks of 32 to 128 (Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1,
// IQ4_NL, MXFP4, NVFP4, I4).
#include "kernels/cpu/dot/n16_amx.h"

namespace kt::kernels::dot {

#define KT_ROW(weight, name)               \
  void name(const DotArgs& args) noexcept; \
  void name(const DotArgs& args) noexcept { run_bf16<Quantized<weight>>(args); }
KT_ROW(Q4_0, dot_f32_bf16_q4_0_n16_amx)
KT_ROW(Q4_1, dot_f32_bf16_q4_1_n16_amx)
KT_ROW(Q5_0, dot_f32_bf16_q5_0_n16_amx)
KT_ROW(Q5_1, dot_f32_bf16_q5_1_n16_amx)
KT_ROW(Q8_0, dot_f32_bf16_q8_1_n16_amx)
KT_ROW(Q8_0, dot_f32_bf16_q8_0_n16_amx)
KT_ROW(IQ4_NL, dot_f32_bf16_iq4_nl_n16_amx)
KT_ROW(MXFP4, dot_f32_bf16_mxfp4_n16_amx)
KT_ROW(NVFP4, dot_f32_bf16_nvfp4_n16_amx)
KT_ROW(I4<32>, dot_f32_bf16_i4_32_n16_amx)
KT_ROW(I4<64>, dot_f32_bf16_i4_64_n16_amx)
KT_ROW(I4<128>, dot_f32_bf16_i4_128_n16_amx)
#undef KT_ROW

}  // namespace kt::kernels::dot
