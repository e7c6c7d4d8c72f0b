// Products of many rows of x on Hopper (many_rows.h): outᵀ = w · xᵀ, so that weights are the
// operand that comes from registers, where they are decoded, and x the one from shared memory.
//
//   producer warps    x: kN rows × 64 k; weights: tiles of 16 rows as they lie, by bulk copies
//   consumers         two warpgroups of 128 rows of w each: codes → bf16 → products, the next 16 k
//                     being decoded while the last are multiplied
//
// A block makes 256 rows of w × 128 rows of x at a time; with gate and up, 128 of each, so that a
// thread has both sums of a value. Blocks stay and take the next such piece of work.
//
// Decoding is in bf16: (code - offset) is exact, the scale and the minimum are rounded to bf16 and
// so is their sum, 2^-9 of each; codes are counted from their middle, which keeps minima small.
// Thread rule: status.h.
#pragma once
#include <type_traits>

#include "kernels/cuda/device/hopper.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/gemm/many_rows.h"
#include "kernels/cuda/gemm/multiply.cuh"

namespace kt::kernels::cuda {
namespace many {

inline constexpr int kStageK = 64;
inline constexpr int kGroup = 4 * kWarp;  // threads of a warpgroup
inline constexpr int kThreads = 3 * kGroup;
inline constexpr int kTilesAhead = 2;
inline constexpr std::size_t kMostShared = 220 * 1024;

/// A warpgroup has kHalves · 64 rows of w, a block kN rows of x.
template <class T, int kHalves, int kN>
struct Plan {
  static constexpr int kRowTiles = 8 * kHalves;  // of a block, over both matrices of gate
  static constexpr int kStageBytes = kN * kStageK * 2;
  static constexpr int kCodeBytes = sizeof(T::Raw::codes) * kWarp;
  static constexpr int kTileBytes = kTilesAhead * kRowTiles * kCodeBytes;
  static constexpr int kFit = (static_cast<int>(kMostShared) - 2048 - kTileBytes) / kStageBytes;
  static constexpr int kStages = kFit > 8 ? 8 : kFit;
  static constexpr std::size_t kShared = 2048 + kStages * kStageBytes + kTileBytes;
  // Operands that are being decoded or multiplied.
  static constexpr int kBuffers = kHalves == 1 ? 4 : 2;
  static constexpr int kProducer = kHalves == 1 ? 88 : 40, kConsumer = (504 - kProducer) / 2;
  static_assert(kStages >= 3);
};

#ifdef KT_HOPPER

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

template <class Plan>
struct Shared {
  std::uint32_t x, tiles;  // addresses
  std::uint32_t barriers;
  const Byte* tile_bytes;
  __device__ explicit Shared(Byte* raw) {
    const std::uint32_t base = hopper::shared_address(raw);
    x = (base + 1023) / 1024 * 1024;
    tiles = x + Plan::kStages * Plan::kStageBytes;
    barriers = tiles + Plan::kTileBytes;
    tile_bytes = raw + (tiles - base);
  }
  __device__ std::uint32_t x_full(int i) const { return barriers + 8 * i; }
  __device__ std::uint32_t x_empty(int i) const { return barriers + 8 * (Plan::kStages + i); }
  __device__ std::uint32_t w_full(int i) const { return barriers + 8 * (2 * Plan::kStages + i); }
  __device__ std::uint32_t w_empty(int i) const {
    return barriers + 8 * (2 * Plan::kStages + kTilesAhead + i);
  }
};

/// What a block computes.
struct Job {
  int first_row = 0;  // row tile of each matrix
  int expert = 0;
  int begin = 0;  // row of x, or pair of the list
  int rows = 0;
};

/// The `index`-th job; false: there are fewer.
template <int kTiles, int kRows>
__device__ bool find_job(const ManyArgs& args, int row_groups, int index, Job* job) {
  if (args.pieces != nullptr) {
    const int piece = index / row_groups;
    const bool small = kRows == kSmallPairs;
    if (piece >= args.n_pieces[small]) return false;
    const Piece p = args.pieces[small ? args.n_pieces[0] + piece : piece];
    *job = {index % row_groups * kTiles, p.expert, p.begin, p.count};
    return true;
  }
  // Eight columns of blocks go down together, so that they share what is in L2.
  constexpr int kWide = 8;
  const int columns = static_cast<int>((args.m + kRows - 1) / kRows);
  if (index >= columns * row_groups) return false;
  const int band = index / (kWide * row_groups), at = index % (kWide * row_groups);
  const int wide = min(kWide, columns - band * kWide);
  job->first_row = at / wide * kTiles;
  job->begin = (band * kWide + at % wide) * kRows;
  job->rows = min(kRows, static_cast<int>(args.m) - job->begin);
  return true;
}

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

template <class T, class P, bool kGate>
__device__ void bring_codes(const ManyArgs& args, const Job& job, const Shared<P>& shared, int tile,
                            int to) {
  hopper::barrier_expect(shared.w_full(to), P::kRowTiles * P::kCodeBytes);
  for (int i = 0; i < P::kRowTiles; ++i) {
    hopper::copy_bulk(
        shared.tiles + (to * P::kRowTiles + i) * P::kCodeBytes,
        tiles_of<T, kGate>(args, job, i) + static_cast<std::int64_t>(tile) * T::kBytes,
        P::kCodeBytes, shared.w_full(to));
  }
}

template <class T, class P, int kN, bool kGate>
__device__ void produce(const ManyArgs& args, const Job& job, const Shared<P>& shared, Turn& x_turn,
                        Turn& w_turn) {
  // Eight threads bring a row's 128 bytes; a thread has every 16th row.
  constexpr int kMine = kN / 16;
  const int thread = threadIdx.x, first = thread / 8, piece = thread % 8;
  const std::uint16_t* rows[kMine];
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    const int at = first + 16 * i;
    std::int64_t r = job.begin + min(at, job.rows - 1);
    if (args.pairs != nullptr) r = args.pairs[r] / args.rows_of_x;
    rows[i] = args.x + r * args.x_stride + 8 * piece;
  }
  const int k_tiles = static_cast<int>(div_up<std::int64_t>(args.k, T::kK));
  const int k = static_cast<int>(args.k);
  const std::uint32_t to = shared.x + hopper::swizzle128(first, 16 * piece);
  for (int tile = 0; tile < k_tiles; ++tile) {
    if (thread == 0) {
      hopper::barrier_wait(shared.w_empty(w_turn.index), w_turn.parity ^ 1);
      bring_codes<T, P, kGate>(args, job, shared, tile, w_turn.index);
    }
    w_turn.next(kTilesAhead);
    __syncwarp();
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

template <class T>
constexpr float middle() {
  return T::kHasMin ? 8.0f : 0.0f;
}
constexpr std::uint32_t both_bf16(float v) {
  const auto bits = __builtin_bit_cast(std::uint32_t, v) >> 16;
  return bits | bits << 16;
}
__device__ inline std::uint32_t add_bf16(std::uint32_t a, std::uint32_t b) {
  std::uint32_t out;
  asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
}
__device__ inline std::uint32_t fma_bf16(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t out;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
}

/// Words of two lanes' codes as one of the order of k: its pairs 2j and 2j + 1, fields of kBits,
/// are the values {2t, 2t+1} and {2t+8, 2t+9} of product j, which lanes t/2 and 2 + t/2 of the quad
/// have.
template <int kBits>
__device__ std::uint32_t in_order(std::uint32_t a, std::uint32_t b, int lane) {
  constexpr std::uint32_t kEven = ~0u / ((1u << kBits) + 1);
  const int odd = lane % 2 * kBits;
  return (a >> odd & kEven) | (b << (kBits - odd) & ~kEven);
}
__device__ inline int first_lane(int lane) { return lane - lane % 4 + lane % 4 / 2; }

/// Four words at `base`, 16 bytes to a lane.
template <int kBits>
__device__ void load_quad_words(std::uint32_t* to, const Byte* base, int lane) {
  const auto* from = reinterpret_cast<const uint4*>(base) + first_lane(lane);
  const uint4 a = from[0], b = from[2];
  to[0] = in_order<kBits>(a.x, b.x, lane);
  to[1] = in_order<kBits>(a.y, b.y, lane);
  to[2] = in_order<kBits>(a.z, b.z, lane);
  to[3] = in_order<kBits>(a.w, b.w, lane);
  asm volatile("" ::: "memory");  // few such loads at a time: registers are full of sums
}

/// Codes of the 128 k number `unit` of a tile, in the order of k.
template <int kSubs>
__device__ void load_unit(Nibbles<4>& to, const Byte* tile, int unit, int lane,
                          const Nibbles<kSubs>*) {
#pragma unroll
  for (int h = 0; h < 2; ++h) load_quad_words<4>(to.w + 4 * h, tile + (2 * unit + h) * 512, lane);
}
__device__ inline void load_unit(Bytes<4>& to, const Byte* tile, int, int lane, const Bytes<4>*) {
#pragma unroll
  for (int i = 0; i < 4; ++i) load_quad_words<8>(to.w + 4 * i, tile + i * 512, lane);
}
template <int kSubs, int kBits>
__device__ void load_unit(SplitCodes<4, kBits>& to, const Byte* tile, int unit, int lane,
                          const SplitCodes<kSubs, kBits>*) {
  load_unit(to.low, tile, unit, lane, static_cast<const Nibbles<kSubs>*>(nullptr));
  using High = HighBits<kSubs, kBits>;
  const Byte* high = tile + Nibbles<kSubs>::kBytes;
  constexpr int kWords = 2 * kSubs * kBits / 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int i = 0; i < kBits; ++i) {
      const int word = High::index(h, 4 * unit) + i;
      const int first = kWords == 2 ? first_lane(lane) * 2 + word
                                    : (word / 4 * kWarp + first_lane(lane)) * 4 + word % 4;
      const auto* from = reinterpret_cast<const std::uint32_t*>(high) + first;
      to.high.w[h * kBits + i] = in_order<kBits>(from[0], from[kWords == 2 ? 4 : 8], lane);
    }
  }
}

template <class Codes>
struct FourSubs;
template <int kSubs>
struct FourSubs<Nibbles<kSubs>> {
  using Type = Nibbles<4>;
};
template <int kSubs>
struct FourSubs<Bytes<kSubs>> {
  using Type = Bytes<4>;
};
template <int kSubs, int kBits>
struct FourSubs<SplitCodes<kSubs, kBits>> {
  using Type = SplitCodes<4, kBits>;
};

/// What a lane keeps of a tile: codes of 128 k, and of the groups that it owns, for rows g and g +
/// 8, the scale and the minimum as bf16, or the scale twice.
template <class T>
struct Operand {
  using AllCodes = decltype(T::Raw::codes);
  static constexpr int kGroups = T::kK / T::kGroup, kOwned = owned_groups(T::kK, T::kGroup);
  struct Unit {
    typename FourSubs<AllCodes>::Type codes;
  };
  std::conditional_t<T::kK == 128, typename T::Raw, Unit> raw;
  std::uint32_t scales[2][kOwned];

