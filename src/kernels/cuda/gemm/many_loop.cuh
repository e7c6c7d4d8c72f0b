// What the kernels of many rows on Hopper share: outᵀ = w · xᵀ, so that weights are the operand
// that comes from registers, where they are decoded, and x the one from shared memory.
//
//   producer warps    x: kN rows × 64 k; weights: tiles of 16 rows as they lie, by bulk copies
//   consumers         two warpgroups of kHalves · 64 rows of w each: codes → bf16 → products, the
//                     next 16 k being decoded while the last are multiplied
//
// Thread rule: device code.
#pragma once
#include "kernels/cuda/device/clusters.cuh"
#include "kernels/cuda/device/wgmma.cuh"
#include "kernels/cuda/gemm/many_operand.cuh"
#include "kernels/cuda/gemm/many_rows.h"

namespace kt::kernels::cuda::many {

inline constexpr int kStageK = 64;
inline constexpr int kGroup = 4 * kWarp;  // threads of a warpgroup
inline constexpr int kThreads = 3 * kGroup;
inline constexpr int kMostShared = 227 * 1024;

template <class T, int kHalves, int kN>
struct Plan {
  static constexpr int kRowTiles = 8 * kHalves;  // of a block, over both matrices of gate
  static constexpr int kStageBytes = kN * kStageK * 2;
  static constexpr int kCodeBytes = sizeof(T::Raw::codes) * kWarp;
  static constexpr int kTilesAhead = kRowTiles * kN >= 2048                             ? 2
                                     : 4 * kRowTiles * T::kBytes <= kMostShared / 3 * 2 ? 4
                                                                                        : 3;
  static constexpr int kTileBytes = kTilesAhead * kRowTiles * T::kBytes;
  // Values on their way out: 64 rows of w × 64 of x for each warpgroup.
  static constexpr int kOutBytes = 2 * 64 * 64 * 2;
  static constexpr int kRest = 1024 + 1024 + kTileBytes + kOutBytes;  // alignment, barriers
  static constexpr int kFit = (kMostShared - kRest) / kStageBytes;
  static constexpr int kStages = kFit > 8 ? 8 : kFit;
  static constexpr std::size_t kShared = kRest + kStages * kStageBytes;
  // Operands that are being decoded or multiplied.
  static constexpr int kBuffers = kHalves == 1 ? 4 : 2;
  static constexpr int kProducer = 40, kConsumer = 232;  // registers
  static_assert(kStages >= 3 && T::kBytes % 16 == 0);
};

#if KT_HOPPER()

/// A ring's place: index and the parity of its round.
struct Turn {
  int index = 0;
  std::uint32_t parity = 0;
  __device__ void next(int n) {
    if (++index < n) return;
    index = 0;
    parity ^= 1;
  }
};

/// The block's shared memory, as addresses.
template <class P>
struct Shared {
  std::uint32_t x, out, tiles, barriers;
  const Byte* tile_bytes;
  __device__ explicit Shared(Byte* raw) {
    const std::uint32_t base = hopper::shared_address(raw);
    x = (base + 1023) / 1024 * 1024;
    out = x + P::kStages * P::kStageBytes;
    tiles = out + P::kOutBytes;
    barriers = tiles + P::kTileBytes;
    tile_bytes = raw + (tiles - base);
  }
  __device__ std::uint32_t x_full(int i) const { return barriers + 8 * i; }
  __device__ std::uint32_t x_empty(int i) const { return barriers + 8 * (P::kStages + i); }
  __device__ std::uint32_t w_full(int i) const { return barriers + 8 * (2 * P::kStages + i); }
  __device__ std::uint32_t w_empty(int i) const {
    return barriers + 8 * (2 * P::kStages + P::kTilesAhead + i);
  }
  /// x_arrivals: of threads that bring a stage of x; sharing: blocks that have the same x.
  __device__ void init_barriers(int x_arrivals, int sharing) const {
    for (int i = 0; i < P::kStages; ++i) {
      hopper::barrier_init(x_full(i), x_arrivals);
      hopper::barrier_init(x_empty(i), 8 * sharing);
    }
    for (int i = 0; i < P::kTilesAhead; ++i) {
      hopper::barrier_init(w_full(i), 1);
      hopper::barrier_init(w_empty(i), 8);
    }
    hopper::fence_barriers();
    hopper::fence_proxy();
  }
};

/// What a block computes.
struct Job {
  int first_row = 0;  // row tile of each matrix
  int expert = 0;
  int begin = 0;  // row of x, or pair of the list
  int rows = 0;
  int tile_begin = 0, tile_end = 0;  // of k
};

/// The row tile that lies in slot `slot`: [warpgroup][half][warp]; with gate and up the second
/// halves are those of the second matrix. Row tiles past the matrix are the last one again.
template <class T, bool kGate>
__device__ const Byte* tiles_of(const ManyArgs& args, const Job& job, int slot) {
  const int k_tiles = static_cast<int>(div_up<std::int64_t>(args.k, T::kK));
  const int row_tiles = static_cast<int>(div_up<std::int64_t>(args.n, 16));
  const int row = min(job.first_row + (kGate ? slot / 8 * 4 + slot % 4 : slot), row_tiles - 1);
  const void* matrix = kGate && slot / 4 % 2 == 1 ? args.second : args.first;
  return static_cast<const Byte*>(matrix) +
         (static_cast<std::int64_t>(job.expert) * row_tiles + row) * k_tiles * T::kBytes;
}

/// One warp: the tiles of the job's k, a lane each row tile.
template <class T, class P, bool kGate>
__device__ void bring_codes(const ManyArgs& args, const Job& job, const Shared<P>& shared,
                            Turn& turn) {
  const int lane = threadIdx.x % kWarp;
  const Byte* from = tiles_of<T, kGate>(args, job, min(lane, P::kRowTiles - 1)) +
                     static_cast<std::int64_t>(job.tile_begin) * T::kBytes;
  for (int tile = job.tile_begin; tile < job.tile_end; ++tile) {
    if (lane == 0) {
      hopper::barrier_wait(shared.w_empty(turn.index), turn.parity ^ 1);
      hopper::barrier_expect(shared.w_full(turn.index), P::kRowTiles * T::kBytes);
    }
    __syncwarp();
    if (lane < P::kRowTiles) {
      hopper::copy_bulk(shared.tiles + (turn.index * P::kRowTiles + lane) * T::kBytes, from,
                        T::kBytes, shared.w_full(turn.index));
    }
    from += T::kBytes;
    turn.next(P::kTilesAhead);
  }
}

/// acc of the halves of 64 rows = the products of the job's k. x_empty: the lane's barriers to give
/// stages of x back at, 0: none. kCopied: x was written by the copies of threads.
template <class T, class P, int kHalves, int kN, bool kCopied>
__device__ void consume(const Job& job, const Shared<P>& shared, int group, std::uint32_t x_empty,
                        Turn& x_turn, Turn& w_turn, float (&acc)[kHalves][kN / 2]) {
  const int warp = threadIdx.x % kGroup / kWarp, lane = threadIdx.x % kWarp;
  constexpr int kStages = T::kK / kStageK, kBuffers = P::kBuffers;
  const int slot = group * 4 * kHalves + warp;
  int last = -1;  // the stage to give back next
  for (int tile = job.tile_begin; tile < job.tile_end; ++tile) {
    hopper::barrier_wait(shared.w_full(w_turn.index), w_turn.parity);
    const Byte* at = shared.tile_bytes + (w_turn.index * P::kRowTiles + slot) * T::kBytes;
    Operand<T> w[kHalves];
#pragma unroll
    for (int i = 0; i < kHalves; ++i) w[i].load_scales(at + i * 4 * T::kBytes, lane);
#pragma unroll
    for (int s = 0; s < kStages; ++s) {
      if (s % 2 == 0) {
#pragma unroll
        for (int i = 0; i < kHalves; ++i) w[i].load_codes(at + i * 4 * T::kBytes, s / 2, lane);
      }
      if (s == kStages - 2) {
        __syncwarp();
        if (lane == 0) hopper::barrier_arrive(shared.w_empty(w_turn.index));
        w_turn.next(P::kTilesAhead);
      }
      std::uint32_t a[kBuffers][kHalves][4], scales[kHalves][2];
      std::uint64_t b = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int k = kStageK * s + 16 * j;
#pragma unroll
        for (int i = 0; i < kHalves; ++i) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            if (j == 0 || k % T::kGroup == 0) scales[i][h] = w[i].scale(h, k / T::kGroup, lane);
#pragma unroll
            for (int p = 0; p < 2; ++p)
              a[j % kBuffers][i][2 * p + h] =
                  w[i].pair(h, k / 32 % 4, 2 * (j % 2) + p, scales[i][h]);
          }
        }
        if (j == 0) {
          hopper::barrier_wait(shared.x_full(x_turn.index), x_turn.parity);
          if constexpr (kCopied) hopper::fence_proxy();
          b = hopper::b_descriptor(shared.x + x_turn.index * P::kStageBytes);
        }
        hopper::wgmma_fence();
#pragma unroll
        for (int i = 0; i < kHalves; ++i)
          hopper::wgmma<kN>(acc[i], a[j % kBuffers][i], b + 2 * j, tile > job.tile_begin || k > 0);
        hopper::wgmma_commit();
        hopper::wgmma_wait<kBuffers - 1>();
        if (j == kBuffers - 2) {  // the products of the stage before are done
          if (last >= 0 && x_empty != 0) arrive_there(x_empty + 8 * last);
          last = x_turn.index;
        }
      }
      x_turn.next(P::kStages);
    }
  }
  hopper::wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < kHalves; ++i) hopper::wgmma_settle(acc[i]);
  if (x_empty != 0) arrive_there(x_empty + 8 * last);
}

