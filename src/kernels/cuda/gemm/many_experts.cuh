// Products of experts of many tokens on Hopper (many_rows.h), by the loop of many_loop.cuh: a block
// makes 256 rows of w × a piece of up to kManyPairs pairs at a time; with gate and up 128 rows of
// each, so that a thread has both sums of a value and the activation needs no memory between.
// Blocks stay and take the next piece of work. Small pieces have narrower products, in a launch of
// their own whose blocks come onto multiprocessors that the first leaves idle.
// Thread rule: status.h.
#pragma once
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/gemm/many_loop.cuh"
#include "kernels/cuda/gemm/many_rows.cuh"

namespace kt::kernels::cuda {
namespace many {

#if KT_HOPPER()

/// The `index`-th job; false: there are fewer.
template <class T, int kTiles, bool kSmall>
__device__ bool find_piece(const ManyArgs& args, int row_groups, int index, Job* job) {
  const int piece = index / row_groups;
  if (piece >= read_early(args.n_pieces + kSmall)) return false;
  const Piece* p = args.pieces + (kSmall ? read_early(args.n_pieces) + piece : piece);
  const int k_tiles = static_cast<int>(div_up<std::int64_t>(args.k, T::kK));
  *job = {index % row_groups * kTiles,
          read_early(&p->expert),
          read_early(&p->begin),
          read_early(&p->count),
          0,
          k_tiles};
  return true;
}

/// The producers: rows of x by pair, and codes.
template <class T, class P, int kN, bool kGate>
__device__ void gather(const ManyArgs& args, const Job& job, const Shared<P>& shared, Turn& x_turn,
                       Turn& w_turn) {
  // Eight threads bring a row's 128 bytes; a thread has every 16th row.
  constexpr int kMine = kN / 16;
  const int thread = threadIdx.x, first = thread / 8, piece = thread % 8;
  const std::uint16_t* rows[kMine];
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    const int pair = read_early(args.pairs + job.begin + min(first + 16 * i, job.rows - 1));
    rows[i] = args.x + pair / args.rows_of_x * args.x_stride + 8 * piece;
  }
  const int k = static_cast<int>(args.k);
  const std::uint32_t to = shared.x + hopper::swizzle128(first, 16 * piece);
  Job one = job;
  for (int tile = 0; tile < job.tile_end; ++tile) {
    if (thread < kWarp) {
      one.tile_begin = tile;
      one.tile_end = tile + 1;
      bring_codes<T, P, kGate>(args, one, shared, w_turn);
    }
    // Addresses only grow by constants: what computes them would wait for the copies before.
#pragma unroll 1
    for (int s = 0; s < T::kK / kStageK; ++s) {
      hopper::barrier_wait(shared.x_empty(x_turn.index), x_turn.parity ^ 1);
      const bool zero = tile * T::kK + s * kStageK + 8 * piece >= k;
      const std::uint32_t stage = to + x_turn.index * P::kStageBytes;
#pragma unroll
      for (int i = 0; i < kMine; ++i) hopper::copy_16(stage + i * 16 * 128, rows[i], zero);
      hopper::barrier_arrive_copied(shared.x_full(x_turn.index));
      x_turn.next(P::kStages);
#pragma unroll
      for (int i = 0; i < kMine; ++i) rows[i] += kStageK;
    }
  }
}

#endif

template <class T, int kN, bool kGate>
__global__ void __launch_bounds__(kThreads, 1)
    many_experts_kernel(const __grid_constant__ ManyArgs args, int row_groups) {
#if KT_HOPPER()
  using P = Plan<T, 2, kN>;
  constexpr int kTiles = kGate ? P::kRowTiles / 2 : P::kRowTiles;
  constexpr bool kSmall = kN == kSmallPairs;
  extern __shared__ __align__(1024) Byte raw_shared[];
  const Shared<P> shared(raw_shared);
  if (threadIdx.x == 0) shared.init_barriers(kGroup, 1);
  __syncthreads();
  // The small ones come once the others have what they read, which is the same, and need not wait:
  // x comes past L1 too.
  if constexpr (!kSmall) await_previous();
  start_next();
  Job job;
  Turn x_turn, w_turn;
  const auto find = [&](int i) { return find_piece<T, kTiles, kSmall>(args, row_groups, i, &job); };
  if (threadIdx.x < kGroup) {
    hopper::give_registers<P::kProducer>();
    for (int i = blockIdx.x; find(i); i += gridDim.x)
      gather<T, P, kN, kGate>(args, job, shared, x_turn, w_turn);
    asm volatile("cp.async.wait_all;" ::: "memory");
  } else {
    hopper::take_registers<P::kConsumer>();
    const int group = threadIdx.x / kGroup - 1;
    const std::uint32_t x_empty = threadIdx.x % kWarp == 0 ? in_block(shared.x_empty(0), 0) : 0;
    for (int i = blockIdx.x; find(i); i += gridDim.x) {
      float acc[2][kN / 2];
      consume<T, P, 2, kN, true>(job, shared, group, x_empty, x_turn, w_turn, acc);
      if constexpr (kGate) {
#pragma unroll
        for (int e = 0; e < kN / 2; ++e) acc[0][e] = silu(acc[0][e]) * acc[1][e];
        store<P, kN>(args, job, shared, group, job.first_row * 16 + group * 64, 0, kN, acc[0]);
      } else {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          store<P, kN>(args, job, shared, group, job.first_row * 16 + (group * 2 + half) * 64, 0,
                       kN, acc[half]);
        }
      }
    }
  }
  if constexpr (kSmall) await_previous();
#endif
}

template <class T, int kN, bool kGate>
Status launch_pieces(const ManyArgs& args, Stream stream) {
  using P = Plan<T, 2, kN>;
  const auto kernel = many_experts_kernel<T, kN, kGate>;
  const Status status = allow_shared(kernel, P::kShared);
  if (status != Status::kOk) return status;
  const std::int64_t groups = div_up<std::int64_t>(args.n, P::kRowTiles * (kGate ? 8 : 16));
  const std::int64_t jobs = groups * args.max_pieces, most = multiprocessors();
  return launch(kernel, dim3(static_cast<unsigned>(jobs < most ? jobs : most)), kThreads,
                P::kShared, stream, args, static_cast<int>(groups));
}

template <class T, bool kGate>
Status launch_experts(const ManyArgs& args, Stream stream) {
  const Status status = launch_pieces<T, kManyPairs, kGate>(args, stream);
  return status == Status::kOk ? launch_pieces<T, kSmallPairs, kGate>(args, stream) : status;
}

}  // namespace many
}  // namespace kt::kernels::cuda

/// Instantiates the kernels of one format.
#define KT_MANY_ROWS(format, T)                                                            \
  template <>                                                                              \
  const ManyKernels& many_kernels<formats::Format::format>() {                             \
    static const ManyKernels row = {&many::launch_plan<T>, &many::launch_experts<T, true>, \
                                    &many::launch_experts<T, false>};                      \
    return row;                                                                            \
  }
