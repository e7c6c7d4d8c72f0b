#include "kernels/cuda/gemm/tile_kernels.cuh"

namespace kt::kernels::cuda {

KT_TILE_KERNELS(kQ4_K, TileQ4_K)
KT_TILE_KERNELS(kQ5_K, TileQ5_K)
KT_TILE_KERNELS(kQ6_K, TileQ6_K)

}  // namespace kt::kernels::cuda
