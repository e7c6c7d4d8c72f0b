// The inner loop that dense and expert products share: rows of x staged in shared memory, tiles of
// codes multiplied with them on tensor cores, scales applied to the sums of each group.
//
// Staged x lies as the lanes want it: for each 32 k and 8 rows the eight values of every lane in
// one piece, so that a warp reads 512 bytes on end. Of the sums of x over each group, S, formats
// whose codes carry an offset need -kOffset · S: there a group's product begins, Σ (c + kOffset)·x
// - kOffset·S = Σ c·x. Minimums are added as min · S, or, where they are small integers times a
// factor (kMinCodes), by one more product with S as a sum of three bf16 numbers. Thread rule:
// device code, called by whole blocks (stage) or whole warps (multiply_tiles).
#pragma once
#include "kernels/cuda/gemm/tile.cuh"

namespace kt::kernels::cuda {

template <class T>
constexpr bool needs_sums() {
  return T::kHasMin || T::kOffset != 0.0f;
}

template <class T>
concept HasMinCodes = requires { T::kMinCodes; };

/// Staged values of 8 · kN rows, their sums and the table of codes.
template <class T, int kN>
struct Staged {
  static constexpr int kRows = 8 * kN;
  static constexpr int kSums = needs_sums<T>() ? T::kK / T::kGroup : 0;  // of a tile
  static constexpr int kMins = HasMinCodes<T> ? 1 : 0;

  std::uint16_t* x;  // [k / 32][row][lane of four][8]
  float4* sums;      // [group][n8][lane of four]: -kOffset · S of its two columns, twice
  uint4* min_sums;   // [tile][n8][lane]: S of the lane's two groups as bf16 pairs, three terms
  std::uint32_t* table;

