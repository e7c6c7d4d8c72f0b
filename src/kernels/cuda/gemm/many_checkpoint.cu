#include "kernels/cuda/gemm/many_experts.cuh"

namespace kt::kernels::cuda {

KT_MANY_ROWS(kMXFP4, TileMXFP4)
KT_MANY_ROWS(kF8_E4M3_B128, TileF8_E4M3_B128)
KT_MANY_ROWS(kI4_32, TileI4<32>)
KT_MANY_ROWS(kI4_128, TileI4<128>)

}  // namespace kt::kernels::cuda
