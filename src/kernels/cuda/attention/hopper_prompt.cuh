// Prompts on Hopper: 128 (token, head of the group) rows against tiles of kKeys keys, two
// warpgroups of 64 rows and one thread that loads (the scheme of FlashAttention-3, arXiv
// 2407.08608).
//
// A warpgroup starts the scores of the next tile and the sums of the last one together, and turns
// scores into weights while the sums still run. Keys and values lie in kStages tiles each. Blocks
// with the most keys come first. Thread rule: status.h.
#pragma once
#include <algorithm>

#include "kernels/cuda/attention/hopper.cuh"

namespace kt::kernels::cuda {

template <int kDimQk_, int kDimV_, int kKeys_>
struct PromptShape {
  static constexpr int kDimQk = kDimQk_, kDimV = kDimV_, kKeys = kKeys_;
  static constexpr int kRows = 2 * 64, kStages = 2, kThreads = 3 * hopper::kWarpgroup;
  static constexpr int kBlockBytes = kKeys * 128;  // 64 columns of a tile
  static constexpr int kQueryBytes = kRows * kDimQk * 2;
  static constexpr int kKBytes = kKeys * kDimQk * 2, kVBytes = kKeys * kDimV * 2;
  static constexpr int kTilesBytes = kQueryBytes + kStages * (kKBytes + kVBytes);
  static constexpr int kSharedBytes = kTilesBytes + 4 * kStages * 8;
  static_assert(kSharedBytes <= 227 * 1024);
};

#if KT_HOPPER()
namespace prompt {
using namespace hopper;

enum Barrier { kKeysFull, kValuesFull, kKeysEmpty, kValuesEmpty };

template <class S>
struct Shared {
  std::uint32_t queries, keys, values, barriers;
  __device__ explicit Shared(unsigned char* raw)
      : queries(shared_address(raw)),
        keys(queries + S::kQueryBytes),
        values(keys + S::kStages * S::kKBytes),
        barriers(queries + S::kTilesBytes) {}
  __device__ std::uint32_t barrier(Barrier which, int tile) const {
    return barriers + (which * S::kStages + tile % S::kStages) * 8;
  }
  __device__ std::uint32_t key_tile(int tile) const {
    return keys + tile % S::kStages * S::kKBytes;
  }
  __device__ std::uint32_t value_tile(int tile) const {
    return values + tile % S::kStages * S::kVBytes;
  }
};

template <class S>
__device__ int parity(int tile) {
  return tile / S::kStages % 2;
}

/// One thread: keys and values of all tiles.
template <class S>
__device__ void load_tiles(const Shared<S>& shared, const CUtensorMap& k_map,
                           const CUtensorMap& v_map, const AttentionArgs& args,
                           const BlockRange& range, int n_tiles) {
  const auto load = [&](std::uint32_t to, const CUtensorMap& map, std::uint32_t full, int dim,
                        const int(&pages)[S::kKeys / 64]) {
    barrier_expect(full, S::kKeys * dim * 2);
    for (int page = 0; page < S::kKeys / 64; ++page) {
      for (int x = 0; x < dim; x += 64)
        copy_box(to + x / 64 * S::kBlockBytes + page * 64 * 128, &map, full, x, range.kv_head,
                 pages[page]);
    }
  };
  for (int tile = 0; tile < n_tiles; ++tile) {
    int pages[S::kKeys / 64];
    for (int page = 0; page < S::kKeys / 64; ++page)
      pages[page] = page_row(args, range, range.key + tile * S::kKeys + page * 64);
    barrier_wait(shared.barrier(kKeysEmpty, tile), parity<S>(tile) ^ 1);
    load(shared.key_tile(tile), k_map, shared.barrier(kKeysFull, tile), S::kDimQk, pages);
    barrier_wait(shared.barrier(kValuesEmpty, tile), parity<S>(tile) ^ 1);
    load(shared.value_tile(tile), v_map, shared.barrier(kValuesFull, tile), S::kDimV, pages);
  }
}

template <class S>
struct State {
  float s[S::kKeys / 2], out[S::kDimV / 2], top[2], sum[2], factor[2];
  std::uint32_t p[S::kKeys / 16][4];
};

template <class S>
__device__ void start_scores(State<S>& state, const Shared<S>& shared, int warpgroup, int tile) {
  const std::uint64_t q = b_descriptor(shared.queries + warpgroup * 64 * 128),
                      k = b_descriptor(shared.key_tile(tile));
#pragma unroll
  for (int d = 0; d < S::kDimQk; d += 16) {
    const int in_block = d % 64 * 2 >> 4;
    wgmma_ss<S::kKeys>(state.s, q + (d / 64 * (S::kRows * 128) >> 4) + in_block,
                       k + (d / 64 * S::kBlockBytes >> 4) + in_block, d > 0);
  }
  wgmma_commit();
}

template <class S>
__device__ void start_sums(State<S>& state, const Shared<S>& shared, int tile) {
  const std::uint64_t v = transposed_descriptor(shared.value_tile(tile), S::kBlockBytes);
#pragma unroll
  for (int i = 0; i < S::kKeys / 16; ++i)
    wgmma_rs_t<S::kDimV>(state.out, state.p[i], v + i * (16 * 128 >> 4), 1);
  wgmma_commit();
}

template <class S>
__device__ void release(const Shared<S>& shared, Barrier which, int tile) {
  if (threadIdx.x % kWarp == 0) barrier_arrive(shared.barrier(which, tile));
}

/// Scores of a tile are there: they become weights, and `factor` what older sums are scaled by.
template <class S>
__device__ void soften(State<S>& state, const AttentionArgs& args, const BlockRange& range,
                       const int (&positions)[2], float log2_scale, int tile) {
  const int key = range.key + tile * S::kKeys;
  if (!range.all_seen(args, key, key + S::kKeys))
    mask_scores<S::kKeys>(state.s, key, range.key_end, positions, static_cast<int>(args.window));
  const float old[] = {state.top[0], state.top[1]};
  raise_tops<S::kKeys>(state.s, log2_scale, state.top);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    state.factor[h] =
        old[h] == state.top[h] || old[h] == -INFINITY ? 1.0f : exp2_fast(old[h] - state.top[h]);
    state.sum[h] *= state.factor[h];
  }
  weigh<S::kKeys>(state.s, log2_scale, state.top, state.sum);
}

/// Waits for a tile's values; those behind the last key become zeros, for this warpgroup.
template <class S>
__device__ void await_values(const Shared<S>& shared, const BlockRange& range, int tile,
                             int warpgroup) {
  barrier_wait(shared.barrier(kValuesFull, tile), parity<S>(tile));
  const int seen = range.key_end - range.key - tile * S::kKeys;
  if (seen >= S::kKeys) return;
  clear_rows<S::kKeys, S::kDimV / 64>(shared.value_tile(tile), seen, threadIdx.x % kWarpgroup);
  sync_some(1 + warpgroup, kWarpgroup);
}

template <class S>
__device__ void walk(const Shared<S>& shared, const AttentionArgs& args, const BlockRange& range,
                     int n_tiles, int warpgroup) {
  const float log2_scale = args.scale * 1.44269504f;
  const int thread = threadIdx.x % kWarpgroup;
  int rows[2], positions[2];
  State<S> state;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    rows[h] = warpgroup * 64 + thread / kWarp * 16 + thread % kWarp / 4 + 8 * h;
    positions[h] = range.position(rows[h]);
    state.top[h] = -INFINITY;
    state.sum[h] = 0.0f;
  }
#pragma unroll
  for (int i = 0; i < S::kDimV / 2; ++i) state.out[i] = 0.0f;
  barrier_wait(shared.barrier(kKeysFull, 0), 0);
  wgmma_fence();
  start_scores(state, shared, warpgroup, 0);
  wgmma_wait<0>();
  wgmma_settle(state.s);
  release(shared, kKeysEmpty, 0);
  soften(state, args, range, positions, log2_scale, 0);
  pack_weights<S::kKeys>(state.s, state.p);
#pragma unroll 1
  for (int tile = 1; tile < n_tiles; ++tile) {
    barrier_wait(shared.barrier(kKeysFull, tile), parity<S>(tile));
    barrier_wait(shared.barrier(kValuesFull, tile - 1), parity<S>(tile - 1));
    wgmma_fence();
    start_scores(state, shared, warpgroup, tile);
    start_sums(state, shared, tile - 1);
    wgmma_wait<1>();
    wgmma_settle(state.s);
    release(shared, kKeysEmpty, tile);
    soften(state, args, range, positions, log2_scale, tile);
    wgmma_wait<0>();
    wgmma_settle(state.out);
    release(shared, kValuesEmpty, tile - 1);
    scale_rows(state.out, state.factor);
    pack_weights<S::kKeys>(state.s, state.p);
    wgmma_settle(state.out);
  }
  await_values(shared, range, n_tiles - 1, warpgroup);
  wgmma_fence();
  start_sums(state, shared, n_tiles - 1);
  wgmma_wait<0>();
  wgmma_settle(state.out);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    state.sum[h] += __shfl_xor_sync(~0u, state.sum[h], 1);
    state.sum[h] += __shfl_xor_sync(~0u, state.sum[h], 2);
  }
  store_results(args, range, rows, state.out, state.top, state.sum, 0);
}

}  // namespace prompt
#endif