  __host__ __device__ static constexpr std::size_t bytes(std::int64_t k_tiles) {
    constexpr int kOfTile = T::kK * kRows * 2 + (kSums * 4 + kMins * kWarp) * kN * 16;
    return static_cast<std::size_t>(k_tiles) * kOfTile + table_bytes<T>();
  }
  __device__ Staged(Byte* shared, int k_tiles) {
    table = reinterpret_cast<std::uint32_t*>(shared);
    x = reinterpret_cast<std::uint16_t*>(shared + table_bytes<T>());
    sums = reinterpret_cast<float4*>(x + k_tiles * T::kK * kRows);
    min_sums = reinterpret_cast<uint4*>(sums + k_tiles * kSums * kN * 4);
  }
  /// What this lane multiplies 32 k of eight rows with.
  __device__ uint4 columns(int s, int n) const {
    return reinterpret_cast<const uint4*>(x)[(s * kN + n) * kWarp + threadIdx.x % kWarp];
  }
};

/// Four values, zeros where fewer than four are left.
__device__ inline uint2 load_quad(const std::uint16_t* from, std::int64_t left) {
  uint2 v = make_uint2(0, 0);
  if (left > 0) v.x = from[0];
  if (left > 1) v.x |= static_cast<std::uint32_t>(from[1]) << 16;
  if (left > 2) v.y = from[2];
  if (left > 3) v.y |= static_cast<std::uint32_t>(from[3]) << 16;
  return v;
}

/// Whether all rows of x start at multiples of 8 bytes.
__device__ inline bool rows_aligned(const void* x, std::int64_t stride) {
  return (reinterpret_cast<std::uintptr_t>(x) | static_cast<std::uintptr_t>(stride * 2)) % 8 == 0;
}

/// Makes the sums of `rows` staged rows, by products with constants. Called by whole blocks.
template <class T, int kN>
__device__ void stage_sums(const Staged<T, kN>& x, int rows, int k_tiles) {
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
  const int n8s = div_up(rows, 8);
  const std::uint32_t offset = bf16_pair(-T::kOffset, -T::kOffset);
  const std::uint32_t all[4] = {offset, offset, offset, offset};
  for (int i = warp; i < k_tiles * x.kSums * n8s; i += warps) {
    const int group = i / n8s, n = i % n8s, begin = group * T::kGroup;
    float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
    for (int k = 0; k < T::kGroup; k += 16) {
      const uint4 b = x.columns((begin + k) / 32, n);
      const bool odd = (begin + k) % 32 != 0;
      mma_bf16(c, all, odd ? b.z : b.x, odd ? b.w : b.y);
    }
    if (lane < 4) x.sums[(group * kN + n) * 4 + lane] = make_float4(c[0], c[1], c[2], c[3]);
  }
  if constexpr (HasMinCodes<T>) {
    static_assert(T::kGroup == 32 && T::kK == 256);
    // Here x is the first factor, whose rows lie as columns of the second do.
    for (int i = warp; i < k_tiles * n8s; i += warps) {
      const int tile = i / n8s, n = i % n8s;
      float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
      for (int s = 0; s < 8; ++s) {
        const uint4 v = x.columns(tile * 8 + s, n);
        const std::uint32_t one = lane / 4 == s ? 0x3f803f80u : 0;
        const std::uint32_t first[4] = {v.x, 0, v.y, 0}, second[4] = {v.z, 0, v.w, 0};
        mma_bf16(c, first, one, one);
        mma_bf16(c, second, one, one);
      }
      std::uint32_t terms[3];
#pragma unroll
      for (std::uint32_t& term : terms) {
        term = bf16_pair(c[0], c[1]);
        c[0] -= low_bf16(term);
        c[1] -= high_bf16(term);
      }
      x.min_sums[(tile * kN + n) * kWarp + lane] = make_uint4(terms[0], terms[1], terms[2], 0);
    }
  }
}

/// Brings k_tiles tiles' values of `rows` rows from k = begin on to shared memory, zeros past
/// `end`. row(i) is row i's memory, `aligned` as of rows_aligned(). Rows past `rows` hold anything.
/// Called by whole blocks, which synchronise before and after.
template <class T, int kN, class Row>
__device__ void stage(const Staged<T, kN>& to, int rows, std::int64_t begin, int k_tiles,
                      std::int64_t end, bool aligned, Row&& row) {
  fill_table<T>(to.table);
  const int subs = k_tiles * T::kK / 32, warps = blockDim.x / kWarp;
  const int lane = threadIdx.x % kWarp, t = lane % 4;
  const bool whole = aligned && begin + subs * 32 <= end;
  // A warp brings 256 values of a row at a time. Blocks begin in different places, so that they do
  // not all want the same part of L2.
  const int pieces = div_up(subs, 8) * rows, turn = blockIdx.x * 5 % pieces;
  for (int i = threadIdx.x / kWarp; i < pieces; i += warps) {
    const int piece = i + turn < pieces ? i + turn : i + turn - pieces;
    const int r = piece % rows, s = piece / rows * 8 + lane / 4;
    if (s >= subs) continue;
    const std::int64_t at = begin + s * 32 + t * 4;
    const std::uint16_t* from = row(r) + at;
    std::uint16_t* place = to.x + ((s * to.kRows + r) * 4 + t) * 8;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (whole) {
        copy_async<8>(place + 4 * h, from + 16 * h);
      } else {
        *reinterpret_cast<uint2*>(place + 4 * h) = load_quad(from + 16 * h, end - at - 16 * h);
      }
    }
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
  if constexpr (needs_sums<T>()) {
    __syncthreads();
    stage_sums<T, kN>(to, rows, k_tiles);
  }
}

template <class T, Space kFrom = Space::kGlobal>
__device__ void load_raw(typename T::Raw& raw, const Byte* tile, int lane) {
  if constexpr (T::kGroup == 0) {
    raw.template load<kFrom>(tile, lane);
  } else {
    raw.codes.template load<kFrom>(tile, lane);
    raw.scales.template load<kFrom>(tile + sizeof(raw.codes) * kWarp, lane);
  }
}

__device__ inline void add_scaled(float (&acc)[4], const float (&scale)[2], const float (&v)[4]) {
#pragma unroll
  for (int e = 0; e < 4; ++e) acc[e] += scale[e / 2] * v[e];
}

/// acc[kR][16 rows, 8·kN] += tiles · xᵀ, where k_tile is the tiles' place among the staged k.
/// Columns past the rows of x get numbers that nobody reads.
template <class T, int kN, int kR>
__device__ void multiply_tiles(const typename T::Raw (&raw)[kR], const Staged<T, kN>& x, int k_tile,
                               float (&acc)[kR][kN][4]) {
  const int lane = threadIdx.x % kWarp, t = lane % 4;
  constexpr int kGroups = T::kGroup == 0 ? 1 : T::kK / T::kGroup;
  constexpr bool kAddMins = T::kHasMin && !HasMinCodes<T>;
  LaneScales<owned_groups(T::kK, T::kGroup)> scales[kR];
  if constexpr (HasMinCodes<T>) {
    uint4 b[kN];
#pragma unroll
    for (int i = 0; i < kN; ++i) b[i] = x.min_sums[(k_tile * kN + i) * kWarp + lane];
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      MinCodes mins;
      T::scales(raw[r], lane, scales[r], mins);
      const std::uint32_t a[4] = {mins.pair[0], mins.pair[1], mins.pair[0], mins.pair[1]};
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        mma_bf16(c, a, b[i].x, b[i].y);
        mma_bf16(c, a, b[i].z, b[i].w);
        add_scaled(acc[r][i], mins.factor, c);
      }
    }
  } else if constexpr (T::kGroup != 0) {
#pragma unroll
    for (int r = 0; r < kR; ++r) T::scales(raw[r], lane, scales[r]);
  }
  const float4* sums = x.sums + k_tile * x.kSums * kN * 4 + t;
  float c[kR][kN][4];
