#include "kernels/cuda/gemm/tile_kernels.cuh"

namespace kt::kernels::cuda {

KT_TILE_KERNELS(kQ4_0, TileQ4_0)
KT_TILE_KERNELS(kQ4_1, TileQ4_1)
KT_TILE_KERNELS(kMXFP4, TileMXFP4)
KT_TILE_KERNELS(kNVFP4, TileNVFP4)

}  // namespace kt::kernels::cuda