template <class S>
__global__ void __launch_bounds__(S::kThreads, 1)
    prompt_kernel(const AttentionArgs args, const __grid_constant__ CUtensorMap k_map,
                  const __grid_constant__ CUtensorMap v_map, int heads_at_once) {
#if KT_HOPPER()
  using namespace prompt;
  extern __shared__ __align__(1024) unsigned char shared_memory[];
  start_next();
  await_previous();
  // Heads in groups, their blocks from the last, which has most keys.
  const int n_kv_heads = static_cast<int>(args.n_kv_heads), block = static_cast<int>(blockIdx.y);
  const int m_blocks = static_cast<int>(gridDim.y) / n_kv_heads;
  const int first_head = block / (heads_at_once * m_blocks) * heads_at_once;
  const int n_heads = min(heads_at_once, n_kv_heads - first_head);
  const int in_group = block - first_head * m_blocks;
  const BlockRange range(args, first_head + in_group % n_heads, m_blocks - 1 - in_group / n_heads,
                         S::kRows, S::kKeys);
  if (range.n_rows <= 0) return;
  if (range.key >= range.key_end) return leave_empty(args, range);
  const Shared<S> shared(shared_memory);
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      barrier_init(shared.barrier(kKeysFull, i), 1);
      barrier_init(shared.barrier(kValuesFull, i), 1);
      barrier_init(shared.barrier(kKeysEmpty, i), 2 * kWarpgroup / kWarp);
      barrier_init(shared.barrier(kValuesEmpty, i), 2 * kWarpgroup / kWarp);
    }
    fence_barriers();
  }
  __syncthreads();
  const int n_tiles = div_up(range.key_end - range.key, S::kKeys);
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  if (warpgroup == 2) {
    give_registers<24>();
    if (threadIdx.x == 2 * kWarpgroup) load_tiles(shared, k_map, v_map, args, range, n_tiles);
  } else {
    take_registers<240>();
    load_queries<S::kRows, S::kDimQk>(shared.queries, args, range, threadIdx.x, 2 * kWarpgroup);
    fence_proxy();
    sync_some(3, 2 * kWarpgroup);
    walk(shared, args, range, n_tiles, warpgroup);
  }