  __device__ void load_codes(const Byte* tile, int unit, int lane) {
    load_unit(raw.codes, tile, unit, lane, static_cast<const AllCodes*>(nullptr));
  }
  __device__ void decode_scales(const typename T::Raw& tile, int lane) {
    LaneScales<kOwned> decoded;
    T::scales(tile, lane, decoded);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int i = 0; i < kOwned; ++i) {
        const float a = decoded.a[h][i];
        scales[h][i] =
            T::kHasMin ? bf16_pair(a, decoded.min[h][i] + a * middle<T>()) : bf16_pair(a, a);
      }
    }
  }
  __device__ std::uint32_t scale(int h, int group, int lane) const {
    if constexpr (kGroups == 1) return scales[h][0];
    const int owner = kGroups >= 4 ? group / kOwned : group * (4 / kGroups);
    return __shfl_sync(~0u, scales[h][group % kOwned], (lane & ~3) | owner);
  }
  /// Pair p of the unit's sub-block s in row h, with its group's scale.
  __device__ std::uint32_t pair(int h, int s, int p, std::uint32_t scale) const {
    constexpr float kMiddle = T::kOffset + middle<T>();
    std::uint32_t v = T::plane(raw, h, s, p, 0, nullptr);
    if constexpr (T::kPlanes == 2) {
      // Sums of planes pass 256; the second less the offset does not.
      v = add_bf16(add_bf16(T::plane(raw, h, s, p, 1, nullptr), both_bf16(-kMiddle)), v);
    } else if constexpr (kMiddle != 0.0f) {
      v = add_bf16(v, both_bf16(-kMiddle));
    }
    if constexpr (T::kHasMin)
      return fma_bf16(v, __byte_perm(scale, 0, 0x1010), __byte_perm(scale, 0, 0x3232));
    return product_bf16(v, scale);
  }
};

