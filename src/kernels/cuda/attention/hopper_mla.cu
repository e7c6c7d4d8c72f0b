// Absorbed MLA on Hopper: 64 (token, head) rows of one sequence against tiles of 64 latents.
//
// A page of 64 x 576 values is key and, its first 512, value. Two warpgroups take tiles in turns:
// each multiplies all columns of its tile with the queries and turns scores into weights, then each
// adds the weights of both tiles to its half of the values' columns, so that 64 x 512 sums fit in
// registers. What they tell each other, once for each pair of tiles a, b (A, B, C: named barriers):
//
//   0:  S_a; max_a →A; w_a; O_l += w_a V_a; B→ w_b; w_a 2^(max_a - max_b) →C; O_l += w_b V_b
//   1:  S_b; A→ max_b = max(max_a, …); w_b →B; O_r += w_b V_b; C→ w_a; O_r += w_a V_a
//
// so that one's products run while the other works on weights. Columns 0-255 of tile a and 256-575
// of tile b come free first and are refilled first (hopper_mla.cuh). The order of tiles is
// FlashMLA's ("seesaw").
#include <array>
#include <atomic>

#include "kernels/cuda/attention/hopper_mla_sums.cuh"

namespace kt::kernels::cuda {
namespace {

using namespace mla;

#if KT_HOPPER()
using namespace hopper;

/// out += weights · values, 256 columns of them.
__device__ void add_values(float (&out)[128], const std::uint32_t (&p)[4][4], const Shared& shared,
                           int tile, int part) {
  const std::uint64_t v = here(transposed_descriptor(shared.columns(tile, part), kBlockBytes));
#pragma unroll
  for (int j = 0; j < 4; ++j) wgmma_rs_t<256>(out, p[j], v + j * (16 * 128 >> 4), 1);
}

/// A thread's weights to the one of the other warpgroup that has the same rows and columns.
__device__ void give_weights(const Shared& shared, const std::uint32_t (&p)[4], int i, int thread) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(shared.slot(i, thread)), "r"(p[0]),
               "r"(p[1]), "r"(p[2]), "r"(p[3])
               : "memory");
}
__device__ void take_weights(const Shared& shared, std::uint32_t (&p)[4], int i, int thread) {
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(p[0]), "=r"(p[1]), "=r"(p[2]), "=r"(p[3])
               : "r"(shared.slot(i, thread))
               : "memory");
}

/// What a warpgroup has of its rows.
struct Rows {
  int thread, local[2], positions[2];
  float log2_scale;
  __device__ Rows(const AttentionArgs& args, const BlockRange& range)
      : thread(threadIdx.x % kWarpgroup), log2_scale(args.scale * 1.44269504f) {
    for (int h = 0; h < 2; ++h) {
      local[h] = thread / kWarp * 16 + thread % kWarp / 4 + 8 * h;
      positions[h] = range.position(local[h]);
    }
  }
  __device__ void write(float (&to)[kRows], const float (&v)[2]) const {
    if (thread % 4 != 0) return;
    for (int h = 0; h < 2; ++h) to[local[h]] = v[h];
  }
};

/// Scores of tile `tile` are there: hides keys that rows do not see.
__device__ void hide(float (&s)[kTile / 2], const Shared& shared, const AttentionArgs& args,
                     const BlockRange& range, const Rows& rows, int tile, int key) {
  if (range.all_seen(args, key, key + kTile)) return;
  mask_scores<kTile>(s, key, range.key_end, rows.positions, static_cast<int>(args.window));
  if (key + kTile <= range.key_end) return;
  clear_rows<kTile, 2 * kLeftBlocks>(shared.columns(tile, 0), max(range.key_end - key, 0),
                                     rows.thread);
  sync_some(kGroupBarrier + tile, kWarpgroup);
}

__device__ void release(const Shared& shared, int tile, int part) {
  if (threadIdx.x % kWarp == 0) barrier_arrive(shared.empty(tile, part));
}

/// Starts scores of warpgroup kSide's tile over the columns that come first, those of the values of
/// its own, or over the others. kByBlock: products begin when their block of columns is there.
template <bool kByBlock, int kSide, bool kFirst>
__device__ void start_scores(float (&s)[kTile / 2], const Shared& shared, int pair) {
  constexpr int kLeft = (kSide == 0) == kFirst;
  constexpr int first = kLeft ? 0 : kLeftBlocks, end = kLeft ? kLeftBlocks : kBlocks;
  const std::uint64_t q = here(b_descriptor(shared.queries)),
                      k = here(b_descriptor(shared.columns(kSide, 0)));
  wgmma_fence();
#pragma unroll
  for (int b = first; b < end; ++b) {
    if (kByBlock || b == first) barrier_wait(shared.full(kSide, b), pair % 2);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int at = b * (kBlockBytes >> 4) + 2 * j;
      wgmma_ss<kTile>(s, q + at, k + at, !kFirst || b > first || j > 0);
    }
  }
  wgmma_commit();
}