#endif
}

template <class S>
Status launch_prompt_shape(const AttentionArgs& args, Stream stream) {
  CUtensorMap k_map, v_map;
  Status status = cache_map(args.k, S::kDimQk, args.n_kv_heads, &k_map);
  if (status == Status::kOk) status = cache_map(args.v, S::kDimV, args.n_kv_heads, &v_map);
  if (status == Status::kOk) status = allow_shared(prompt_kernel<S>, S::kSharedBytes);
  if (status != Status::kOk) return status;
  const std::int64_t rows = args.max_item_rows * (args.n_heads / args.n_kv_heads);
  const dim3 grid(static_cast<unsigned>(div_up(args.max_keys, args.split_keys)),
                  static_cast<unsigned>(args.n_kv_heads * div_up<std::int64_t>(rows, S::kRows)),
                  static_cast<unsigned>(args.n_items));
  constexpr std::int64_t kCacheBytes = std::int64_t{20} << 20;  // of L2, for blocks under way
  const std::int64_t head_bytes = args.max_keys * (S::kDimQk + S::kDimV) * 2;
  const auto heads_at_once =
      static_cast<int>(std::clamp<std::int64_t>(kCacheBytes / head_bytes, 1, args.n_kv_heads));
  return launch(prompt_kernel<S>, grid, S::kThreads, S::kSharedBytes, stream, args, k_map, v_map,
                heads_at_once);
}

}  // namespace kt::kernels::cuda
