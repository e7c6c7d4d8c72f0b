#include "kernels/cuda/moe/grouped.cuh"

namespace kt::kernels::cuda {

KT_EXPERT_KERNELS(kQ4_K, TileQ4_K)
KT_EXPERT_KERNELS(kQ5_K, TileQ5_K)

}  // namespace kt::kernels::cuda