/// What a warpgroup carries from pair to pair. s: the scores of the next one.
struct State {
  float s[kTile / 2], out[128], top[2], sum[2];
};

/// The factor from sums by one maximum to those by a greater one; top becomes that.
__device__ void rise(State& state, const float (&next)[2], float (&factor)[2]) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float top = state.top[h];
    factor[h] = next[h] == top || top == -INFINITY ? 1.0f : exp2_fast(top - next[h]);
    state.top[h] = next[h];
    state.sum[h] *= factor[h];
  }
}

/// A pair of tiles by warpgroup 0: weights of tile a, left columns of values.
template <bool kByBlock, bool kLast>
__device__ void step_left(State& state, const Shared& shared, const AttentionArgs& args,
                          const BlockRange& range, const Rows& rows, int pair) {
  std::uint32_t own[4][4], other[4][4];
  float next[] = {state.top[0], state.top[1]}, factor[2];
  hide(state.s, shared, args, range, rows, 0, range.key + pair * 2 * kTile);
  raise_tops<kTile>(state.s, rows.log2_scale, next);
  rows.write(shared.small->tops[0], next);
  arrive_some(kReadyA, 2 * kWarpgroup);
  rise(state, next, factor);
  weigh<kTile>(state.s, rows.log2_scale, state.top, state.sum);
  pack_weights<kTile>(state.s, own);
  scale_rows(state.out, factor);
  wgmma_settle(state.out);
  wgmma_fence();
  add_values(state.out, own, shared, 0, 0);
  wgmma_commit();

  sync_some(kReadyB, 2 * kWarpgroup);
#pragma unroll
  for (int h = 0; h < 2; ++h) next[h] = shared.small->tops[1][rows.local[h]];
  rise(state, next, factor);
  scale_rows(state.s, factor);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    std::uint32_t scaled[4];
#pragma unroll
    for (int j = 0; j < 4; ++j)
      scaled[j] = bf16_pair(state.s[8 * i + 2 * j], state.s[8 * i + 2 * j + 1]);
    take_weights(shared, other[i], i, rows.thread);
    give_weights(shared, scaled, i, rows.thread);
  }
  arrive_some(kReadyC, 2 * kWarpgroup);
  wgmma_wait<0>();
  wgmma_settle(state.out);
  release(shared, 0, 0);
  scale_rows(state.out, factor);
  wgmma_settle(state.out);
  wgmma_fence();
  add_values(state.out, other, shared, 1, 0);
  wgmma_commit();
  if constexpr (!kLast) {
    start_scores<kByBlock, 0, true>(state.s, shared, pair + 1);
    wgmma_wait<1>();
    release(shared, 1, 0);
    start_scores<kByBlock, 0, false>(state.s, shared, pair + 1);
  }
  wgmma_wait<0>();
  wgmma_settle(state.s);
  wgmma_settle(state.out);
}

/// The same by warpgroup 1: weights of tile b, right columns.
template <bool kByBlock, bool kLast>
__device__ void step_right(State& state, const Shared& shared, const AttentionArgs& args,
                           const BlockRange& range, const Rows& rows, int pair) {
  std::uint32_t own[4][4], other[4][4];
  float next[] = {state.top[0], state.top[1]}, factor[2];
  hide(state.s, shared, args, range, rows, 1, range.key + (pair * 2 + 1) * kTile);
  raise_tops<kTile>(state.s, rows.log2_scale, next);
  sync_some(kReadyA, 2 * kWarpgroup);
#pragma unroll
  for (int h = 0; h < 2; ++h) next[h] = fmaxf(next[h], shared.small->tops[0][rows.local[h]]);
  rows.write(shared.small->tops[1], next);
  rise(state, next, factor);
  weigh<kTile>(state.s, rows.log2_scale, state.top, state.sum);
  pack_weights<kTile>(state.s, own);
#pragma unroll
  for (int i = 0; i < 4; ++i) give_weights(shared, own[i], i, rows.thread);
  arrive_some(kReadyB, 2 * kWarpgroup);
  scale_rows(state.out, factor);
  wgmma_settle(state.out);
  wgmma_fence();
  add_values(state.out, own, shared, 1, 1);
  wgmma_commit();
  sync_some(kReadyC, 2 * kWarpgroup);
#pragma unroll
  for (int i = 0; i < 4; ++i) take_weights(shared, other[i], i, rows.thread);
  wgmma_fence();
  add_values(state.out, other, shared, 0, 1);
  wgmma_commit();
  if constexpr (!kLast) {
    wgmma_wait<1>();
    release(shared, 1, 1);
    start_scores<kByBlock, 1, true>(state.s, shared, pair + 1);
    wgmma_wait<1>();
    release(shared, 0, 1);
    start_scores<kByBlock, 1, false>(state.s, shared, pair + 1);
  }
  wgmma_wait<0>();
  wgmma_settle(state.s);
  wgmma_settle(state.out);
}

