// Dense products of many rows of x on Hopper (many_rows.h), by the loop of many_loop.cuh: a block
// makes 128 rows of w × kN rows of x at a time.
//
// Blocks of a cluster share x or k (ManyPlan): with `share` 2 each brings half of the rows of x to
// both, which is what L2 has to give less of; with `splits` each has a part of k, and their sums
// are added through each other's shared memory, every block those of some of the columns. Without
// splits blocks stay and take the next piece of work. Thread rule: status.h.
#pragma once
#include "kernels/cuda/device/clusters.cuh"
#include "kernels/cuda/device/tensor_map.h"
#include "kernels/cuda/gemm/many_loop.cuh"

namespace kt::kernels::cuda {
namespace many {

#if KT_HOPPER()

/// A block's place in its cluster.
struct Place {
  int share, splits;       // blocks with the same k, parts of k
  int member, part, rank;  // among both
  __device__ Place(int share_, int splits_) : share(share_), splits(splits_) {
    rank = cluster_rank();
    member = rank % share;
    part = rank / share;
  }
  __device__ int block(int part_, int member_) const { return part_ * share + member_; }
};

/// The `index`-th job of clusters; false: there are fewer.
template <class T, int kN>
__device__ bool find_job(const ManyArgs& args, const Place& place, int index, Job* job) {
  // Eight columns of blocks go down together, so that they share what is in L2.
  constexpr int kWide = 8;
  const int columns = static_cast<int>(div_up<std::int64_t>(args.m, kN));
  const int row_groups = static_cast<int>(div_up<std::int64_t>(args.n, 128 * place.share));
  if (index >= columns * row_groups) return false;
  const int band = index / (kWide * row_groups), at = index % (kWide * row_groups);
  const int wide = min(kWide, columns - band * kWide);
  job->first_row = (at / wide * place.share + place.member) * 8;
  job->begin = (band * kWide + at % wide) * kN;
  job->rows = min(kN, static_cast<int>(args.m) - job->begin);
  const int k_tiles = static_cast<int>(div_up<std::int64_t>(args.k, T::kK));
  job->tile_begin = k_tiles * place.part / place.splits;
  job->tile_end = k_tiles * (place.part + 1) / place.splits;
  return true;
}

/// One thread: the block's share of the rows of x.
template <class T, class P, int kN>
__device__ void bring_x(const CUtensorMap* map, const Job& job, const Shared<P>& shared,
                        const Place& place, Turn& turn) {
  const int rows = kN / place.share, first = place.member * rows;
  const std::uint32_t sharing = ((1u << place.share) - 1) << place.block(place.part, 0);
  for (int k = job.tile_begin * T::kK; k < job.tile_end * T::kK; k += kStageK) {
    const std::uint32_t full = shared.x_full(turn.index);
    const std::uint32_t to = shared.x + turn.index * P::kStageBytes + first * kStageK * 2;
    hopper::barrier_wait(shared.x_empty(turn.index), turn.parity ^ 1);
    hopper::barrier_expect(full, P::kStageBytes);
    if (place.share == 1) {
      hopper::copy_box(to, map, full, k, 0, job.begin);
    } else {
      hopper::copy_box_to(sharing, to, map, full, k, 0, job.begin + first);
    }
    turn.next(P::kStages);
  }
}

/// acc += those of the other parts of k, for the columns that are this block's.
template <class P, int kN>
__device__ void add_parts(const Shared<P>& shared, const Place& place, float (&acc)[kN / 2]) {
  static_assert(P::kStages * P::kStageBytes >= kN / 8 * 2 * kGroup * 16);
  const int mine = kN / 8 / place.splits;  // blocks of 8 columns
  const std::uint32_t thread = shared.x + (threadIdx.x - kGroup) * 16;
  constexpr int kStep = 2 * kGroup * 16;
  sync_cluster();  // nobody reads x any more
#pragma unroll
  for (int i = 0; i < kN / 8; ++i) {
    const int owner = i / mine;
    if (owner == place.part) continue;
    const std::uint32_t to = thread + (place.part * mine + i % mine) * kStep;
    store_there(in_block(to, place.block(owner, place.member)),
                make_float4(acc[4 * i], acc[4 * i + 1], acc[4 * i + 2], acc[4 * i + 3]));
  }
  sync_cluster();
#pragma unroll
  for (int i = 0; i < kN / 8; ++i) {
    if (i / mine != place.part) continue;
    for (int part = 0; part < place.splits; ++part) {
      if (part == place.part) continue;
      const float4 v = hopper::load_shared(thread + (part * mine + i % mine) * kStep);
      acc[4 * i] += v.x;
      acc[4 * i + 1] += v.y;
      acc[4 * i + 2] += v.z;
      acc[4 * i + 3] += v.w;
    }
  }
}

#endif

template <class T, int kN>
__global__ void __launch_bounds__(kThreads, 1)
    many_rows_kernel(const __grid_constant__ ManyArgs args,
                     const __grid_constant__ CUtensorMap x_map, int share, int splits) {
#if KT_HOPPER()
  using P = Plan<T, 1, kN>;
  extern __shared__ __align__(1024) Byte raw_shared[];
  const Shared<P> shared(raw_shared);
  const Place place(share, splits);
  const int cluster = static_cast<int>(blockIdx.x) / (share * splits);
  const int clusters = static_cast<int>(gridDim.x) / (share * splits);
  start_next();
  if (threadIdx.x == 0) shared.init_barriers(1, share);
  __syncthreads();
  if (share > 1) sync_cluster();
  Job job;
  Turn turn, w_turn;
  if (threadIdx.x < kGroup) {
    hopper::give_registers<P::kProducer>();
    const int warp = threadIdx.x / kWarp;
    if (warp == 0) {
      for (int i = cluster; find_job<T, kN>(args, place, i, &job); i += clusters)
        bring_codes<T, P, false>(args, job, shared, turn);
    }
    await_previous();
    if (threadIdx.x == kWarp) {
      for (int i = cluster; find_job<T, kN>(args, place, i, &job); i += clusters)
        bring_x<T, P, kN>(&x_map, job, shared, place, turn);
    }
    for (int i = 0; i < (splits > 1 ? 2 : share - 1); ++i) sync_cluster();
  } else {
    hopper::take_registers<P::kConsumer>();
    await_previous();
    const int group = threadIdx.x / kGroup - 1, lane = threadIdx.x % kWarp;
    const std::uint32_t x_empty =
        lane < share ? in_block(shared.x_empty(0), place.block(place.part, lane)) : 0;
    const int mine = kN / splits;
    for (int i = cluster; find_job<T, kN>(args, place, i, &job); i += clusters) {
      float acc[1][kN / 2];
      consume<T, P, 1, kN, false>(job, shared, group, x_empty, turn, w_turn, acc);
      if (splits > 1) add_parts<P, kN>(shared, place, acc[0]);
      store<P, kN>(args, job, shared, group, job.first_row * 16 + group * 64, place.part * mine,
                   (place.part + 1) * mine, acc[0]);
    }
    if (splits == 1 && share > 1) sync_cluster();
  }
#endif
}

template <class T, int kN>
Status launch_many(const ManyArgs& args, const ManyPlan& plan, Stream stream) {
  using P = Plan<T, 1, kN>;
  const auto kernel = many_rows_kernel<T, kN>;
  CUtensorMap map;
  Status status = make_map({args.x, args.m, 1, args.k, args.x_stride, 0, kN / plan.share}, &map);
  if (status == Status::kOk) status = allow_shared(kernel, P::kShared);
  if (status != Status::kOk) return status;
  const int cluster = plan.share * plan.splits;
  const std::int64_t jobs =
      div_up<std::int64_t>(args.n, 128 * plan.share) * div_up<std::int64_t>(args.m, kN);
  const std::int64_t most = plan.splits > 1 ? jobs : multiprocessors() / cluster;
  const std::int64_t blocks = (jobs < most ? jobs : most) * cluster;
  return launch_clusters(dim3(static_cast<unsigned>(cluster)), kernel,
                         dim3(static_cast<unsigned>(blocks)), kThreads, P::kShared, stream, args,
                         map, plan.share, plan.splits);
}

template <class T>
Status launch_plan(const ManyArgs& args, const ManyPlan& plan, Stream stream) {
  if (plan.rows == 256) return launch_many<T, 256>(args, plan, stream);
  return plan.rows == 128 ? launch_many<T, 128>(args, plan, stream)
                          : launch_many<T, 64>(args, plan, stream);
}

}  // namespace many
}  // namespace kt::kernels::cuda
