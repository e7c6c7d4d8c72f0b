#include "kernels/cuda/moe/grouped.cuh"

namespace kt::kernels::cuda {

KT_EXPERT_KERNELS(kQ4_0, TileQ4_0)
KT_EXPERT_KERNELS(kMXFP4, TileMXFP4)

}  // namespace kt::kernels::cuda