/// All pairs of tiles by warpgroup kSide.
template <bool kByBlock, int kSide>
__device__ void walk(State& state, const Shared& shared, const AttentionArgs& args,
                     const BlockRange& range, const Rows& rows, int n_pairs) {
  start_scores<kByBlock, kSide, true>(state.s, shared, 0);
  start_scores<kByBlock, kSide, false>(state.s, shared, 0);
  wgmma_wait<0>();
  wgmma_settle(state.s);
#pragma unroll 1
  for (int pair = 0; pair + 1 < n_pairs; ++pair) {
    if constexpr (kSide == 0)
      step_left<kByBlock, false>(state, shared, args, range, rows, pair);
    else
      step_right<kByBlock, false>(state, shared, args, range, rows, pair);
  }
  if constexpr (kSide == 0)
    step_left<kByBlock, true>(state, shared, args, range, rows, n_pairs - 1);
  else
    step_right<kByBlock, true>(state, shared, args, range, rows, n_pairs - 1);
}

/// The block's rows over its keys, by both warpgroups; leaves their sums to the cluster.
template <bool kByBlock>
__device__ void multiply(const Shared& shared, const AttentionArgs& args, const BlockRange& range,
                         int warpgroup, int n_pairs) {
  const Rows rows(args, range);
  State state;
#pragma unroll
  for (int i = 0; i < 128; ++i) state.out[i] = 0.0f;
  state.top[0] = state.top[1] = -INFINITY;
  state.sum[0] = state.sum[1] = 0.0f;
  if (n_pairs > 0) {
    barrier_wait(shared_address(&shared.small->queries), 0);
    if (warpgroup == 0)
      walk<kByBlock, 0>(state, shared, args, range, rows, n_pairs);
    else
      walk<kByBlock, 1>(state, shared, args, range, rows, n_pairs);
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    state.sum[h] += __shfl_xor_sync(~0u, state.sum[h], 1);
    state.sum[h] += __shfl_xor_sync(~0u, state.sum[h], 2);
  }
  rows.write(shared.small->sums[warpgroup], state.sum);
  sync_some(kBothBarrier, 2 * kWarpgroup);
#pragma unroll
  for (int h = 0; h < 2; ++h)
    state.sum[h] = shared.small->sums[0][rows.local[h]] + shared.small->sums[1][rows.local[h]];
  leave_sums(shared, rows.local, state.out, state.top, state.sum, warpgroup);
}
#endif

/// blockIdx: {split, rows, sequence}.
template <CacheType kType>
__global__ void __launch_bounds__(kThreads, 1)
    mla_kernel(const AttentionArgs args, const __grid_constant__ CUtensorMap keys,
               const __grid_constant__ CUtensorMap queries) {
#if KT_HOPPER()
  extern __shared__ __align__(1024) unsigned char shared_memory[];
  start_next();
  const Shared shared(shared_memory);
  if (threadIdx.x == 0) {
    barrier_init(shared_address(&shared.small->queries), 1);
    for (int tile = 0; tile < 2; ++tile) {
      for (int b = 0; b < kBlocks; ++b)
        barrier_init(shared.full(tile, b), kType == CacheType::kBF16 ? 1 : kWarpgroup);
      for (int part = 0; part < 2; ++part)
        barrier_init(shared.empty(tile, part), kWarpgroup / kWarp);
    }
    fence_barriers();
  }
  __syncthreads();
  await_previous();
  BlockRange range(args, 0, static_cast<int>(blockIdx.y), kRows, kTile);
  if (range.n_rows <= 0) return;
  range.share_keys(args, static_cast<int>(gridDim.x), kTile);
  const int n_pairs = div_up(max(range.key_end - range.key, 0), 2 * kTile);
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  constexpr int kRegisters = kType == CacheType::kBF16 ? 24 : 40;  // of a thread that loads
  if (warpgroup == 2) {
    give_registers<kRegisters>();
    if (threadIdx.x == 2 * kWarpgroup && n_pairs > 0) load_queries(shared, queries, args, range);
    if constexpr (kType == CacheType::kE4M3) {
      __syncwarp();
      widen_tiles(shared, args, range, n_pairs);
    } else {
      if (threadIdx.x == 2 * kWarpgroup) load_tiles(shared, keys, args, range, n_pairs);
      __syncwarp();
    }
    sync_cluster();
  } else {
    take_registers<252 - kRegisters / 2>();
    multiply<kType == CacheType::kBF16>(shared, args, range, warpgroup, n_pairs);
    sync_cluster();
    add_sums(args, shared, range);
  }
  leave_cluster();
#endif
}

