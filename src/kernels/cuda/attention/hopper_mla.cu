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
#include "kernels/cuda/attention/hopper_mla.cuh"

namespace kt::kernels::cuda {
namespace {

using namespace mla;

#ifdef KT_HOPPER
using namespace hopper;

/// s (+)= queries · keysᵀ over left or right columns.
__device__ void add_scores(float (&s)[kTile / 2], const Shared& shared, int tile, int part,
                           bool accumulate) {
  const int first = part == 0 ? 0 : kLeftBlocks, end = part == 0 ? kLeftBlocks : kBlocks;
  const std::uint64_t q = here(b_descriptor(shared.queries)),
                      k = here(b_descriptor(shared.columns(tile, 0)));
#pragma unroll
  for (int b = first; b < end; ++b) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int at = b * (kBlockBytes >> 4) + 2 * j;
      wgmma_ss<kTile>(s, q + at, k + at, accumulate || b > first || j > 0);
    }
  }
}

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
/// its own, or over the others.
template <int kSide, bool kFirst>
__device__ void start_scores(float (&s)[kTile / 2], const Shared& shared, int pair) {
  constexpr int kPart = kFirst ? kSide : 1 - kSide;
  barrier_wait(shared.full(kSide, kPart), pair % 2);
  wgmma_fence();
  add_scores(s, shared, kSide, kPart, !kFirst);
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
template <bool kLast>
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
    start_scores<0, true>(state.s, shared, pair + 1);
    wgmma_wait<1>();
    release(shared, 1, 0);
    start_scores<0, false>(state.s, shared, pair + 1);
  }
  wgmma_wait<0>();
  wgmma_settle(state.s);
  wgmma_settle(state.out);
}

/// The same by warpgroup 1: weights of tile b, right columns.
template <bool kLast>
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
    start_scores<1, true>(state.s, shared, pair + 1);
    wgmma_wait<1>();
    release(shared, 0, 1);
    start_scores<1, false>(state.s, shared, pair + 1);
  }
  wgmma_wait<0>();
  wgmma_settle(state.s);
  wgmma_settle(state.out);
}
#endif

template <CacheType kType>
__global__ void __launch_bounds__(kThreads, 1)
    mla_kernel(const AttentionArgs args, const __grid_constant__ CUtensorMap map) {
#ifdef KT_HOPPER
  extern __shared__ __align__(1024) unsigned char shared_memory[];
  start_next();
  await_previous();
  const BlockRange range(args, 0, static_cast<int>(blockIdx.y), kRows, kTile);
  if (range.n_rows <= 0) return;
  if (range.key >= range.key_end) return leave_empty(args, range);
  const Shared shared(shared_memory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 4; ++i) {
      barrier_init(shared.full(i / 2, i % 2), kType == CacheType::kBF16 ? 1 : kWarpgroup);
      barrier_init(shared.empty(i / 2, i % 2), kWarpgroup / kWarp);
    }
    fence_barriers();
  }
  __syncthreads();
  const int n_pairs = div_up(range.key_end - range.key, 2 * kTile);
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  constexpr int kRegisters = kType == CacheType::kBF16 ? 24 : 40;  // of a thread that loads
  if (warpgroup == 2) {
    give_registers<kRegisters>();
    if constexpr (kType == CacheType::kE4M3) {
      widen_tiles(shared, args, range, n_pairs);
    } else {
      if (threadIdx.x == 2 * kWarpgroup) load_tiles(shared, map, args, range, n_pairs);
    }
  } else {
    take_registers<252 - kRegisters / 2>();
    load_queries<kRows, 576>(shared.queries, args, range, threadIdx.x, 2 * kWarpgroup);
    fence_proxy();
    sync_some(kBothBarrier, 2 * kWarpgroup);
    const Rows rows(args, range);
    State state;
#pragma unroll
    for (int i = 0; i < 128; ++i) state.out[i] = 0.0f;
    state.top[0] = state.top[1] = -INFINITY;
    state.sum[0] = state.sum[1] = 0.0f;
    if (warpgroup == 0) {
      start_scores<0, true>(state.s, shared, 0);
      start_scores<0, false>(state.s, shared, 0);
      wgmma_wait<0>();
      wgmma_settle(state.s);
#pragma unroll 1
      for (int pair = 0; pair + 1 < n_pairs; ++pair)
        step_left<false>(state, shared, args, range, rows, pair);
      step_left<true>(state, shared, args, range, rows, n_pairs - 1);
    } else {
      start_scores<1, true>(state.s, shared, 0);
      start_scores<1, false>(state.s, shared, 0);
      wgmma_wait<0>();
      wgmma_settle(state.s);
#pragma unroll 1
      for (int pair = 0; pair + 1 < n_pairs; ++pair)
        step_right<false>(state, shared, args, range, rows, pair);
      step_right<true>(state, shared, args, range, rows, n_pairs - 1);
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
    store_results(args, range, rows.local, state.out, state.top, state.sum, warpgroup * 256);
  }
#endif
}

}  // namespace

Status launch_mla(const AttentionArgs& args, Stream stream) {
  const bool widens = args.k.type == CacheType::kE4M3;
  void (*kernel)(AttentionArgs, CUtensorMap) =
      widens ? mla_kernel<CacheType::kE4M3> : mla_kernel<CacheType::kBF16>;
  CUtensorMap map = {};
  Status status = widens ? Status::kOk : cache_map(args.k, 576, 1, &map);
  if (status == Status::kOk) status = allow_shared(kernel, kSharedBytes);
  if (status != Status::kOk) return status;
  const dim3 grid(
      static_cast<unsigned>(div_up(args.max_keys, args.split_keys)),
      static_cast<unsigned>(div_up<std::int64_t>(args.max_item_rows * args.n_heads, kRows)),
      static_cast<unsigned>(args.n_items));
  return launch(kernel, grid, kThreads, kSharedBytes, stream, args, map);
}

}  // namespace kt::kernels::cuda
