#include "kernels/cuda/gemm/tile_kernels.cuh"

namespace kt::kernels::cuda {

KT_TILE_KERNELS(kIQ4_NL, TileIQ4_NL)
KT_TILE_KERNELS(kIQ4_XS, TileIQ4_XS)

}  // namespace kt::kernels::cuda
