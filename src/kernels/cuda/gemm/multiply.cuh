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

/// Whether all rows of x start at multiples of kBytes.
template <int kBytes>
__device__ bool rows_aligned(const void* x, std::int64_t stride) {
  const auto bytes = static_cast<std::uintptr_t>(stride * 2);
  return (reinterpret_cast<std::uintptr_t>(x) | bytes) % kBytes == 0;
}

/// 256 values of row `row` of x on their way to shared memory: sub-blocks 8 · eight and on, of
/// sub-block 8 · eight + lane / 4 the eight that begin at 8 · (lane % 4). Below 0: none.
struct StagedPiece {
  int row = -1, eight = 0;
  uint4 v = {};
};

/// Writes the sums of a piece's groups: 16 rows of ones times it, in which its sub-blocks are
/// columns, two in each lane.
template <class T, int kN>
__device__ void put_sums(const Staged<T, kN>& to, const StagedPiece& piece, int subs) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int n = piece.row / 8, column = piece.row % 8;
  constexpr std::uint32_t kOnes[4] = {0x3f803f80u, 0x3f803f80u, 0x3f803f80u, 0x3f803f80u};
  constexpr bool kHalves = T::kGroup == 16;  // of a sub-block: lanes 0 and 1, lanes 2 and 3
  const uint4 v = piece.v;
  float c[4] = {}, d[4] = {};
  if constexpr (kHalves) {
    const std::uint32_t first = t < 2 ? ~0u : 0;
    mma_bf16(c, kOnes, v.x & first, v.y & first);
    mma_bf16(c, kOnes, v.z & first, v.w & first);
    mma_bf16(d, kOnes, v.x & ~first, v.y & ~first);
    mma_bf16(d, kOnes, v.z & ~first, v.w & ~first);
  } else {
    mma_bf16(c, kOnes, v.x, v.y);
    mma_bf16(c, kOnes, v.z, v.w);
  }
  // Each sum twice in a float4, by the lanes of two g.
  const auto put = [&](int group, int half, float sum) {
    float* place = reinterpret_cast<float*>(to.sums + (group * kN + n) * 4 + column / 2);
    place[column % 2 + 2 * half] = -T::kOffset * sum;
  };
  const int sub = piece.eight * 8 + 2 * t;
  if constexpr (T::kGroup <= 32) {
    const int e = g % 2;
    const float first = e == 0 ? c[0] : c[1], second = e == 0 ? d[0] : d[1];
    const int group = kHalves ? 2 * (sub + e) + g / 4 : sub + e;
    if (g < (kHalves ? 8 : 4) && sub + e < subs) put(group, g / 2 % 2, g < 4 ? first : second);
  } else {
    float sum = c[0] + c[1];
    if constexpr (T::kGroup == 128) sum += __shfl_xor_sync(~0u, sum, 1);
    if (g < 2 && sub < subs && sub % (T::kGroup / 32) == 0) put(sub / (T::kGroup / 32), g, sum);
  }
  if constexpr (HasMinCodes<T>) {
    static_assert(T::kGroup == 32 && T::kK == 256);
    std::uint32_t terms[3];
#pragma unroll
    for (std::uint32_t& term : terms) {
      term = bf16_pair(c[0], c[1]);
      c[0] -= low_bf16(term);
      c[1] -= high_bf16(term);
    }
    if (g == 4) {
      to.min_sums[(piece.eight * kN + n) * kWarp + column * 4 + t] =
          make_uint4(terms[0], terms[1], terms[2], 0);
    }
  }
}

/// Brings k_tiles tiles' values of `rows` rows from k = begin on to shared memory, zeros past
/// `end`, and makes their sums. row(i) is row i's memory, `aligned` whether all rows start at
/// multiples of 16 bytes. Rows past `rows` hold anything. Called by whole blocks, which synchronise
/// before and after, and fill the table.
template <class T, int kN, class Row>
__device__ void stage(const Staged<T, kN>& to, int rows, std::int64_t begin, int k_tiles,
                      std::int64_t end, bool aligned, Row&& row) {
  constexpr int kAtOnce = 4;
  const int subs = k_tiles * T::kK / 32, warps = blockDim.x / kWarp;
  const int lane = threadIdx.x % kWarp, t = lane % 4;
  const bool whole = aligned && begin + subs * 32 <= end;
  // Blocks begin in different places, so that they do not all want the same part of L2.
  const int eights = div_up(subs, 8), turn = (blockIdx.x * 0x9e37u % 0x10000u) * eights >> 16;
  int eight = 0, r = threadIdx.x / kWarp;
  const auto load = [&](StagedPiece& piece) {
    for (; r >= rows; r -= rows) ++eight;
    piece.row = eight < eights ? r : -1;
    if (piece.row < 0) return;
    piece.eight = eight + turn < eights ? eight + turn : eight + turn - eights;
    piece.v = make_uint4(0, 0, 0, 0);
    const int sub = piece.eight * 8 + lane / 4;
    if (sub < subs) {
      const std::int64_t at = begin + sub * 32 + t * 8;
      const std::uint16_t* from = row(r) + at;
      if (whole) {
        piece.v = *reinterpret_cast<const uint4*>(from);
      } else {
        const uint2 low = load_quad(from, end - at), high = load_quad(from + 4, end - at - 4);
        piece.v = make_uint4(low.x, low.y, high.x, high.y);
      }
    }
    r += warps;
  };
  StagedPiece pieces[kAtOnce];
#pragma unroll
  for (StagedPiece& piece : pieces) load(piece);
  while (pieces[0].row >= 0) {
#pragma unroll
    for (StagedPiece& piece : pieces) {
      if (piece.row < 0) break;
      const int sub = piece.eight * 8 + lane / 4;
      if (sub < subs) {
        // Values 8t … 8t + 7 belong to two lanes: lane_value().
        auto* place = reinterpret_cast<uint2*>(to.x) +
                      ((sub * to.kRows + piece.row) * 4 + t % 2 * 2) * 2 + t / 2;
        place[0] = make_uint2(piece.v.x, piece.v.y);
        place[2] = make_uint2(piece.v.z, piece.v.w);
      }
      if constexpr (needs_sums<T>()) put_sums(to, piece, subs);
      load(piece);
    }
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
