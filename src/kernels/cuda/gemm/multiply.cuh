// The inner loop that dense and expert products share: rows of x staged in shared memory, tiles of
// codes multiplied with them on tensor cores, scales applied to the sums of each group.
//
// Staged x lies in the order of the lanes: of 32 k, lane t's eight values in one piece. Formats
// whose codes carry an offset or a minimum also need the sum of x over each group: Σ w·x = a·(Σ
// c·x) + (min - a·kOffset)·(Σ x). Thread rule: device code, called by whole blocks (stage) or whole
// warps (multiply_tile).
#pragma once
#include "kernels/cuda/gemm/tile.cuh"

namespace kt::kernels::cuda {

template <class T>
constexpr bool needs_sums() {
  return T::kHasMin || T::kOffset != 0.0f;
}
template <class T>
concept HasTable = requires { T::kHasTable; };

inline constexpr int kTableBytes = 256 * 4;
/// Values between the ends of staged rows, so that rows lie in other banks.
inline constexpr int kRowGap = 32;

/// Shared memory of `rows` staged rows of k values, for products of 8 · kN of them.
template <class T, int kN>
constexpr std::size_t staged_bytes(std::int64_t rows, std::int64_t k) {
  std::size_t bytes = static_cast<std::size_t>(rows * (k + kRowGap)) * 2;
  if constexpr (needs_sums<T>()) bytes += static_cast<std::size_t>(k / T::kGroup) * 8 * kN * 4;
  return bytes + (HasTable<T> ? kTableBytes : 0);
}

/// Where staged rows, their sums and the table of codes are.
template <class T, int kN>
struct Staged {
  std::uint16_t* x;
  float* sums;
  std::uint32_t* table;
  int row_stride;