/// acc of the halves of 64 rows = the products of all k.
template <class T, class P, int kHalves, int kN, bool kGate>
__device__ void consume(const ManyArgs& args, const Job& job, const Shared<P>& shared, int group,
                        Turn& x_turn, Turn& w_turn, float (&acc)[kHalves][kN / 2]) {
  const int warp = threadIdx.x % kGroup / kWarp, lane = threadIdx.x % kWarp;
  const int k_tiles = static_cast<int>(div_up<std::int64_t>(args.k, T::kK));
  constexpr int kStages = T::kK / kStageK, kBuffers = P::kBuffers;
  const int slot = group * 4 * kHalves + warp;
  // Scales go from device memory to registers, a tile ahead.
  const Byte* scales_at[kHalves];
  typename T::Raw next[kHalves];
#pragma unroll
  for (int i = 0; i < kHalves; ++i) {
    scales_at[i] = tiles_of<T, kGate>(args, job, slot + 4 * i) + P::kCodeBytes;
    next[i].scales.template load<Space::kGlobal>(scales_at[i], lane);
  }
  int last = -1;  // the stage to give back next
  for (int tile = 0; tile < k_tiles; ++tile) {
    hopper::barrier_wait(shared.w_full(w_turn.index), w_turn.parity);
    const Byte* codes = shared.tile_bytes + (w_turn.index * P::kRowTiles + slot) * P::kCodeBytes;
    Operand<T> w[kHalves];
#pragma unroll
    for (int i = 0; i < kHalves; ++i) {
      w[i].decode_scales(next[i], lane);
      if (tile + 1 < k_tiles) scales_at[i] += T::kBytes;
      next[i].scales.template load<Space::kGlobal>(scales_at[i], lane);
    }
#pragma unroll
    for (int s = 0; s < kStages; ++s) {
      if (s % 2 == 0) {
#pragma unroll
        for (int i = 0; i < kHalves; ++i)
          w[i].load_codes(codes + i * 4 * P::kCodeBytes, s / 2, lane);
      }
      if (s == kStages - 2) {
        __syncwarp();
        if (lane == 0) hopper::barrier_arrive(shared.w_empty(w_turn.index));
        w_turn.next(kTilesAhead);
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
          hopper::fence_proxy();
          b = hopper::b_descriptor(shared.x + x_turn.index * P::kStageBytes);
        }
        hopper::wgmma_fence();
#pragma unroll
        for (int i = 0; i < kHalves; ++i)
          hopper::wgmma<kN>(acc[i], a[j % kBuffers][i], b + 2 * j, tile > 0 || k > 0);
        hopper::wgmma_commit();
        hopper::wgmma_wait<kBuffers - 1>();
        if (j == kBuffers - 2) {  // the products of the stage before are done
          if (last >= 0 && lane == 0) hopper::barrier_arrive(shared.x_empty(last));
          last = x_turn.index;
        }
      }
      x_turn.next(P::kStages);
    }
  }
  hopper::wgmma_wait<0>();
