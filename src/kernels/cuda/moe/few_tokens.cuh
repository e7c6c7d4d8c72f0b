// Experts of few tokens, each (token, expert) pair by itself, as products of one row
// (gemm/one_row.cuh).
//
// Gate: blocks share the row tiles of all experts of a token, gate and up tile by tile, and write
// silu(gate) · up. Down: blocks share the row tiles of d_model, each for all experts of the token,
// and write the weighted sum of the experts in the order of the slots. Thread rule: status.h.
#pragma once
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/gemm/one_row.cuh"
#include "kernels/cuda/moe/grouped.h"

namespace kt::kernels::cuda {

/// Row tile `row_tile` of the expert in a slot of the block's token. Experts that are elsewhere are
/// read as expert 0, and their results left out.
template <class T>
__device__ const Byte* expert_tiles(const FewArgs& args, const void* tiles, int slot, int row_tile,
                                    int row_tiles, int k_tiles) {
  std::int32_t id = args.ids[blockIdx.y * args.n_active + slot];
  if (id < 0 || id >= args.n_experts) id = 0;
  return static_cast<const Byte*>(tiles) +
         (static_cast<std::int64_t>(id) * row_tiles + row_tile) * k_tiles * T::kBytes;
}

/// Asks for this block's share of what down will read of the token's experts, so that it comes to
/// L2 while gate's blocks end and down's begin.
__device__ inline void fetch_later(const FewArgs& args) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const int slot = threadIdx.x;
  if (slot >= args.n_active) return;
  const std::int32_t id = args.ids[blockIdx.y * args.n_active + slot];
  if (id < 0 || id >= args.n_experts) return;
  const std::int64_t share = div_up<std::int64_t>(args.later_bytes / 16, gridDim.x) * 16;
  const std::int64_t begin = blockIdx.x * share, left = args.later_bytes - begin;
  if (left <= 0) return;
  const auto* from = static_cast<const Byte*>(args.later) + id * args.later_bytes + begin;
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(from)),
               "r"(static_cast<std::uint32_t>(left < share ? left : share))
               : "memory");
#endif
}

template <class T>
__global__ void __launch_bounds__(kRowWarps<T>* kWarp, 1)
    few_gate_kernel(const __grid_constant__ FewArgs args, int most) {
  extern __shared__ __align__(16) Byte shared[];
  start_next();
  const int k_tiles = static_cast<int>(div_up<std::int64_t>(args.k, T::kK));
  const int row_tiles = static_cast<int>(div_up<std::int64_t>(args.n, kRowsOfTile));
  const int begin = blockIdx.x * most, units = min(most, args.n_active * row_tiles - begin);
  RowWalk walk;
  walk.rows = 2 * units;
  walk.k_tiles = k_tiles;
  auto* table = reinterpret_cast<std::uint32_t*>(shared);
  walk.table = table;
  const StagedRow<T> x(shared + table_bytes<T>(), k_tiles);
  walk.sums = reinterpret_cast<float*>(shared + table_bytes<T>() + row_bytes<T>(k_tiles));
  const auto to_x = [&](int) { return x; };
  RowStager<T, decltype(to_x)> stager(1, args.x + blockIdx.y * args.x_stride, 0,
                                      static_cast<int>(args.k), k_tiles, to_x);
  await_previous();
  stager.load();
  multiply_rows<T>(
      walk,
      [&](int row) {
        const int unit = begin + row / 2;
        return expert_tiles<T>(args, row % 2 == 0 ? args.first : args.second, unit / row_tiles,
                               unit % row_tiles, row_tiles, k_tiles);
      },
      to_x,
      [&] {
        fill_table<T>(table);
        stager.finish();
        __syncthreads();
      });
  fetch_later(args);
  for (int i = threadIdx.x; i < units * kRowsOfTile; i += blockDim.x) {
    const int row = i / kRowsOfTile, r = i % kRowsOfTile, unit = begin + row;
    const int n = unit % row_tiles * kRowsOfTile + r;
    if (n >= args.n) continue;
    const std::int64_t pair = blockIdx.y * args.n_active + unit / row_tiles;
    static_cast<std::uint16_t*>(args.out)[pair * args.n + n] =
        to_bf16(silu(walk.sum(2 * row, r)) * walk.sum(2 * row + 1, r));
  }
}

