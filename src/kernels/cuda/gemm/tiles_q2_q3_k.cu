#include "kernels/cuda/gemm/tile_kernels.cuh"

namespace kt::kernels::cuda {

KT_TILE_KERNELS(kQ2_K, TileQ2_K)
KT_TILE_KERNELS(kQ3_K, TileQ3_K)

}  // namespace kt::kernels::cuda
