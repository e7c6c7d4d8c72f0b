// Products of one row of x. The tensor cores multiply 16 rows of weights with 8 columns; one row of
// x would use one. Here the columns are groups of scales: step q of 16 k gives x in column(q)
// alone, so that after a tile each column holds the sums of its groups, in the lanes that own their
// scales. No lane asks another for scales, and x is read once for a tile instead of once for each
// 32 k.
//
// A block has a list of row tiles, whose tiles its warps divide, each taking consecutive ones and
// loading one ahead, the first before the kernel may look at x. The sums of a row tile are added at
// the end, in the order of the warps. Thread rule: device code, called by whole blocks.
#pragma once
#include "kernels/cuda/gemm/multiply.cuh"

namespace kt::kernels::cuda {

inline constexpr int kRowsOfTile = 16;

/// Which column and which of two accumulators a step of 16 k uses.
template <class T>
struct RowSteps {
  static constexpr int kSteps = T::kK / 16;
  static constexpr int kSets = T::kGroup == 16 && kSteps == 16 ? 2 : 1;
  static_assert(kSteps <= 8 || (kSteps == 16 && (T::kGroup == 16 || T::kGroup == 32)));
  __device__ static constexpr int column(int q) {
    return kSteps <= 8 ? q : kSets == 2 ? q / 4 * 2 + q % 2 : q / 2;
  }
  __device__ static constexpr int set(int q) { return kSets == 2 ? q / 2 % 2 : 0; }
  /// k of a column's sum, and floats of sums for a tile.
  static constexpr int kSumLen = kSteps == 16 && kSets == 1 ? 32 : 16;
  static constexpr int kSums = needs_sums<T>() ? 8 * kSets : 0;
};

/// Shared memory of one staged row of k_tiles tiles.
template <class T>
__host__ __device__ constexpr std::size_t row_bytes(std::int64_t k_tiles) {
  return static_cast<std::size_t>(k_tiles) * (T::kK * 2 + RowSteps<T>::kSums * 4);
}

/// Where a staged row is: values in the order of the lanes, then the sums of each tile's columns.
template <class T>
struct StagedRow {
  std::uint16_t* x;
  float* sums;
  __device__ StagedRow(Byte* shared, int k_tiles)
      : x(reinterpret_cast<std::uint16_t*>(shared)),
        sums(reinterpret_cast<float*>(shared + static_cast<std::size_t>(k_tiles) * T::kK * 2)) {}
};

/// Puts four values of a row in their place, and their part of the sums. Called by whole warps.
template <class T>
__device__ void put_row_quad(const StagedRow<T>& to, int q, int quads, uint2 v) {
  using Steps = RowSteps<T>;
  if (q < quads) *reinterpret_cast<uint2*>(to.x + q / 8 * 32 + q % 4 * 8 + q / 4 % 2 * 4) = v;
  if constexpr (needs_sums<T>()) {
    float sum = low_bf16(v.x) + high_bf16(v.x) + (low_bf16(v.y) + high_bf16(v.y));
#pragma unroll
    for (int step = 1; step < Steps::kSumLen / 4; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
    const int tile = q / (T::kK / 4), step = q % (T::kK / 4) / 4;
    if (q < quads && q % (Steps::kSumLen / 4) == 0)
      to.sums[tile * Steps::kSums + Steps::set(step) * 8 + Steps::column(step)] = sum;
  }
}

/// Brings `rows` rows of k values, stride apart, to shared memory, zeros up to k_tiles tiles; to(r)
/// says where. load() asks for the first values, finish() puts them and does the rest.
template <class T, class To, int kBatch = 2>
struct RowStager {
  const std::uint16_t* x;
  int rows, stride, k, quads;
  const To& to;
  bool whole;
  int q = threadIdx.x, r = 0;
  uint2 v[kBatch];
  int at[kBatch], row[kBatch];

  __device__ RowStager(int rows_, const std::uint16_t* x_, int stride_, int k_, int k_tiles,
                       const To& to_)
      : x(x_), rows(rows_), stride(stride_), k(k_), quads(k_tiles * T::kK / 4), to(to_) {
    whole = rows_aligned<8>(x, stride) && k % 4 == 0;
    settle();
  }
  __device__ void settle() {
    const int rounded = div_up(quads, kWarp) * kWarp;
    while (q >= rounded) {
      q -= rounded;
      ++r;
    }
  }
  __device__ void load() {
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      at[j] = q;
      row[j] = r;
      v[j] = make_uint2(0, 0);
      const std::uint16_t* from = x + r * stride + 4 * q;
      if (r < rows && 4 * q < k)
        v[j] = whole ? *reinterpret_cast<const uint2*>(from) : load_quad(from, k - 4 * q);
      q += blockDim.x;
      settle();
    }
  }
  __device__ void finish() {
    while (true) {
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (row[j] < rows) put_row_quad<T>(to(row[j]), at[j], quads, v[j]);
      }
      if (r >= rows) return;
      load();
    }
  }
};