  __device__ Staged(Byte* shared, int rows, int k) : row_stride(k + kRowGap) {
    table = reinterpret_cast<std::uint32_t*>(shared);
    x = reinterpret_cast<std::uint16_t*>(shared + (HasTable<T> ? kTableBytes : 0));
    sums = reinterpret_cast<float*>(x + rows * row_stride);
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

/// Puts values 4q … 4q+3 of row r in their place, and their part of the sums. Called by whole
/// warps.
template <class T, int kN>
__device__ void put_quad(const Staged<T, kN>& to, int r, int q, uint2 v) {
  const int place = q / 8 * 32 + q % 4 * 8 + q / 4 % 2 * 4;
  *reinterpret_cast<uint2*>(to.x + r * to.row_stride + place) = v;
  if constexpr (needs_sums<T>()) {
    float sum = low_bf16(v.x) + high_bf16(v.x) + (low_bf16(v.y) + high_bf16(v.y));
#pragma unroll
    for (int step = 1; step < T::kGroup / 4; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (q % (T::kGroup / 4) == 0) to.sums[q / (T::kGroup / 4) * 8 * kN + r] = sum;
  }
}

/// Whether all rows of x start at multiples of 8 bytes.
__device__ inline bool rows_aligned(const void* x, std::int64_t stride) {
  return (reinterpret_cast<std::uintptr_t>(x) | static_cast<std::uintptr_t>(stride * 2)) % 8 == 0;
}

/// Brings values [begin, begin + k) of `rows` rows to shared memory, zeros past `end`. row(i) is
/// row i's memory, `aligned` as of rows_aligned().
template <class T, int kN, class Row>
__device__ void stage(const Staged<T, kN>& to, int rows, std::int64_t begin, int k,
                      std::int64_t end, bool aligned, Row&& row) {
  if constexpr (HasTable<T>) {
    for (int i = threadIdx.x; i < 256; i += blockDim.x) to.table[i] = T::entry(i);
  }
  const unsigned quads = k / 4, total = rows * quads;
  if (!aligned || begin + k > end) {
    for (unsigned i = threadIdx.x; i < total; i += blockDim.x) {
      const unsigned r = i / quads, q = i % quads;
      const std::int64_t at = begin + 4 * q;
      put_quad<T, kN>(to, r, q, load_quad(row(r) + at, end - at));
    }
    return;
  }
  // Several loads in flight: their latency is what staging costs.
  constexpr int kBatch = 8;
  for (unsigned first = threadIdx.x; first < total; first += kBatch * blockDim.x) {
    uint2 v[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const unsigned i = first + j * blockDim.x;
      if (i < total)
        v[j] = *reinterpret_cast<const uint2*>(row(i / quads) + begin + 4 * (i % quads));
    }
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const unsigned i = first + j * blockDim.x;
      if (i < total) put_quad<T, kN>(to, i / quads, i % quads, v[j]);
    }
  }
}

template <class T>
__device__ void load_raw(typename T::Raw& raw, const Byte* tile, int lane) {
  if constexpr (T::kGroup == 0) {
    raw.load(tile, lane);
  } else {
    raw.codes.load(tile, lane);
    raw.scales.load(tile + sizeof(raw.codes) * kWarp, lane);
  }
}

/// acc[16 rows, 8·kN] += tile · xᵀ, where `x_begin` is the tile's first k among the staged ones.
template <class T, int kN>
__device__ void multiply_tile(const typename T::Raw& raw, const Staged<T, kN>& x, int x_begin,
                              int rows, float (&acc)[kN][4]) {
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  constexpr int kOwned = owned_groups(T::kK, T::kGroup);
  LaneScales<kOwned> scales;
  if constexpr (T::kGroup != 0) T::scales(raw, lane, scales);
  float c[kN][4];
#pragma unroll
  for (int s = 0; s < T::kK / 32; ++s) {
    uint4 b[kN];
#pragma unroll
    for (int i = 0; i < kN; ++i) {
      b[i] = make_uint4(0, 0, 0, 0);
      const int r = 8 * i + g;
      if (r < rows)
        b[i] = *reinterpret_cast<const uint4*>(x.x + r * x.row_stride + x_begin + 32 * s + 8 * t);
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      if constexpr (T::kGroup != 0) {
        if ((32 * s + 16 * j) % T::kGroup == 0) {
#pragma unroll
          for (int i = 0; i < kN; ++i) c[i][0] = c[i][1] = c[i][2] = c[i][3] = 0.0f;
        }
      }
#pragma unroll
      for (int plane = 0; plane < T::kPlanes; ++plane) {
        const std::uint32_t a[4] = {T::plane(raw, 0, s, 2 * j, plane, x.table),
                                    T::plane(raw, 1, s, 2 * j, plane, x.table),
                                    T::plane(raw, 0, s, 2 * j + 1, plane, x.table),
                                    T::plane(raw, 1, s, 2 * j + 1, plane, x.table)};
#pragma unroll
        for (int i = 0; i < kN; ++i) {
          mma_bf16(T::kGroup == 0 ? acc[i] : c[i], a, j == 0 ? b[i].x : b[i].z,
                   j == 0 ? b[i].y : b[i].w);
        }
      }
      if constexpr (T::kGroup != 0) {
        if ((32 * s + 16 * j + 16) % T::kGroup == 0) {
          const int group = (32 * s + 16 * j) / T::kGroup;
          float sums[kN][2];
          if constexpr (needs_sums<T>()) {
#pragma unroll
            for (int i = 0; i < kN; ++i) {
              const float2 v = *reinterpret_cast<const float2*>(
                  x.sums + (x_begin / T::kGroup + group) * 8 * kN + 8 * i + 2 * t);
              sums[i][0] = v.x;
              sums[i][1] = v.y;
            }
          }
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const float a = from_owner<T::kK / T::kGroup>(scales.a[h], group, lane);
            float rest = -a * T::kOffset;
            if constexpr (T::kHasMin)
              rest += from_owner<T::kK / T::kGroup>(scales.min[h], group, lane);
#pragma unroll
            for (int i = 0; i < kN; ++i) {
#pragma unroll
              for (int e = 0; e < 2; ++e) {
                float sum = acc[i][2 * h + e] + a * c[i][2 * h + e];
                if constexpr (needs_sums<T>()) sum += rest * sums[i][e];
                acc[i][2 * h + e] = sum;
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace kt::kernels::cuda