/// Whether out takes 16 bytes at a time.
__device__ inline bool stores_whole(const ManyArgs& args) {
  return args.out_type == Type::kBF16 && args.out_stride % 8 == 0 && args.n % 8 == 0 &&
         reinterpret_cast<std::uintptr_t>(args.out) % 16 == 0;
}

/// Row of out for column `column` of acc; -1: none.
__device__ inline std::int64_t row_of_out(const ManyArgs& args, const Job& job, int column) {
  if (column >= job.rows) return -1;
  return args.pairs != nullptr ? args.pairs[job.begin + column] : job.begin + column;
}

/// Columns [begin, end) of acc in bf16, by way of shared memory: 128 bytes of a row of out are 64
/// rows of w.
template <int kN>
__device__ void store_whole(const ManyArgs& args, const Job& job, int group, std::uint32_t place,
                            int row_begin, int begin, int end, const float (&bias)[2],
                            const float (&acc)[kN / 2]) {
  const int thread = threadIdx.x % kGroup, warp = thread / kWarp, lane = thread % kWarp;
  const int piece = thread % 8, row = row_begin + 8 * piece;
  auto* out = static_cast<std::uint16_t*>(args.out) + row;
  const int to_row = lane / 16 * 8 + lane % 8, to_piece = warp * 2 + lane / 8 % 2;
#pragma unroll
  for (int chunk = 0; chunk < kN / 64; ++chunk) {
    if (64 * chunk >= min(end, job.rows)) break;
    if (64 * (chunk + 1) <= begin) continue;
    hopper::sync_some(1 + group, kGroup);
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      std::uint32_t v[4];
#pragma unroll
      for (int f = 0; f < 4; ++f) {
        const float* from = acc + 4 * (8 * chunk + i + f / 2) + 2 * (f % 2);
        v[f] = bf16_pair(from[0] + bias[f % 2], from[1] + bias[f % 2]);
      }
      hopper::store_transposed(place + hopper::swizzle128(8 * i + to_row, 16 * to_piece), v);
    }
    hopper::sync_some(1 + group, kGroup);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = thread / 8 + 16 * i, column = 64 * chunk + at;
      const std::int64_t to = row_of_out(args, job, column);
      if (column < begin || column >= end || to < 0 || row >= args.n) continue;
      *reinterpret_cast<float4*>(out + to * args.out_stride) =
          hopper::load_shared(place + hopper::swizzle128(at, 16 * piece));
    }
  }
}

