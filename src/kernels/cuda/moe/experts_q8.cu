#include "kernels/cuda/moe/grouped.cuh"

namespace kt::kernels::cuda {

KT_EXPERT_KERNELS(kQ8_0, TileQ8_0)
KT_EXPERT_KERNELS(kBF16, TileBF16)

}  // namespace kt::kernels::cuda
