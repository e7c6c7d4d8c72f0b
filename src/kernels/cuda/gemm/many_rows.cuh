// Dense products of many rows of x on Hopper (many_rows.h), by the loop of many_loop.cuh: a block
// makes 128 rows of w × kN rows of x at a time.
//
// Blocks of a cluster share x or k. With 256 rows of x two blocks have the same ones, each brings
// half to both, and both stay and take the next piece of work. With fewer each block of a cluster
// has a part of k (ManyPlan); they add their sums through each other's shared memory, every block
// those of some of the columns. Thread rule: status.h.
#pragma once
#include "kernels/cuda/device/clusters.cuh"
#include "kernels/cuda/device/tensor_map.h"
#include "kernels/cuda/gemm/many_loop.cuh"

namespace kt::kernels::cuda {
namespace many {

/// Blocks of a cluster that have the same rows of x.
template <int kN>
constexpr int kShare = kN == 256 ? 2 : 1;

#ifdef KT_HOPPER

/// The `index`-th job of clusters; false: there are fewer.
template <class T, int kN>
__device__ bool find_job(const ManyArgs& args, int splits, int rank, int index, Job* job) {
  // Eight columns of blocks go down together, so that they share what is in L2.
  constexpr int kWide = 8;
  const int columns = static_cast<int>(div_up<std::int64_t>(args.m, kN));
  const int row_groups = static_cast<int>(div_up<std::int64_t>(args.n, 128 * kShare<kN>));
  if (index >= columns * row_groups) return false;
  const int band = index / (kWide * row_groups), at = index % (kWide * row_groups);
  const int wide = min(kWide, columns - band * kWide);
  job->first_row = (at / wide * kShare<kN> + rank % kShare<kN>)*8;
  job->begin = (band * kWide + at % wide) * kN;
  job->rows = min(kN, static_cast<int>(args.m) - job->begin);
  const int k_tiles = static_cast<int>(div_up<std::int64_t>(args.k, T::kK));
  const int part = rank / kShare<kN>;
  job->tile_begin = k_tiles * part / splits;
  job->tile_end = k_tiles * (part + 1) / splits;
  return true;
}

/// One thread: the block's share of the rows of x.
template <class T, class P, int kN>
__device__ void bring_x(const CUtensorMap* map, const Job& job, const Shared<P>& shared, int rank,
                        Turn& turn) {
  constexpr int kRows = kN / kShare<kN>;
  const int first = rank % kShare<kN> * kRows;
  for (int k = job.tile_begin * T::kK; k < job.tile_end * T::kK; k += kStageK) {
    const std::uint32_t full = shared.x_full(turn.index);
    const std::uint32_t to = shared.x + turn.index * P::kStageBytes + first * kStageK * 2;
    hopper::barrier_wait(shared.x_empty(turn.index), turn.parity ^ 1);
    hopper::barrier_expect(full, P::kStageBytes);
    if constexpr (kShare<kN> == 1) {
      hopper::copy_box(to, map, full, k, 0, job.begin);
    } else {
      hopper::copy_box_to(3, to, map, full, k, 0, job.begin + first);
    }
    turn.next(P::kStages);
  }
}

/// acc += those of the other parts of k, for the columns that are those of part `rank`.
template <class P, int kN>
__device__ void add_parts(const Shared<P>& shared, int splits, int rank, float (&acc)[kN / 2]) {
  static_assert(P::kStages * P::kStageBytes >= kN / 8 * 2 * kGroup * 16);
  const int mine = kN / 8 / splits;  // blocks of 8 columns
  const std::uint32_t thread = shared.x + (threadIdx.x - kGroup) * 16;
  constexpr int kStep = 2 * kGroup * 16;
  hopper::sync_cluster();  // nobody reads x any more
#pragma unroll
  for (int i = 0; i < kN / 8; ++i) {
    const int owner = i / mine;
    if (owner == rank) continue;
    const std::uint32_t to = thread + (rank * mine + i % mine) * kStep;
    hopper::store_there(hopper::in_block(to, owner), acc[4 * i], acc[4 * i + 1], acc[4 * i + 2],
                        acc[4 * i + 3]);
  }
  hopper::sync_cluster();
#pragma unroll
  for (int i = 0; i < kN / 8; ++i) {
    if (i / mine != rank) continue;
    for (int part = 0; part < splits; ++part) {
      if (part == rank) continue;
      const uint4 v = hopper::load_shared(thread + (part * mine + i % mine) * kStep);
      acc[4 * i] += __uint_as_float(v.x);
      acc[4 * i + 1] += __uint_as_float(v.y);
      acc[4 * i + 2] += __uint_as_float(v.z);
      acc[4 * i + 3] += __uint_as_float(v.w);
    }
  }
}

#endif

template <class T, int kN>
__global__ void __launch_bounds__(kThreads, 1)
    many_rows_kernel(const __grid_constant__ ManyArgs args,
                     const __grid_constant__ CUtensorMap x_map, int splits) {
#ifdef KT_HOPPER
  using P = Plan<T, 1, kN>;
  constexpr bool kShares = kShare<kN> > 1;
  extern __shared__ __align__(1024) Byte raw_shared[];
  const Shared<P> shared(raw_shared);
  const int rank = hopper::cluster_rank(), blocks = kShare<kN> * splits;
  const int cluster = static_cast<int>(blockIdx.x) / blocks;
  const int clusters = static_cast<int>(gridDim.x) / blocks;
  start_next();
  if (threadIdx.x == 0) shared.init_barriers(1, kShare<kN>);
  __syncthreads();
  if constexpr (kShares) hopper::sync_cluster();
  Job job;
  Turn turn, w_turn;
  const auto find = [&](int i) { return find_job<T, kN>(args, splits, rank, i, &job); };
  if (threadIdx.x < kGroup) {
    hopper::give_registers<P::kProducer>();
    if (threadIdx.x < kWarp) {
      for (int i = cluster; find(i); i += clusters)
        bring_codes<T, P, false>(args, job, shared, turn);
    }
    await_previous();
    if (threadIdx.x == kWarp) {
      for (int i = cluster; find(i); i += clusters)
        bring_x<T, P, kN>(&x_map, job, shared, rank, turn);
    }
    // As the consumers do.
    for (int i = 0; i < (kShares ? 1 : splits > 1 ? 2 : 0); ++i) hopper::sync_cluster();
  } else {
    hopper::take_registers<P::kConsumer>();
    await_previous();
    const int group = threadIdx.x / kGroup - 1, lane = threadIdx.x % kWarp;
    const std::uint32_t x_empty =
        lane < kShare<kN> ? hopper::in_block(shared.x_empty(0), kShares ? lane : rank) : 0;
    for (int i = cluster; find(i); i += clusters) {
      float acc[1][kN / 2];
      consume<T, P, 1, kN, false>(job, shared, group, x_empty, turn, w_turn, acc);
      int begin = 0, end = kN;
      if constexpr (!kShares) {
        if (splits > 1) {
          add_parts<P, kN>(shared, splits, rank, acc[0]);
          begin = kN / splits * rank;
          end = begin + kN / splits;
        }
      }
      store<P, kN>(args, job, shared, group, job.first_row * 16 + group * 64, begin, end, acc[0]);
    }
    if constexpr (kShares) hopper::sync_cluster();  // nobody gives back what has ended
  }
#endif
}

template <class T, int kN>
Status launch_many(const ManyArgs& args, int splits, Stream stream) {
  using P = Plan<T, 1, kN>;
  const auto kernel = many_rows_kernel<T, kN>;
  CUtensorMap map;
  Status status = make_map({args.x, args.m, 1, args.k, args.x_stride, 0, kN / kShare<kN>}, &map);
  if (status == Status::kOk) status = allow_shared(kernel, P::kShared);
  if (status != Status::kOk) return status;
  const int cluster = kShare<kN> * splits;
  const std::int64_t jobs =
      div_up<std::int64_t>(args.n, 128 * kShare<kN>) * div_up<std::int64_t>(args.m, kN);
  const std::int64_t most = splits > 1 ? jobs : multiprocessors() / cluster;
  const std::int64_t blocks = (jobs < most ? jobs : most) * cluster;
  return launch_clusters(kernel, dim3(static_cast<unsigned>(blocks)),
                         static_cast<unsigned>(cluster), kThreads, P::kShared, stream, args, map,
                         splits);
}

template <class T>
Status launch_plan(const ManyArgs& args, const ManyPlan& plan, Stream stream) {
  if (plan.rows == 256) return launch_many<T, 256>(args, 1, stream);
  return plan.rows == 128 ? launch_many<T, 128>(args, plan.splits, stream)
                          : launch_many<T, 64>(args, plan.splits, stream);
}

}  // namespace many
}  // namespace kt::kernels::cuda