/// out of 64 rows of w; of acc, whose columns are rows of x, columns [begin, end).
template <class P, int kN>
__device__ void store(const ManyArgs& args, const Job& job, const Shared<P>& shared, int group,
                      int row_begin, int begin, int end, const float (&acc)[kN / 2]) {
  const int warp = threadIdx.x % kGroup / kWarp, lane = threadIdx.x % kWarp;
  const int row = row_begin + warp * 16 + lane / 4;
  float bias[2] = {0.0f, 0.0f};
#pragma unroll
  for (int h = 0; h < 2; ++h)
    if (args.bias != nullptr && row + 8 * h < args.n) bias[h] = args.bias[row + 8 * h];
  if (stores_whole(args)) {
    store_whole<kN>(args, job, group, shared.out + group * P::kOutBytes / 2, row_begin, begin, end,
                    bias, acc);
    return;
  }
#pragma unroll
  for (int i = 0; i < kN / 8; ++i) {
    asm volatile("" ::: "memory");  // one block of columns at a time: registers are full of sums
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int column = i * 8 + lane % 4 * 2 + e;
      const std::int64_t to = row_of_out(args, job, column);
      if (column < begin || column >= end || to < 0) continue;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (row + 8 * h < args.n)
          store_float(args.out, args.out_type, to * args.out_stride + row + 8 * h,
                      acc[4 * i + 2 * h + e] + bias[h]);
      }
    }
  }
}

#endif

}  // namespace kt::kernels::cuda::many
