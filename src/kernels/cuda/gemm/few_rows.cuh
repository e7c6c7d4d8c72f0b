// Products of 2 to kSkinnyRows rows of x, and of one row that shared memory does not hold.
//
// Blocks share the row tiles, kTogether of them as a group, and where x of all k does not fit
// shared memory also k. A block stages its k of x; its warps divide its tiles, group by group, each
// taking consecutive ones, which are on their way before the kernel may look at x (tile_ring.cuh).
// Where a group falls to several warps, the one that began it adds the sums of the others in order;
// sums of several parts of k are added in shared memory where their blocks are a cluster, else by a
// second kernel. So the order of all sums depends on the shapes and the device only. Thread rule:
// status.h.
#pragma once
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>

#include "kernels/cuda/device/clusters.cuh"
#include "kernels/cuda/device/division.cuh"
#include "kernels/cuda/gemm/one_row.cuh"
#include "kernels/cuda/gemm/tile_kernels.h"
#include "kernels/cuda/gemm/tile_ring.cuh"

namespace kt::kernels::cuda {

/// Blocks of a cluster at most, on every device that knows clusters.
inline constexpr int kMostClustered = 8;

/// The part that a row tile belongs to.
__device__ inline const SkinnyPart& part_of(const SkinnyArgs& args, int row_tile) {
  int i = 0;
  while (i + 1 < args.n_parts && row_tile >= args.parts[i + 1].first_tile) ++i;
  return args.parts[i];
}

/// The memory of a row tile.
template <class T>
__device__ const Byte* tiles_at(const SkinnyArgs& args, int row_tile, int k_tiles) {
  const SkinnyPart& part = part_of(args, row_tile);
  return static_cast<const Byte*>(part.tiles) +
         static_cast<std::int64_t>(row_tile - part.first_tile) * k_tiles * T::kBytes;
}

/// A lane's sums of a row tile and rows 8n … 8n + 7 of x are done: y = sums + bias.
__device__ inline void store_sums(const SkinnyArgs& args, int row_tile, int n, int lane,
                                  const float4& sums) {
  const SkinnyPart& part = part_of(args, row_tile);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const std::int64_t row = (row_tile - part.first_tile) * kTileRows + lane / 4 + 8 * h;
    if (row >= part.n) continue;
    const float bias = part.bias == nullptr ? 0.0f : part.bias[row];
    const int token = 8 * n + lane % 4 * 2;
    const float low = h == 0 ? sums.x : sums.z, high = h == 0 ? sums.y : sums.w;
    const std::int64_t at = token * part.y_stride + row;
    if (token < args.m) store_float(part.y, part.y_type, at, low + bias);
    if (token + 1 < args.m) store_float(part.y, part.y_type, at + part.y_stride, high + bias);
  }
}

