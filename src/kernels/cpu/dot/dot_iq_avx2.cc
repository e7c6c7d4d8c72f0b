// AVX2 rows with int8 and int16 activations: codebook formats below 4 bits (IQ1, IQ2, IQ3).
#include "kernels/cpu/dot/n16_iq_avx2.h"

namespace kt::kernels::dot {

KT_ROWS(IQ1_S, iq1_s)
KT_ROWS(IQ1_M, iq1_m)
KT_ROWS(IQ2_XXS, iq2_xxs)
KT_ROWS(IQ2_XS, iq2_xs)
KT_ROWS(IQ2_S, iq2_s)
KT_ROWS(IQ3_XXS, iq3_xxs)
KT_ROWS(IQ3_S, iq3_s)

}  // namespace kt::kernels::dot
