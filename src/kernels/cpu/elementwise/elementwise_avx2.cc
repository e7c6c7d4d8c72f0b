// Elementwise kernels for ISA 'avx2'.
#include "kernels/cpu/elementwise/elementwise.h"

#define KT_LANES 8

namespace kt::kernels::elementwise {
#include "kernels/cpu/elementwise/elementwise_impl.inc"
extern const Table kTable_avx2;
const Table kTable_avx2 = {"avx2",    kAvx2,     rms_norm,   silu_mul, add,
                           scale_add, rope_half, rope_pairs, softmax};
}  // namespace kt::kernels::elementwise