template <class T>
__global__ void __launch_bounds__(kRowWarps<T>* kWarp, 1)
    few_down_kernel(const __grid_constant__ FewArgs args, int most) {
  extern __shared__ __align__(16) Byte shared[];
  start_next();
  const int k_tiles = static_cast<int>(div_up<std::int64_t>(args.k, T::kK));
  const int row_tiles = static_cast<int>(div_up<std::int64_t>(args.n, kRowsOfTile));
  const int begin = blockIdx.x * most, units = min(most, row_tiles - begin);
  const int n_active = args.n_active;
  RowWalk walk;
  walk.rows = units * n_active;
  walk.k_tiles = k_tiles;
  auto* table = reinterpret_cast<std::uint32_t*>(shared);
  walk.table = table;
  Byte* staged = shared + table_bytes<T>();
  const auto x_of = [&](int slot) {
    return StagedRow<T>(staged + slot * row_bytes<T>(k_tiles), k_tiles);
  };
  walk.sums = reinterpret_cast<float*>(staged + n_active * row_bytes<T>(k_tiles));
  RowStager<T, decltype(x_of)> stager(n_active, args.x + blockIdx.y * n_active * args.x_stride,
                                      static_cast<int>(args.x_stride), static_cast<int>(args.k),
                                      k_tiles, x_of);
  await_previous();
  stager.load();
  multiply_rows<T>(
      walk,
      [&](int row) {
        return expert_tiles<T>(args, args.first, row % n_active, begin + row / n_active, row_tiles,
                               k_tiles);
      },
      [&](int row) { return x_of(row % n_active); },
      [&] {
        fill_table<T>(table);
        stager.finish();
        __syncthreads();
      });
  for (int i = threadIdx.x; i < units * kRowsOfTile; i += blockDim.x) {
    const int row = i / kRowsOfTile, r = i % kRowsOfTile, n = (begin + row) * kRowsOfTile + r;
    if (n >= args.n) continue;
    const std::int64_t at = blockIdx.y * args.out_stride + n;
    float sum = args.add ? load_as_float(args.out, args.out_type, at) : 0.0f;
    for (int slot = 0; slot < n_active; ++slot) {
      const std::int64_t pair = blockIdx.y * n_active + slot;
      const std::int32_t id = args.ids[pair];
      if (id < 0 || id >= args.n_experts) continue;
      sum += args.weights[pair] * walk.sum(row * n_active + slot, r);
    }
    store_float(args.out, args.out_type, at, sum);
  }
}

/// kUnsupported where shared memory does not hold the rows.
template <class T>
Status launch_few(const FewArgs& args, Stream stream) {
  const bool gate = args.second != nullptr;
  const std::int64_t k_tiles = div_up<std::int64_t>(args.k, T::kK);
  const std::int64_t row_tiles = div_up<std::int64_t>(args.n, kRowsOfTile);
  // A unit: gate and up of a row tile of one expert, or a row tile of all experts.
  const std::int64_t units = gate ? row_tiles * args.n_active : row_tiles;
  const RowPlan plan =
      plan_rows(units, gate ? 2 : args.n_active, k_tiles, multiprocessors(), kRowWarps<T>);
  const std::size_t shared =
      table_bytes<T>() + (gate ? 1 : args.n_active) * row_bytes<T>(k_tiles) + plan.sums_bytes;
  if (shared > most_shared()) return Status::kUnsupported;
  void (*kernel)(FewArgs, int) = gate ? few_gate_kernel<T> : few_down_kernel<T>;
  const Status status = allow_shared(kernel, shared);
  if (status != Status::kOk) return status;
  const dim3 grid(static_cast<unsigned>(div_up<std::int64_t>(units, plan.most)),
                  static_cast<unsigned>(args.m));
  return launch(kernel, grid, static_cast<unsigned>(plan.warps * kWarp), shared, stream, args,
                plan.most);
}

}  // namespace kt::kernels::cuda
