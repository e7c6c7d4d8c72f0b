#include "kernels/cuda/moe/grouped.cuh"

namespace kt::kernels::cuda {

KT_EXPERT_KERNELS(kQ6_K, TileQ6_K)

}  // namespace kt::kernels::cuda