/// What one lane gives to the products of a tile: for each accumulator its column's values.
template <class T>
__device__ void load_columns(uint2 (&b)[2], const std::uint16_t* x, int lane) {
  using Steps = RowSteps<T>;
  const int g = lane / 4, t = lane % 4;
  if constexpr (Steps::kSumLen == 32) {
    const uint4 v = *reinterpret_cast<const uint4*>(x + 8 * lane);
    b[0] = make_uint2(v.x, v.y);  // of the even and the odd steps
    b[1] = make_uint2(v.z, v.w);
  } else if constexpr (Steps::kSets == 2) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      b[i] = *reinterpret_cast<const uint2*>(x + 32 * (g / 2 * 2 + i) + 8 * t + g % 2 * 4);
    }
  } else {
    b[0] = make_uint2(0, 0);
    if (g < Steps::kSteps)
      b[0] = *reinterpret_cast<const uint2*>(x + 32 * (g / 2) + 8 * t + g % 2 * 4);
    b[1] = b[0];
  }
}

/// acc[h] += this lane's part of row g + 8h of the tile times x; the four lanes of a quad hold
/// parts. mine[i]: 1 as a pair of bf16 where column i is this lane's, else 0; multiplying by it is
/// what the pipe that decodes codes need not do.
template <class T>
__device__ void multiply_row(const typename T::Raw& raw, const std::uint16_t* x, const float* sums,
                             const std::uint32_t* table, const std::uint32_t (&mine)[8],
                             float (&acc)[2]) {
  using Steps = RowSteps<T>;
  const int lane = threadIdx.x % kWarp, t = lane % 4;
  uint2 b[2];
  load_columns<T>(b, x, lane);
  float c[2][4] = {};  // by Steps::set, or two chains of one sum
#pragma unroll
  for (int q = 0; q < Steps::kSteps; ++q) {
    const int chain = Steps::kSets == 2 ? Steps::set(q) : q % 2;
    const std::uint32_t factor = mine[Steps::column(q)];
    const std::uint32_t b0 = product_bf16(b[chain].x, factor),
                        b1 = product_bf16(b[chain].y, factor);
    const int s = q / 2, p = q % 2 * 2;
#pragma unroll
    for (int plane = 0; plane < T::kPlanes; ++plane) {
      const std::uint32_t a[4] = {
          T::plane(raw, 0, s, p, plane, table), T::plane(raw, 1, s, p, plane, table),
          T::plane(raw, 0, s, p + 1, plane, table), T::plane(raw, 1, s, p + 1, plane, table)};
      mma_bf16(c[chain], a, b0, b1);
    }
  }
  if constexpr (T::kGroup == 0) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
      acc[h] += (c[0][2 * h] + c[0][2 * h + 1]) + (c[1][2 * h] + c[1][2 * h + 1]);
  } else {
    constexpr int kOwned = owned_groups(T::kK, T::kGroup);
    LaneScales<kOwned> scales;
    T::scales(raw, lane, scales);
#pragma unroll
    for (int set = 0; set < Steps::kSets; ++set) {
      float2 sum = make_float2(0.0f, 0.0f);
      if constexpr (needs_sums<T>()) sum = *reinterpret_cast<const float2*>(sums + 8 * set + 2 * t);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int i = (e + 2 * set) % kOwned;
          float v = c[set][2 * h + e];
          if constexpr (Steps::kSets == 1) v += c[1][2 * h + e];
          const float a = scales.a[h][i];
          if constexpr (needs_sums<T>()) {
            const float s = e == 0 ? sum.x : sum.y;
            v -= T::kOffset * s;
            if constexpr (T::kHasMin) acc[h] += scales.min[h][i] * s;
          }
          acc[h] += a * v;
        }
      }
    }
  }
}

/// How a block walks over `rows` row tiles of k_tiles tiles.
struct RowWalk {
  int rows = 0, k_tiles = 0;
  float* sums = nullptr;  // [rows][warps][16], then the first and the last warp of each row tile
  const std::uint32_t* table = nullptr;

