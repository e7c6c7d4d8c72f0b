#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/numbers.cuh"
#include "kernels/cuda/gemm/reference.h"

namespace kt::kernels::cuda {
namespace {

__global__ void multiply_kernel(GemmArgs args, const float* slab, std::int64_t begin,
                                std::int64_t n_rows) {
  const std::int64_t index =
      static_cast<std::int64_t>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  if (index >= n_rows * args.m) return;
  const std::int64_t row = index % n_rows, token = index / n_rows, k = args.w.k;
  float sum = 0.0f;
  for (std::int64_t i = threadIdx.x % kWarp; i < k; i += kWarp) {
    sum += load_as_float(args.x, args.x_type, token * args.x_stride + i) * slab[row * k + i];
  }
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0)
    store_float(args.y, args.y_type, token * args.y_stride + begin + row, sum);
}

}  // namespace

Status multiply_reference(const GemmArgs& args, const float* slab, std::int64_t begin,
                          std::int64_t n_rows, Stream stream) {
  constexpr int kBlock = 256;
  const std::int64_t blocks = div_up<std::int64_t>(n_rows * args.m, kBlock / kWarp);
  multiply_kernel<<<static_cast<unsigned>(blocks), kBlock, 0, stream>>>(args, slab, begin, n_rows);
  return launched();
}

}  // namespace kt::kernels::cuda