__device__ inline float4 sum_of(const float4& a, const float4& b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
__device__ inline float4 as_float4(const float (&v)[4]) {
  return make_float4(v[0], v[1], v[2], v[3]);
}
__device__ inline void add(float (&sum)[4], const float4& v) {
  sum[0] += v.x;
  sum[1] += v.y;
  sum[2] += v.z;
  sum[3] += v.w;
}

/// y = the sums of the parts of k, [part][row tile][n8][lane], added in order.
static __global__ void add_splits_kernel(const __grid_constant__ SkinnyArgs args, int splits,
                                         int n8s) {
  start_next();
  await_previous();
  const int i = blockIdx.x * blockDim.x + threadIdx.x, all = args.row_tiles * n8s * kWarp;
  if (i >= all) return;
  const auto* partial = static_cast<const float4*>(args.workspace) + i;
  float4 sum = partial[0];
  for (int s = 1; s < splits; ++s) sum = sum_of(sum, partial[static_cast<std::int64_t>(s) * all]);
  store_sums(args, i / kWarp / n8s, i / kWarp % n8s, i % kWarp, sum);
}

/// Of a kernel for 8 · kN rows of x: row tiles that a warp multiplies at a time, warps of a block
/// (fewer where shared memory is small), stages of their rings.
template <class T, int kN_, int kTogether_, int kWarps_, int kStages_>
struct FewRowsConfig {
  using Tile = T;
  static constexpr int kN = kN_, kTogether = kTogether_, kWarps = kWarps_, kStages = kStages_;
  using Ring = TileRing<T, kTogether, kStages>;
  static constexpr int kGroupFloat4s = kTogether * kN * kWarp;  // sums of a group
  /// `part_groups`: of which a cluster's sums are kept.
  static constexpr std::size_t shared_bytes(std::int64_t k_tiles, std::int64_t part_groups,
                                            int warps) {
    return static_cast<std::size_t>(warps) * Ring::kBytes +
           static_cast<std::size_t>(warps + part_groups) * kGroupFloat4s * 16 +
           Staged<T, kN>::bytes(k_tiles);
  }
};

/// How the blocks and warps of a launch share it.
struct FewRowsShares {
  int all_k = 0;  // tiles of a row
  Parts k, rows;
  Divisor by_k, by_more_k, by_splits;  // k.each and one more
  int warps_log2 = 0;
  bool clustered = false;
};

template <class Config>
__global__ void __maxnreg__(7 * 8192 / (Config::kWarps * kWarp))
    few_rows_kernel(const __grid_constant__ SkinnyArgs args,
                    const __grid_constant__ FewRowsShares shares) {
  using T = typename Config::Tile;
  constexpr int kN = Config::kN, kR = Config::kTogether;
  extern __shared__ __align__(16) Byte shared[];
  start_next();
  const bool clustered = shares.clustered;
  if (clustered) arrive_cluster();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = 1 << shares.warps_log2;
  const int all_k = shares.all_k, splits = gridDim.y, rank = blockIdx.y;
  const int k_begin = shares.k.begin(rank), k_tiles = shares.k.size(rank);
  const int row_begin = shares.rows.begin(blockIdx.x),
            row_end = row_begin + shares.rows.size(blockIdx.x);
  const int groups = (row_end - row_begin + kR - 1) / kR, items = groups * k_tiles;
  // The items, a group's tiles of one k, of warp w: [first_of(w), first_of(w + 1)).
  const auto first_of = [&](int w) {
    return items < warps ? min(w, items) : w * items >> shares.warps_log2;
  };
  const int first = first_of(warp), last = first_of(warp + 1);
  const int first_group = (k_tiles == shares.k.each ? shares.by_k : shares.by_more_k).of(first),
            first_tile = first - first_group * k_tiles;

  typename Config::Ring ring(shared + warp * Config::Ring::kBytes);
  auto* sums = reinterpret_cast<float4*>(shared + warps * Config::Ring::kBytes);
  float4* parts = sums + warps * Config::kGroupFloat4s;  // [own group][split]
  const int own_groups = clustered ? shares.by_splits.of(groups + splits - 1) : 0;
  const Staged<T, kN> x(
      reinterpret_cast<Byte*>(parts + own_groups * splits * Config::kGroupFloat4s), k_tiles);

  // The tiles that the ring is asked for next.
  int ahead = first, ahead_group = first_group, ahead_tile = first_tile;
  const Byte* from[kR] = {};
  const auto find = [&] {
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      const int row_tile = min(row_begin + ahead_group * kR + r, row_end - 1);
      from[r] = tiles_at<T>(args, row_tile, all_k) +
                static_cast<std::int64_t>(k_begin + ahead_tile) * T::kBytes;
    }
  };
  const auto load = [&] {
    ring.load(ahead < last ? row_end - row_begin - ahead_group * kR : 0, from);
    if (++ahead >= last) return;
    if (++ahead_tile == k_tiles) {
      ahead_tile = 0;
      ++ahead_group;
      find();
    } else {
#pragma unroll
      for (int r = 0; r < kR; ++r) from[r] += T::kBytes;
    }
  };
  if (first < last) find();
#pragma unroll 1
  for (int i = 0; i < Config::kStages; ++i) load();
  fill_table<T>(x.table);
  await_previous();
  stage<T, kN>(x, static_cast<int>(args.m), std::int64_t{k_begin} * T::kK, k_tiles, args.k,
               rows_aligned<16>(args.x, args.x_stride),
               [&](int r) { return args.x + r * args.x_stride; });
  __syncthreads();

  float acc[kR][kN][4];
  const auto for_each_sum = [&](auto&& call) {
#pragma unroll
    for (int i = 0; i < kR * kN; ++i) call(i, acc[i / kN][i % kN]);
  };
  const auto finish = [&](int group) {
    const int own = clustered ? shares.by_splits.of(group) : 0;
    for_each_sum([&](int i, float(&sum)[4]) {
      const int row_tile = row_begin + group * kR + i / kN, n = i % kN;
      if (row_tile >= row_end) return;
      const float4 v = as_float4(sum);
      if (splits == 1) {
        store_sums(args, row_tile, n, lane, v);
      } else if (clustered) {
        float4* place = parts + (own * splits + rank) * Config::kGroupFloat4s + i * kWarp + lane;
        store_there(in_block(place, group - own * splits), v);
      } else {
        const std::int64_t tile = std::int64_t{rank} * args.row_tiles + row_tile;
        static_cast<float4*>(args.workspace)[(tile * kN + n) * kWarp + lane] = v;
      }
    });
  };
  if (clustered) wait_cluster();
  int item = first, group = first_group, tile = first_tile;
  bool ended = false;
  while (!ended) {
    const bool began = tile == 0;  // the group's first tile is this warp's
    for_each_sum([](int, float(&v)[4]) { v[0] = v[1] = v[2] = v[3] = 0.0f; });
#pragma unroll 1
    for (; item < last && tile < k_tiles; ++item, ++tile) {
      typename T::Raw raw[kR];
      ring.take(raw);
      load();
      multiply_tiles<T, kN, kR>(raw, x, tile, acc);
    }
    ended = item == last;
    float4* place = sums + warp * Config::kGroupFloat4s + lane;
    if (!began) for_each_sum([&](int i, float(&v)[4]) { place[i * kWarp] = as_float4(v); });
    if (ended) __syncthreads();
    if (began && first < last) {
      // Where others went on with the group:
      const int end = (group + 1) * k_tiles;
#pragma unroll 1
      for (int w = warp + 1; ended && w < warps && first_of(w) < end; ++w) {
        place += Config::kGroupFloat4s;
        for_each_sum([&](int i, float(&v)[4]) { add(v, place[i * kWarp]); });
      }
      finish(group);
    }
    ++group;
    tile = 0;
  }
  if (!clustered) return;
  arrive_cluster();
  wait_cluster();
  for (int i = warp; i < own_groups * kR * kN; i += warps) {
    const int own = i / (kR * kN), of_group = i % (kR * kN);
    const int row_tile = row_begin + (own * splits + rank) * kR + of_group / kN;
    if (row_tile >= row_end) continue;
    const float4* part = parts + own * splits * Config::kGroupFloat4s + of_group * kWarp + lane;
    float4 sum = part[0];
#pragma unroll 4
    for (int s = 1; s < splits; ++s) sum = sum_of(sum, part[s * Config::kGroupFloat4s]);
    store_sums(args, row_tile, of_group % kN, lane, sum);
  }
}

