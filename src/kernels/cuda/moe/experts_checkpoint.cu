#include "kernels/cuda/moe/grouped.cuh"

namespace kt::kernels::cuda {

KT_EXPERT_KERNELS(kF8_E4M3_B128, TileF8_E4M3_B128)
KT_EXPERT_KERNELS(kI4_32, TileI4<32>)
KT_EXPERT_KERNELS(kI4_128, TileI4<128>)

}  // namespace kt::kernels::cuda