#pragma unroll
  for (int i = 0; i < kHalves; ++i) hopper::wgmma_settle(acc[i]);
  if (lane == 0) hopper::barrier_arrive(shared.x_empty(last));
}

/// out of 64 rows of w; the columns of acc are rows of x.
template <int kN>
__device__ void store(const ManyArgs& args, const Job& job, int row_begin,
                      const float (&acc)[kN / 2]) {
  const int warp = threadIdx.x % kGroup / kWarp, lane = threadIdx.x % kWarp;
  const int row = row_begin + warp * 16 + lane / 4;
  float bias[2] = {0.0f, 0.0f};
#pragma unroll
  for (int h = 0; h < 2; ++h)
    if (args.bias != nullptr && row + 8 * h < args.n) bias[h] = args.bias[row + 8 * h];
  // bf16: neighbouring rows meet in one lane, the even one has the first of two columns.
  const bool pairs = args.out_type == Type::kBF16 && args.out_stride % 2 == 0 && args.n % 2 == 0 &&
                     reinterpret_cast<std::uintptr_t>(args.out) % 4 == 0;
  const int odd = lane / 4 % 2;
#pragma unroll
  for (int i = 0; i < kN / 8; ++i) {
    asm volatile("" ::: "memory");  // one block of columns at a time: registers are full of sums
    int to[2];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int column = i * 8 + lane % 4 * 2 + e;
      to[e] = -1;
      if (column >= job.rows) continue;
      to[e] = job.begin + column;
      if (args.pairs != nullptr) to[e] = args.pairs[to[e]];
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float v[2] = {acc[4 * i + 2 * h] + bias[h], acc[4 * i + 2 * h + 1] + bias[h]};
      const int r = row + 8 * h;
      if (pairs) {
        const float other = __shfl_xor_sync(~0u, odd ? v[0] : v[1], 4);
        const std::int64_t at = odd ? to[1] : to[0];
        if (at >= 0 && r < args.n) {
          const std::uint32_t both = odd ? bf16_pair(other, v[1]) : bf16_pair(v[0], other);
          *reinterpret_cast<std::uint32_t*>(static_cast<std::uint16_t*>(args.out) +
                                            at * args.out_stride + r - odd) = both;
        }
        continue;
      }
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        if (to[e] >= 0 && r < args.n)
          store_float(args.out, args.out_type,
                      static_cast<std::int64_t>(to[e]) * args.out_stride + r, v[e]);
      }
    }
  }
}

