#include "kernels/cuda/device/clusters.cuh"
#include "kernels/cuda/elementwise/route.cuh"
#include "kernels/cuda/gemm/multiply.cuh"
#include "kernels/cuda/moe/router.h"

namespace kt::kernels::cuda {
namespace {

// Blocks of the one cluster share the row tiles, warps of a block the k of each.
constexpr int kRouterBlocks = 8, kRouterWarps = 16;
constexpr int kMostRouted = 512;

/// A lane's part of a tile and of x: values 4t + (0 … 3) and 16 more of rows g and g + 8.
struct RouterPiece {
  TileF32::Raw w;
  uint2 x[2];

  __device__ void multiply(float (&acc)[2]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint2& quad = x[i / 4];
      const std::uint32_t pair = i % 4 < 2 ? quad.x : quad.y;
      const float v = i % 2 == 0 ? low_bf16(pair) : high_bf16(pair);
#pragma unroll
      for (int h = 0; h < 2; ++h) acc[h] += __uint_as_float(w.value(h, 0, i)) * v;
    }
  }
};

/// Tiles of a warp: tile `warp`, `warp` + kRouterWarps, … of the block's first row tile, then of
/// its second, and so on; the block's row tiles are kRouterBlocks apart.
struct RouterWalk {
  int k_tiles, steps, items;

  __device__ RouterWalk(int row_tiles, int k_tiles_)
      : k_tiles(k_tiles_), steps(div_up(k_tiles_, kRouterWarps)) {
    items = div_up(row_tiles - static_cast<int>(blockIdx.x), kRouterBlocks) * steps;
  }
  __device__ int tile(int item) const { return threadIdx.x / kWarp + item % steps * kRouterWarps; }
  __device__ bool has(int item) const { return item < items && tile(item) < k_tiles; }
  __device__ void load_weights(RouterPiece& piece, int item, const void* tiles) const {
    if (!has(item)) return;
    const std::int64_t row = blockIdx.x + item / steps * kRouterBlocks;
    load_raw<TileF32>(
        piece.w, static_cast<const Byte*>(tiles) + (row * k_tiles + tile(item)) * TileF32::kBytes,
        threadIdx.x % kWarp);
  }
  __device__ void load_x(RouterPiece& piece, int item, const void* x) const {
    if (!has(item)) return;
    const auto* from =
        static_cast<const std::uint16_t*>(x) + tile(item) * TileF32::kK + 4 * (threadIdx.x % 4);
    piece.x[0] = *reinterpret_cast<const uint2*>(from);
    piece.x[1] = *reinterpret_cast<const uint2*>(from + 16);
  }
};

/// The warp's sums of its block's row tiles, to parts[row tile][row]. kAhead tiles are under way.
template <int kAhead>
__device__ void multiply_router(const RouterWalk& walk, const GemmArgs& product,
                                float (*parts)[kTileRows]) {
  const int lane = threadIdx.x % kWarp;
  RouterPiece pieces[kAhead];
#pragma unroll
  for (int j = 0; j < kAhead; ++j) walk.load_weights(pieces[j], j, product.w.tiles);
  await_previous();
#pragma unroll
  for (int j = 0; j < kAhead; ++j) walk.load_x(pieces[j], j, product.x);
  float acc[2] = {};
#pragma unroll 1
  for (int begin = 0; begin < walk.items; begin += kAhead) {
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      const int item = begin + j;
      if (item >= walk.items) break;
      if (walk.has(item)) pieces[j].multiply(acc);
      walk.load_weights(pieces[j], item + kAhead, product.w.tiles);
      walk.load_x(pieces[j], item + kAhead, product.x);
      if (item % walk.steps != walk.steps - 1) continue;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        acc[h] += __shfl_xor_sync(~0u, acc[h], 1);
        acc[h] += __shfl_xor_sync(~0u, acc[h], 2);
        if (lane % 4 == 0) parts[item / walk.steps][lane / 4 + 8 * h] = acc[h];
        acc[h] = 0.0f;
      }
    }
  }
}

template <int kEach>
__global__ void __launch_bounds__(kRouterWarps* kWarp, 1)
    router_kernel(const __grid_constant__ RouterArgs args) {
  constexpr int kMostTiles = kMostRouted / kTileRows / kRouterBlocks;
  constexpr int kAhead = 4;  // all that a warp has of 128 experts and 2048 values
  __shared__ float parts[kRouterWarps][kMostTiles][kTileRows], scores[kMostRouted];
  start_next();
  arrive_cluster();  // until all blocks run, no other's memory may be written
  const int row_tiles = static_cast<int>(div_up(args.product.w.n, kTileRows));
  const RouterWalk walk(row_tiles,
                        static_cast<int>(div_up<std::int64_t>(args.product.w.k, TileF32::kK)));
  multiply_router<kAhead>(walk, args.product, parts[threadIdx.x / kWarp]);
  __syncthreads();
  wait_cluster();
  for (int i = threadIdx.x; i < walk.items / walk.steps * kTileRows; i += blockDim.x) {
    const int row = i / static_cast<int>(kTileRows), r = i % static_cast<int>(kTileRows);
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kRouterWarps; ++warp) sum += parts[warp][row][r];
    float* place = scores + (static_cast<int>(blockIdx.x) + row * kRouterBlocks) * kTileRows + r;
    store_there(in_block(place, 0), sum);
  }
  sync_cluster();
  if (blockIdx.x == 0 && threadIdx.x < kWarp) choose_experts<kEach>(args.route, scores, 0);
}

bool in_one_launch(const RouterArgs& args) {
  const GemmArgs& product = args.product;
  return has_clusters() && product.m == 1 && product.w.format == formats::Format::kF32 &&
         product.x_type == Type::kBF16 && product.bias == nullptr &&
         product.w.k % TileF32::kK == 0 && reinterpret_cast<std::uintptr_t>(product.x) % 8 == 0 &&
         args.route.n_experts <= kMostRouted && args.route.n_groups == 1;
}

}  // namespace

Status score_and_route(const RouterArgs& args, const DeviceInfo& device, BlasLt* blas,
                       Stream stream) {
  const RouteArgs& choice = args.route;
  if (args.product.w.n != choice.n_experts || args.product.m != choice.m || choice.n_active < 1 ||
      choice.n_active > choice.n_experts)
    return Status::kBadArgument;
  if (!in_one_launch(args)) {
    const Status status = gemm(args.product, device, blas, stream);
    return status == Status::kOk ? route(choice, stream) : status;
  }
  void (*kernel)(RouterArgs) = choice.n_experts <= 128   ? router_kernel<4>
                               : choice.n_experts <= 256 ? router_kernel<8>
                                                         : router_kernel<16>;
  return launch_clusters(dim3(kRouterBlocks), kernel, kRouterBlocks, kRouterWarps * kWarp, 0,
                         stream, args);
}

}  // namespace kt::kernels::cuda