/// Stages of a ring that keep what a multiprocessor needs on its way, in so many bytes.
template <class T>
constexpr int few_rows_stages(int together, int warps, int bytes) {
  const int stages = bytes / (warps * together * T::kBytes);
  return stages < 2 ? 2 : stages > 4 ? 4 : stages;
}

/// Clusters of so many blocks that a device has room for at once; 0: it knows no clusters.
template <class Config>
int clusters_at_once(int blocks) {
  static std::array<std::atomic<int>, 64 * (kMostClustered + 1)> known;  // one more than the answer
  int device = 0;
  if (!overlaps_launches() || status_of(cudaGetDevice(&device)) != Status::kOk || device >= 64)
    return 0;
  std::atomic<int>& value = known[static_cast<std::size_t>(device * (kMostClustered + 1) + blocks)];
  if (value == 0) {
    int shared = 0;
    cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    value = 1 + most_clusters(few_rows_kernel<Config>, dim3(1, static_cast<unsigned>(blocks)),
                              Config::kWarps * kWarp, static_cast<std::size_t>(shared));
  }
  return value - 1;
}

/// A way to divide a launch, and what it may cost in ns; below 0: it cannot be done.
struct FewRowsPlan {
  SkinnyPlan plan;
  std::int64_t cost = -1;
  bool better_than(const FewRowsPlan& other) const {
    return cost >= 0 && (other.cost < 0 || cost < other.cost);
  }
};

