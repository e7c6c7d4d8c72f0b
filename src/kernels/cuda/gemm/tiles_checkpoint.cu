#include "kernels/cuda/gemm/tile_kernels.cuh"

namespace kt::kernels::cuda {

KT_TILE_KERNELS(kF8_E4M3_B128, TileF8_E4M3_B128)
KT_TILE_KERNELS(kI4_32, TileI4<32>)
KT_TILE_KERNELS(kI4_64, TileI4<64>)
KT_TILE_KERNELS(kI4_128, TileI4<128>)

}  // namespace kt::kernels::cuda