  /// Items, that is tiles, of a warp: [first(w), first(w + 1)); each of the first workers() has
  /// one.
  __device__ int first(int warp) const {
    const int w = workers();
    return warp >= w ? items() : warp * items() / w;
  }
  __device__ int items() const { return rows * k_tiles; }
  __device__ static int warps() { return blockDim.x / kWarp; }
  __device__ int workers() const { return min(warps(), items()); }
  __device__ int warp_of(int item) const { return ((item + 1) * workers() - 1) / items(); }
  __device__ std::uint32_t* spans() const {
    return reinterpret_cast<std::uint32_t*>(sums + rows * warps() * kRowsOfTile);
  }
  /// Divides before the sums are there, as division is slow. Called by the whole block.
  __device__ void find_spans() const {
    for (int row = threadIdx.x; row < rows; row += blockDim.x)
      spans()[row] = warp_of(row * k_tiles) | warp_of((row + 1) * k_tiles - 1) << 16;
  }
  /// Row r of row tile `row`: the sum over its warps.
  __device__ float sum(int row, int r) const {
    const std::uint32_t span = spans()[row];
    const int last = span >> 16;
    float total = 0.0f;
#pragma unroll 4
    for (int w = span & 0xffffu; w <= last; ++w)
      total += sums[(row * warps() + w) * kRowsOfTile + r];
    return total;
  }
};
constexpr std::size_t row_sums_bytes(std::int64_t rows, int warps) {
  return static_cast<std::size_t>(rows * (warps * kRowsOfTile + 1) * 4 + 15) / 16 * 16;
}

/// Multiplies; then the block may ask for walk.sum(). tiles_of(row) is the memory of a row tile,
/// x_of(row) the staged row to multiply with; ready() makes the staged rows and synchronises the
/// block, when the warps' first tiles are under way.
template <class T, class TilesOf, class XOf, class Ready>
__device__ void multiply_rows(const RowWalk& walk, TilesOf&& tiles_of, XOf&& x_of, Ready&& ready) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, k_tiles = walk.k_tiles;
  int item = walk.first(warp), row = item / k_tiles, tile = item % k_tiles;
  const int last = walk.first(warp + 1);
  int ahead = item, ahead_row = row, ahead_tile = tile;
  const Byte* tiles = nullptr;
  if (item < last) tiles = tiles_of(row) + static_cast<std::int64_t>(tile) * T::kBytes;
  typename T::Raw next;
  const auto load = [&] {
    if (ahead >= last) return;
    load_raw<T>(next, tiles, lane);
    tiles += T::kBytes;
    ++ahead;
    if (++ahead_tile < k_tiles) return;
    ahead_tile = 0;
    ++ahead_row;
    if (ahead < last) tiles = tiles_of(ahead_row);
  };
  load();
  walk.find_spans();
  std::uint32_t mine[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) mine[i] = lane / 4 == i ? 0x3f803f80u : 0;
  ready();

  float acc[2] = {};
  const auto finish = [&] {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      acc[h] += __shfl_xor_sync(~0u, acc[h], 1);
      acc[h] += __shfl_xor_sync(~0u, acc[h], 2);
      if (lane % 4 == 0)
        walk.sums[(row * walk.warps() + warp) * kRowsOfTile + lane / 4 + 8 * h] = acc[h];
      acc[h] = 0.0f;
    }
  };
#pragma unroll 1
  for (; item < last; ++item) {
    const typename T::Raw raw = next;
    load();
    const StagedRow<T> x = x_of(row);
    multiply_row<T>(raw, x.x + tile * T::kK, x.sums + tile * RowSteps<T>::kSums, walk.table, mine,
                    acc);
    if (++tile == k_tiles || item + 1 == last) {
      finish();
      ++row;
      tile = 0;
    }
  }
  __syncthreads();
}

/// How blocks share `units` of `each` row tiles of k_tiles tiles.
struct RowPlan {
  int most = 1;  // units of a block
  int warps = 8;
  std::size_t sums_bytes = 0;
};
/// `most_warps`: kRowWarps, or fewer where the next kernel's blocks shall find room beside these.
template <class T>
inline constexpr int kRowWarps = sizeof(typename T::Raw) <= 72 ? 24 : 16;
inline RowPlan plan_rows(std::int64_t units, std::int64_t each, std::int64_t k_tiles, int n_sms,
                         int most_warps) {
  const std::int64_t fit = each < 64 ? 64 / each : 1;  // sums lie in shared memory
  RowPlan plan;
  const std::int64_t share = div_up<std::int64_t>(units, n_sms);
  plan.most = static_cast<int>(div_up(share, div_up(share, fit)));
  const std::int64_t items = plan.most * each * k_tiles;
  plan.warps = static_cast<int>(div_up(items, div_up<std::int64_t>(items, most_warps)));
  if (plan.warps < 8) plan.warps = 8;  // they also stage x
  plan.sums_bytes = row_sums_bytes(plan.most * each, plan.warps);
  return plan;
}

}  // namespace kt::kernels::cuda
