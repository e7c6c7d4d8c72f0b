// Elementwise kernels for ISA 'ref'.
#include "kernels/cpu/elementwise/elementwise.h"

#pragma GCC diagnostic ignored "-Wpsabi"
#define KT_LANES 4

namespace kt::kernels::elementwise {
#include "kernels/cpu/elementwise/elementwise_impl.inc"
extern const Table kTable_ref;
const Table kTable_ref = {"ref",     0,         rms_norm,   silu_mul, add,
                          scale_add, rope_half, rope_pairs, softmax};
}  // namespace kt::kernels::elementwise
