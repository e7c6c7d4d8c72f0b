// AMX rows with bf16 activations: codebook formats (IQ2, IQ3).
#include "kernels/cpu/dot/n16_amx.h"
#include "kernels/cpu/dot/n16_iq_avx512.h"

namespace kt::kernels::dot {

#define KT_ROW(weight, name)               \
  void name(const DotArgs& args) noexcept; \
  void name(const DotArgs& args) noexcept { run_bf16<Quantized<weight>>(args); }
KT_ROW(IQ2_XXS, dot_f32_bf16_iq2_xxs_n16_amx)
KT_ROW(IQ2_XS, dot_f32_bf16_iq2_xs_n16_amx)
KT_ROW(IQ2_S, dot_f32_bf16_iq2_s_n16_amx)
KT_ROW(IQ3_XXS, dot_f32_bf16_iq3_xxs_n16_amx)
KT_ROW(IQ3_S, dot_f32_bf16_iq3_s_n16_amx)
#undef KT_ROW

}  // namespace kt::kernels::dot