#endif

template <class T, int kHalves, int kN, bool kGate>
__global__ void __launch_bounds__(kThreads, 1)
    many_rows_kernel(const __grid_constant__ ManyArgs args, int row_groups) {
#ifdef KT_HOPPER
  using P = Plan<T, kHalves, kN>;
  constexpr int kTiles = kGate ? P::kRowTiles / 2 : P::kRowTiles;
  extern __shared__ __align__(1024) Byte raw_shared[];
  const Shared<P> shared(raw_shared);
  start_next();
  if (threadIdx.x == 0) {
    for (int i = 0; i < P::kStages; ++i) {
      hopper::barrier_init(shared.x_full(i), kGroup);
      hopper::barrier_init(shared.x_empty(i), 8);
    }
    for (int i = 0; i < kTilesAhead; ++i) {
      hopper::barrier_init(shared.w_full(i), 1);
      hopper::barrier_init(shared.w_empty(i), 8);
    }
    hopper::fence_proxy();
  }
  __syncthreads();
  await_previous();
  Job job;
  Turn x_turn, w_turn;
  if (threadIdx.x < kGroup) {
    hopper::give_registers<P::kProducer>();
    for (int i = blockIdx.x; find_job<kTiles, kN>(args, row_groups, i, &job); i += gridDim.x)
      produce<T, P, kN, kGate>(args, job, shared, x_turn, w_turn);
    asm volatile("cp.async.wait_all;" ::: "memory");
  } else {
    hopper::take_registers<P::kConsumer>();
    const int group = threadIdx.x / kGroup - 1;
    for (int i = blockIdx.x; find_job<kTiles, kN>(args, row_groups, i, &job); i += gridDim.x) {
      float acc[kHalves][kN / 2];
      consume<T, P, kHalves, kN, kGate>(args, job, shared, group, x_turn, w_turn, acc);
      if constexpr (kGate) {
#pragma unroll
        for (int e = 0; e < kN / 2; ++e) acc[0][e] = silu(acc[0][e]) * acc[1][e];
        store<kN>(args, job, job.first_row * 16 + group * 64, acc[0]);
      } else {
#pragma unroll
        for (int half = 0; half < kHalves; ++half)
          store<kN>(args, job, job.first_row * 16 + (group * kHalves + half) * 64, acc[half]);
      }
    }
  }
#endif
}

template <class T, int kHalves, int kN, bool kGate>
Status launch_many_kernel(const ManyArgs& args, Stream stream) {
  using P = Plan<T, kHalves, kN>;
  const auto kernel = many_rows_kernel<T, kHalves, kN, kGate>;
  const Status status = allow_shared(kernel, P::kShared);
  if (status != Status::kOk) return status;
  const std::int64_t groups = div_up<std::int64_t>(args.n, P::kRowTiles * (kGate ? 8 : 16));
  const std::int64_t columns =
      args.pieces != nullptr ? args.max_pieces : div_up<std::int64_t>(args.m, kN);
  const std::int64_t jobs = groups * columns, most = multiprocessors();
  return launch(kernel, dim3(static_cast<unsigned>(jobs < most ? jobs : most)), kThreads,
                P::kShared, stream, args, static_cast<int>(groups));
}

/// The pieces of up to kManyPairs pairs, then the small ones, which fill what the first leave idle.
template <class T, bool kGate>
Status launch_pieces(const ManyArgs& args, Stream stream) {
  const Status status = launch_many_kernel<T, 2, kManyPairs, kGate>(args, stream);
  return status == Status::kOk ? launch_many_kernel<T, 2, kSmallPairs, kGate>(args, stream)
                               : status;
}

}  // namespace many
}  // namespace kt::kernels::cuda

/// Instantiates the kernels of one format.
#define KT_MANY_ROWS(format, T)                                                                  \
  template <>                                                                                    \
  Status many_rows<formats::Format::format>(const ManyArgs& args, Stream stream) {               \
    if (args.pieces == nullptr) return many::launch_many_kernel<T, 1, 256, false>(args, stream); \
    return args.second != nullptr ? many::launch_pieces<T, true>(args, stream)                   \
                                  : many::launch_pieces<T, false>(args, stream);                 \
  }
