#include "kernels/cuda/gemm/many_experts.cuh"

namespace kt::kernels::cuda {

KT_MANY_ROWS(kQ4_K, TileQ4_K)
KT_MANY_ROWS(kQ5_K, TileQ5_K)

}  // namespace kt::kernels::cuda