template <class Config>
FewRowsPlan plan_splits(std::int64_t row_tiles, std::int64_t k_tiles, std::int64_t m,
                        std::int64_t splits, std::int64_t most_blocks, bool clustered, int warps,
                        const DeviceInfo& device) {
  using T = typename Config::Tile;
  FewRowsPlan out;
  if (most_blocks == 0) return out;
  const std::int64_t blocks = std::min(row_tiles, most_blocks), rows = div_up(row_tiles, blocks),
                     groups = div_up<std::int64_t>(rows, Config::kTogether),
                     count = div_up(k_tiles, splits);
  out.plan.blocks = static_cast<int>(blocks);
  out.plan.splits = static_cast<int>(splits);
  out.plan.warps = warps;
  out.plan.clustered = clustered;
  out.plan.shared_bytes =
      Config::shared_bytes(count, clustered ? div_up(groups, splits) * splits : 0, warps);
  if (out.plan.shared_bytes > device.shared_bytes) return out;
  const std::int64_t partial = splits * row_tiles * Config::kN * kWarp * 16;
  if (splits > 1 && !clustered) out.plan.workspace_bytes = static_cast<std::size_t>(partial);
  // In ns, fitted to an H100: a multiprocessor's share of the memory is 24 bytes in a ns, alone it
  // gets 28; 256 k of a row tile take a warp 375 ns for each 8 rows of x, and no warp has half a
  // tile; of x, 20 values are staged in a ns and 1.25 by each warp; sums of other blocks take their
  // time, and blocks of a cluster wait for the slowest.
  constexpr std::int64_t kItem = Config::kTogether * Config::kN * T::kK * 3 / 2;
  const std::int64_t work =
      std::max({row_tiles * k_tiles * T::kBytes / (24 * device.n_sms),
                rows * count * T::kBytes / 28, (2 * groups * count + warps) * kItem / (2 * warps)});
  const std::int64_t sums = splits == 1 ? 0
                            : clustered ? 800 + 120 * splits + work * splits * splits / 700
                                        : 4000 + partial / 2000;
  out.cost = work + count * T::kK * m * (warps + 16) / (20 * warps) + sums;
  return out;
}

template <class Config>
SkinnyPlan plan_few_rows(std::int64_t row_tiles, std::int64_t k, std::int64_t m,
                         const DeviceInfo& device) {
  const std::int64_t k_tiles = div_up<std::int64_t>(k, Config::Tile::kK);
  FewRowsPlan apart, together;
  for (int warps = Config::kWarps; warps > 0 && apart.cost < 0; warps /= 2) {
    for (std::int64_t splits = 1; splits <= k_tiles; ++splits) {
      const FewRowsPlan plan = plan_splits<Config>(row_tiles, k_tiles, m, splits,
                                                   std::max<std::int64_t>(device.n_sms / splits, 1),
                                                   false, warps, device);
      if (plan.better_than(apart)) apart = plan;
      if (splits == 1 || splits > kMostClustered) continue;
      const int clusters = clusters_at_once<Config>(static_cast<int>(splits));
      const FewRowsPlan cluster =
          plan_splits<Config>(row_tiles, k_tiles, m, splits, clusters, true, warps, device);
      if (cluster.better_than(together)) together = cluster;
    }
  }
  SkinnyPlan plan = together.better_than(apart) ? together.plan : apart.plan;
  // Enough for a device that knows no clusters: it may be asked for without the device at hand.
  plan.workspace_bytes = apart.plan.workspace_bytes;
  return plan;
}

template <class Config>
Status launch_few_rows(const SkinnyArgs& args, const SkinnyPlan& plan, Stream stream) {
  Status status = allow_shared(few_rows_kernel<Config>, plan.shared_bytes);
  if (status != Status::kOk) return status;
  const auto splits = static_cast<unsigned>(plan.splits);
  FewRowsShares shares;
  shares.all_k = static_cast<int>(div_up<std::int64_t>(args.k, Config::Tile::kK));
  shares.k = Parts(shares.all_k, plan.splits);
  shares.rows = Parts(args.row_tiles, plan.blocks);
  shares.by_k = Divisor(shares.k.each);
  shares.by_more_k = Divisor(shares.k.each + 1);
  shares.by_splits = Divisor(plan.splits);
  shares.warps_log2 = std::bit_width(static_cast<unsigned>(plan.warps)) - 1;
  shares.clustered = plan.clustered;
  status = launch_clusters(dim3(1, plan.clustered ? splits : 1), few_rows_kernel<Config>,
                           dim3(static_cast<unsigned>(plan.blocks), splits),
                           static_cast<unsigned>(plan.warps * kWarp), plan.shared_bytes, stream,
                           args, shares);
  if (status != Status::kOk || plan.splits == 1 || plan.clustered) return status;
  constexpr int kAddWarps = 8;
  const int fragments = args.row_tiles * Config::kN;
  return launch(add_splits_kernel, static_cast<unsigned>(div_up(fragments, kAddWarps)),
                kAddWarps * kWarp, 0, stream, args, plan.splits, Config::kN);
}

}  // namespace kt::kernels::cuda