using Kernel = void (*)(AttentionArgs, CUtensorMap, CUtensorMap);
Kernel kernel_of(const AttentionArgs& args) {
  return args.k.type == CacheType::kE4M3 ? mla_kernel<CacheType::kE4M3>
                                         : mla_kernel<CacheType::kBF16>;
}

unsigned grid_size(std::int64_t n) { return static_cast<unsigned>(n); }

/// Clusters of 2^log2_size blocks that the thread's device runs at once, asked for once: 66,
/// 30 and 15 of 2, 4 and 8 on an H100.
std::int64_t clusters_at_once(const AttentionArgs& args, int log2_size) {
  static std::array<std::array<std::atomic<int>, 4>, 64> known;
  int device = 0;
  if (status_of(cudaGetDevice(&device)) != Status::kOk || device < 0 || device >= 64) return 1;
  std::atomic<int>& value =
      known[static_cast<std::size_t>(device)][static_cast<std::size_t>(log2_size)];
  if (value == 0) {
    const int n = most_clusters(kernel_of(args), dim3(1u << log2_size), kThreads, kSharedBytes);
    value = std::max(n, 1);
  }
  return value;
}

/// Blocks that would be enough without splits.
std::int64_t row_blocks(const AttentionArgs& args) {
  return div_up<std::int64_t>(args.max_item_rows * args.n_heads, kRows);
}

struct Choice {
  MlaSplits splits;
  std::int64_t pages, time;  // of a block; ns
};

/// The best of clusters of 1, 2, 4 and 8 for at least n_splits. Times are fitted to an H100's, of
/// which they are 3 % off: tiles, and the first ones most, take longer the more blocks load them,
/// unless widening takes as long anyway; then sums read from other blocks, partial results written,
/// and the launch that reads these.
Choice choose(const AttentionArgs& args, std::int64_t n_splits) {
  const std::int64_t groups = args.n_items * row_blocks(args);
  const std::int64_t pages = div_up(args.max_keys, kPageLen);
  Choice best = {};
  for (int log2_size = 0; 1 << log2_size <= kMostCluster; ++log2_size) {
    const std::int64_t size = 1 << log2_size, clusters = div_up(n_splits, size);
    const std::int64_t length = div_up(div_up(pages, size * clusters), std::int64_t{2}) * 2;
    const std::int64_t at_once = clusters_at_once(args, log2_size);
    const std::int64_t waves = div_up(groups * clusters, at_once);
    const std::int64_t running = std::min(groups * clusters, at_once) * size;
    const std::int64_t page = args.k.type == CacheType::kE4M3 ? 2800 : 1560 + 6 * running;
    std::int64_t time = waves * (3100 + 47 * running + page * length);
    time += 4600 * (size - 1) / size;
    if (clusters > 1) time += 1800 + 5000 / size + 60 * groups * clusters;
    if (log2_size == 0 || time < best.time) best = {{size, clusters}, length, time};
  }
  return best;
}

}  // namespace

MlaSplits mla_splits(const AttentionArgs& args) {
  return choose(args, div_up(args.max_keys, args.split_keys)).splits;
}

std::int64_t mla_split_keys(const AttentionArgs& args) {
  const std::int64_t pairs = div_up(args.max_keys, 2 * kPageLen);
  const std::int64_t most = 2 * multiprocessors() / (args.n_items * row_blocks(args));
  Choice best = choose(args, 1);
  for (std::int64_t n = 2; n <= std::min(most, pairs); ++n) {
    const Choice choice = choose(args, n);
    if (choice.time < best.time) best = choice;
  }
  return best.pages * kPageLen;  // from which choose() comes to the same, or to fewer splits
}

Status launch_mla(const AttentionArgs& args, Stream stream) {
  const MlaSplits splits = mla_splits(args);
  const Kernel kernel = kernel_of(args);
  CUtensorMap keys = {}, queries = {};
  Status status = args.k.type == CacheType::kE4M3 ? Status::kOk : cache_map(args.k, 576, 1, &keys);
  if (status == Status::kOk)
    status =
        make_map({args.q, args.n_rows * args.n_heads, 1, 576, args.q_head_stride, 0}, &queries);
  if (status == Status::kOk) status = allow_shared(kernel, kSharedBytes);
  if (status != Status::kOk) return status;
  const dim3 grid(grid_size(splits.cluster * splits.clusters), grid_size(row_blocks(args)),
                  grid_size(args.n_items));
  return launch_clusters(dim3(grid_size(splits.cluster)), kernel, grid, kThreads, kSharedBytes,
                         stream, args, keys, queries);
}

}  // namespace kt::kernels::cuda
