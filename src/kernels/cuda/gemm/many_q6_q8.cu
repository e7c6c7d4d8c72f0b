#include "kernels/cuda/gemm/many_experts.cuh"

namespace kt::kernels::cuda {

KT_MANY_ROWS(kQ6_K, TileQ6_K)
KT_MANY_ROWS(kQ4_0, TileQ4_0)
KT_MANY_ROWS(kQ8_0, TileQ8_0)

}  // namespace kt::kernels::cuda
