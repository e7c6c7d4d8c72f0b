// Experts of few tokens, each (token, expert) pair by itself, as products of one row
// (gemm/one_row.cuh).
//
// Gate: blocks share the row tiles of all experts of a token, gate and up tile by tile, and write
// silu(gate) · up. Down: blocks share the row tiles of d_model, each for all experts of the token,
// and write the weighted sum of the experts in the order of the slots. They come while gate's
// blocks end, and ask for their first tiles then: ids and weights were there before gate let them
// come. Thread rule: status.h.
#pragma once
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/gemm/one_row.cuh"
#include "kernels/cuda/moe/grouped.h"

namespace kt::kernels::cuda {

/// Row tile `row_tile` of an expert. Experts that are elsewhere are read as expert 0, and their
/// results left out.
template <class T>
__device__ const Byte* expert_tiles(const FewArgs& args, const void* tiles, std::int32_t id,
                                    int row_tile, int row_tiles, int k_tiles) {
  if (id < 0 || id >= args.n_experts) id = 0;
  return static_cast<const Byte*>(tiles) +
         (static_cast<std::int64_t>(id) * row_tiles + row_tile) * k_tiles * T::kBytes;
}

template <class T>
__global__ void __launch_bounds__(kRowWarps<T>* kWarp, 1)
    few_gate_kernel(const __grid_constant__ FewArgs args, int most) {
  extern __shared__ __align__(16) Byte shared[];
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
  start_next();  // not before: down reads ids and weights before gate has ended
  stager.load();
  const std::int32_t* ids = args.ids + blockIdx.y * args.n_active;
  multiply_rows<T>(
      walk,
      [&](int row) {
        const int unit = begin + row / 2;
        return expert_tiles<T>(args, row % 2 == 0 ? args.first : args.second, ids[unit / row_tiles],
                               unit % row_tiles, row_tiles, k_tiles);
      },
      to_x,
      [&] {
        fill_table<T>(table);
        stager.finish();
        __syncthreads();
      });
  // A warp for each unit: gate's rows in its first half, up's in the other.
  for (int i = threadIdx.x; i < units * kWarp; i += blockDim.x) {
    const int row = i / kRowsOfTile, r = i % kRowsOfTile, unit = begin + row / 2;
    const int n = unit % row_tiles * kRowsOfTile + r;
    const std::int64_t pair = blockIdx.y * args.n_active + unit / row_tiles;
    const float sum = walk.sum(row, r), up = __shfl_down_sync(~0u, sum, kRowsOfTile);
    if (row % 2 != 0 || n >= args.n) continue;
    static_cast<std::uint16_t*>(args.out)[pair * args.n + n] = to_bf16(silu(sum) * up);
  }
}

/// Down's shared memory besides what the products need.
struct DownShared {
  std::int32_t* ids;  // [n_active]
  float* weights;     // [n_active]
  float* products;    // [rows][16]: weight · sum
  static constexpr std::size_t bytes(std::int64_t n_active, std::int64_t rows) {
    return static_cast<std::size_t>(2 * n_active + rows * kRowsOfTile) * 4;
  }
  __device__ DownShared(Byte* memory, int n_active)
      : ids(reinterpret_cast<std::int32_t*>(memory)),
        weights(reinterpret_cast<float*>(ids + n_active)),
        products(weights + n_active) {}
};

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
  const DownShared own(
      reinterpret_cast<Byte*>(walk.sums) + row_sums_bytes(walk.rows, RowWalk::warps()), n_active);
  const std::int32_t* ids = args.ids + blockIdx.y * n_active;
  for (int slot = threadIdx.x; slot < n_active; slot += blockDim.x) {
    own.ids[slot] = read_early(ids + slot);
    own.weights[slot] = read_early(args.weights + blockIdx.y * n_active + slot);
  }
  multiply_rows<T>(
      walk,
      [&](int row) {
        return expert_tiles<T>(args, args.first, read_early(ids + row % n_active),
                               begin + row / n_active, row_tiles, k_tiles);
      },
      [&](int row) { return x_of(row % n_active); },
      [&] {
        fill_table<T>(table);
        await_previous();
        RowStager<T, decltype(x_of), kRowWarps<T> <= 16 ? 4 : 2> stager(
            n_active, args.x + blockIdx.y * n_active * args.x_stride,
            static_cast<int>(args.x_stride), static_cast<int>(args.k), k_tiles, x_of);
        stager.load();
        stager.finish();
        __syncthreads();
      });
  for (int i = threadIdx.x; i < walk.rows * kRowsOfTile; i += blockDim.x) {
    const int row = i / kRowsOfTile;
    own.products[i] = own.weights[row % n_active] * walk.sum(row, i % kRowsOfTile);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < units * kRowsOfTile; i += blockDim.x) {
    const int row = i / kRowsOfTile, r = i % kRowsOfTile, n = (begin + row) * kRowsOfTile + r;
    if (n >= args.n) continue;
    const std::int64_t at = blockIdx.y * args.out_stride + n;
    float sum = args.add ? load_as_float(args.out, args.out_type, at) : 0.0f;
#pragma unroll 4
    for (int slot = 0; slot < n_active; ++slot) {
      const float product = own.products[(row * n_active + slot) * kRowsOfTile + r];
      const std::int32_t id = own.ids[slot];
      if (id >= 0 && id < args.n_experts) sum += product;
    }
    store_float(args.out, args.out_type, at, sum);
  }
}

/// How the blocks of a launch share the units: gate and up of a row tile of one expert, or a row
/// tile of all experts.
struct FewPlan {
  RowPlan rows;
  std::int64_t units = 0;
  std::size_t shared = 0;  // bytes
};

template <class T>
FewPlan plan_few(const FewArgs& args) {
  const bool gate = args.second != nullptr;
  const std::int64_t k_tiles = div_up<std::int64_t>(args.k, T::kK);
  const std::int64_t row_tiles = div_up<std::int64_t>(args.n, kRowsOfTile);
  FewPlan plan;
  plan.units = gate ? row_tiles * args.n_active : row_tiles;
  plan.rows =
      plan_rows(plan.units, gate ? 2 : args.n_active, k_tiles, multiprocessors(), kRowWarps<T>);
  plan.shared = table_bytes<T>() + (gate ? 1 : args.n_active) * row_bytes<T>(k_tiles) +
                plan.rows.sums_bytes +
                (gate ? 0 : DownShared::bytes(args.n_active, plan.rows.most * args.n_active));
  return plan;
}

template <class T>
bool few_fit(const FewArgs& args) {
  return plan_few<T>(args).shared <= most_shared();
}

/// kUnsupported where shared memory does not hold the rows.
template <class T>
Status launch_few(const FewArgs& args, Stream stream) {
  const FewPlan plan = plan_few<T>(args);
  if (plan.shared > most_shared()) return Status::kUnsupported;
  void (*kernel)(FewArgs, int) = args.second != nullptr ? few_gate_kernel<T> : few_down_kernel<T>;
  const Status status = allow_shared(kernel, plan.shared);
  if (status != Status::kOk) return status;
  const dim3 grid(static_cast<unsigned>(div_up<std::int64_t>(plan.units, plan.rows.most)),
                  static_cast<unsigned>(args.m));
  return launch(kernel, grid, static_cast<unsigned>(plan.rows.warps * kWarp), plan.shared, stream,
                args, plan.rows.most);
}

}  // namespace kt::kernels::cuda