#pragma unroll
  for (int s = 0; s < T::kK / 32; ++s) {
    uint4 b[kN];
#pragma unroll
    for (int i = 0; i < kN; ++i) b[i] = x.columns(k_tile * (T::kK / 32) + s, i);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int k = 32 * s + 16 * j;
      constexpr int kLen = T::kGroup == 0 ? 16 : T::kGroup;
      const bool first = T::kGroup != 0 && k % kLen == 0;
      float begin[kN][4] = {};
      if constexpr (needs_sums<T>()) {
        if (first) {
#pragma unroll
          for (int i = 0; i < kN; ++i) {
            const float4 v = sums[(k / kLen * kN + i) * 4];
            begin[i][0] = v.x;
            begin[i][1] = v.y;
            begin[i][2] = v.z;
            begin[i][3] = v.w;
          }
        }
      }
      if constexpr (kAddMins) {
        if (first) {
#pragma unroll
          for (int r = 0; r < kR; ++r) {
            const float min[2] = {
                from_owner<kGroups>(scales[r].min[0], k / kLen, lane) * (-1.0f / T::kOffset),
                from_owner<kGroups>(scales[r].min[1], k / kLen, lane) * (-1.0f / T::kOffset)};
#pragma unroll
            for (int i = 0; i < kN; ++i) add_scaled(acc[r][i], min, begin[i]);
          }
        }
      }
#pragma unroll
      for (int plane = 0; plane < T::kPlanes; ++plane) {
#pragma unroll
        for (int r = 0; r < kR; ++r) {
          const std::uint32_t a[4] = {T::plane(raw[r], 0, s, 2 * j, plane, x.table),
                                      T::plane(raw[r], 1, s, 2 * j, plane, x.table),
                                      T::plane(raw[r], 0, s, 2 * j + 1, plane, x.table),
                                      T::plane(raw[r], 1, s, 2 * j + 1, plane, x.table)};
#pragma unroll
          for (int i = 0; i < kN; ++i) {
            float(&sum)[4] = T::kGroup == 0 ? acc[r][i] : c[r][i];
            mma_bf16(sum, a, j == 0 ? b[i].x : b[i].z, j == 0 ? b[i].y : b[i].w,
                     first && plane == 0 ? begin[i] : sum);
          }
        }
      }
      if constexpr (T::kGroup != 0) {
        if ((k + 16) % T::kGroup == 0) {
#pragma unroll
          for (int r = 0; r < kR; ++r) {
            const float a[2] = {from_owner<kGroups>(scales[r].a[0], k / T::kGroup, lane),
                                from_owner<kGroups>(scales[r].a[1], k / T::kGroup, lane)};
#pragma unroll
            for (int i = 0; i < kN; ++i) add_scaled(acc[r][i], a, c[r][i]);
          }
        }
      }
    }
  }
}

}  // namespace kt::kernels::cuda
