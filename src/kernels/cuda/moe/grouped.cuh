// The kernel of expert products: the inner loop of gemm/multiply.cuh over pieces of work
// (moe/grouped.h).
//
// A block of 8 warps takes 8 row tiles of one piece. x is staged in chunks that fit shared memory.
// Gate and up are walked together, so that their product needs no memory between. Thread rule:
// status.h.
#pragma once
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/gemm/multiply.cuh"
#include "kernels/cuda/moe/few_tokens.cuh"
#include "kernels/cuda/moe/grouped.h"

namespace kt::kernels::cuda {

inline constexpr int kGroupedWarps = 8;

template <class T, int kN, bool kGate>
__global__ void __launch_bounds__(kGroupedWarps* kWarp, 2)
    grouped_kernel(GroupedArgs args, int chunk_tiles) {
  extern __shared__ __align__(16) Byte shared[];
  start_next();
  await_previous();
  if (static_cast<std::int32_t>(blockIdx.y) >= *args.n_pieces) return;
  const Piece piece = args.pieces[blockIdx.y];
  const auto pair_of = [&](int r) -> std::int32_t { return args.pairs[piece.begin + r]; };

  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int k_tiles = static_cast<int>(div_up<std::int64_t>(args.k, T::kK));
  const std::int64_t row_tiles = div_up<std::int64_t>(args.n, 16);
  const std::int64_t row_tile = static_cast<std::int64_t>(blockIdx.x) * kGroupedWarps + warp;
  const bool inside = row_tile < row_tiles;
  const std::int64_t offset = (piece.expert * row_tiles + row_tile) * k_tiles * T::kBytes;
  const Byte* first = static_cast<const Byte*>(args.first) + offset;
  const Byte* second = static_cast<const Byte*>(args.second) + offset;

  constexpr int kMatrices = kGate ? 2 : 1;
  float acc[kMatrices][1][kN][4] = {};
  fill_table<T>(Staged<T, kN>(shared, 0).table);
  for (int chunk = 0; chunk < k_tiles; chunk += chunk_tiles) {
    const int end = min(chunk + chunk_tiles, k_tiles);
    const Staged<T, kN> x(shared, end - chunk);
    if (chunk > 0) __syncthreads();
    stage<T, kN>(x, piece.count, static_cast<std::int64_t>(chunk) * T::kK, end - chunk, args.k,
                 rows_aligned<16>(args.x, args.x_stride),
                 [&](int r) { return args.x + pair_of(r) / args.rows_of_x * args.x_stride; });
    __syncthreads();
    if (!inside) continue;
    // Other warps hide the wait for the weights: registers are full of sums.
    for (int tile = chunk; tile < end; ++tile) {
#pragma unroll
      for (int i = 0; i < kMatrices; ++i) {
        typename T::Raw raw[1];
        load_raw<T>(raw[0], (i == 0 ? first : second) + static_cast<std::int64_t>(tile) * T::kBytes,
                    lane);
        multiply_tiles<T, kN, 1>(raw, x, tile - chunk, acc[i]);
        // The other matrix reads x again: there are no registers to keep it in.
        __syncwarp();
      }
    }
  }

  __syncthreads();
  auto* sums = reinterpret_cast<float*>(shared);  // [matrix][warp][8 kN rows of x][16 rows]
  constexpr int kPerWarp = 8 * kN * 16;
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < kMatrices; ++i) {
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        sums[(i * kGroupedWarps + warp) * kPerWarp + (8 * n + 2 * t + e % 2) * 16 + g + e / 2 * 8] =
            acc[i][0][n][e];
      }
    }
  }
  __syncthreads();
  constexpr int rows = kGroupedWarps * 16;
  for (int i = threadIdx.x; i < rows * piece.count; i += blockDim.x) {
    const int r = i % rows, token = i / rows;
    const std::int64_t row = static_cast<std::int64_t>(blockIdx.x) * rows + r;
    if (row >= args.n) continue;
    float total[kMatrices];
#pragma unroll
    for (int j = 0; j < kMatrices; ++j)
      total[j] = sums[(j * kGroupedWarps + r / 16) * kPerWarp + token * 16 + r % 16];
    const std::int64_t at = static_cast<std::int64_t>(pair_of(token)) * args.n + row;
    if constexpr (kGate) {
      static_cast<std::uint16_t*>(args.out)[at] = to_bf16(silu(total[0]) * total[1]);
    } else {
      static_cast<float*>(args.out)[at] = total[0];
    }
  }
}

template <class T, int kN, bool kGate>
Status launch_grouped_kernel(const GroupedArgs& args, Stream stream) {
  const int k_tiles = static_cast<int>(div_up<std::int64_t>(args.k, T::kK));
  constexpr std::size_t kBudget = 72 * 1024;
  int chunk = 1;
  while (chunk < k_tiles && Staged<T, kN>::bytes(chunk + 1) <= kBudget) ++chunk;
  const std::size_t staged = Staged<T, kN>::bytes(chunk);
  const std::size_t reduce = (kGate ? 2 : 1) * kGroupedWarps * 8 * kN * 16 * 4;
  const std::size_t shared = staged > reduce ? staged : reduce;
  const Status status = allow_shared(grouped_kernel<T, kN, kGate>, shared);
  if (status != Status::kOk) return status;
  const std::int64_t groups = div_up<std::int64_t>(div_up<std::int64_t>(args.n, 16), kGroupedWarps);
  const dim3 grid(static_cast<unsigned>(groups), static_cast<unsigned>(args.max_pieces));
  return launch(grouped_kernel<T, kN, kGate>, grid, kGroupedWarps * kWarp, shared, stream, args,
                chunk);
}

template <class T>
Status launch_grouped(const GroupedArgs& args, Stream stream) {
  return args.second != nullptr ? launch_grouped_kernel<T, kPieceRows / 8, true>(args, stream)
                                : launch_grouped_kernel<T, kPieceRows / 8, false>(args, stream);
}

}  // namespace kt::kernels::cuda

/// Instantiates the expert kernels of one format.
#define KT_EXPERT_KERNELS(format, T)                                                    \
  template <>                                                                           \
  const ExpertKernels& expert_kernels<formats::Format::format>() {                      \
    static const ExpertKernels row = {&few_fit<T>, &launch_few<T>, &launch_grouped<T>}; \
    return row;                                                                         \
  }
