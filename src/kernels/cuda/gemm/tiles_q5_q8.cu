#include "kernels/cuda/gemm/tile_kernels.cuh"

namespace kt::kernels::cuda {

KT_TILE_KERNELS(kQ5_0, TileQ5_0)
KT_TILE_KERNELS(kQ5_1, TileQ5_1)
KT_TILE_KERNELS(kQ8_0, TileQ8_0)

}  // namespace kt::kernels::cuda
