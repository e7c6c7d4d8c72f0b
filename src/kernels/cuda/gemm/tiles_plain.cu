#include "kernels/cuda/gemm/tile_kernels.cuh"

namespace kt::kernels::cuda {

KT_TILE_KERNELS(kF32, TileF32)
KT_TILE_KERNELS(kF16, TileF16)
KT_TILE_KERNELS(kBF16, TileBF16)

}  // namespace kt::kernels::cuda
