// Kernels of a weight format from its tile description: pack, unpack, and the product of few rows.
//
// One row of x: one_row.cuh. More: few_rows.cuh. Thread rule: status.h.
#pragma once
#include <type_traits>

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/gemm/few_rows.cuh"
#include "kernels/cuda/gemm/one_row.cuh"
#include "kernels/cuda/gemm/tile_kernels.h"

namespace kt::kernels::cuda {

inline constexpr int kWarps = 8;

/// A warp writes one tile. block(h, b): file block b of the tile in row lane / 4 + 8 h, or null
/// past the matrix.
template <class T, class Block>
__device__ void pack_tile(Byte* tile, int lane, Block&& block) {
  const int g = lane / 4, t = lane % 4;
  const auto code = [&](int h, int s, int i) -> std::uint32_t {
    const int v = 32 * s + lane_value(t, i);
    const Byte* b = block(h, v / T::kBlock);
    return b == nullptr ? 0u : T::code(b, v % T::kBlock);
  };
  typename T::Raw raw;
  if constexpr (T::kGroup == 0) {
    raw.fill(code);
    raw.store(tile, lane);
  } else {
    raw.codes.fill(code);
    raw.codes.store(tile, lane);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      T::store_scales(tile + sizeof(raw.codes) * kWarp, g + 8 * h, t,
                      [&](int b) { return block(h, b); });
    }
  }
}

template <class T>
__global__ void pack_kernel(const Byte* rows, std::int64_t n, std::int64_t k, Byte* tiles,
                            std::int64_t n_tiles) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (index >= n_tiles) return;
  const int lane = threadIdx.x % kWarp;
  const std::int64_t k_tiles = div_up<std::int64_t>(k, T::kK);
  const std::int64_t row = index / k_tiles * kTileRows, begin = index % k_tiles * T::kK;
  const std::int64_t row_bytes = k / T::kBlock * T::kBlockBytes;
  pack_tile<T>(tiles + index * T::kBytes, lane, [&](int h, int b) -> const Byte* {
    const std::int64_t r = row + lane / 4 + 8 * h;
    const std::int64_t at_k = begin + static_cast<std::int64_t>(b) * T::kBlock;
    if (r >= n || at_k >= k) return nullptr;
    return rows + r * row_bytes + at_k / T::kBlock * T::kBlockBytes;
  });
}

template <class T>
__global__ void unpack_kernel(const Byte* tiles, std::int64_t n_rows, std::int64_t k,
                              std::int64_t n_tiles, void* out, Type out_type) {
  start_next();
  await_previous();
  // Loads of weights may go above that, and these may have been packed just before.
  asm volatile("" : "+l"(tiles)::"memory");
  __shared__ __align__(16) std::uint32_t table[HasTable<T> ? kTableBytes / 4 : 4];
  if constexpr (HasTable<T>) {
    fill_table<T>(table);
    __syncthreads();
  }
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  if (index >= n_tiles) return;
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const std::int64_t k_tiles = div_up<std::int64_t>(k, T::kK);
  const std::int64_t row = index / k_tiles * kTileRows, begin = index % k_tiles * T::kK;
  typename T::Raw raw;
  load_raw<T>(raw, tiles + index * T::kBytes, lane);
  LaneScales<owned_groups(T::kK, T::kGroup)> scales;
  if constexpr (T::kGroup != 0) T::scales(raw, lane, scales);
#pragma unroll
  for (int s = 0; s < T::kK / 32; ++s) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float w[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int plane = 0; plane < T::kPlanes; ++plane) {
#pragma unroll
          for (int p = 0; p < 2; ++p) {
            const std::uint32_t pair = T::plane(raw, h, s, 2 * j + p, plane, table);
            w[2 * p] += low_bf16(pair);
            w[2 * p + 1] += high_bf16(pair);
          }
        }
        if constexpr (T::kGroup != 0) {
          const int group = (32 * s + 16 * j) / T::kGroup;
          const float a = from_owner<T::kK / T::kGroup>(scales.a[h], group, lane);
          float min = 0.0f;
          if constexpr (T::kHasMin) min = from_owner<T::kK / T::kGroup>(scales.min[h], group, lane);
#pragma unroll
          for (float& v : w) v = a * (v - T::kOffset) + min;
        }
        const std::int64_t r = row + g + 8 * h, c = begin + 32 * s + 16 * j + 4 * t;
        if (r >= n_rows) continue;
        if (c + 4 <= k && k % 4 == 0) {
          if (out_type == Type::kF32) {
            *reinterpret_cast<float4*>(static_cast<float*>(out) + r * k + c) =
                make_float4(w[0], w[1], w[2], w[3]);
          } else {
            *reinterpret_cast<uint2*>(static_cast<std::uint16_t*>(out) + r * k + c) =
                make_uint2(bf16_pair(w[0], w[1]), bf16_pair(w[2], w[3]));
          }
        } else {
          for (int i = 0; i < 4 && c + i < k; ++i) store_float(out, out_type, r * k + c + i, w[i]);
        }
      }
    }
  }
}

/// Block `block` of the product of one row (one_row.cuh): at most `most` row tiles of one part.
template <class T>
__device__ void multiply_row_block(const SkinnyArgs& args, int most, int block, Byte* shared) {
  int index = 0;
  const auto tiles_of_part = [&](int i) {
    return static_cast<int>(div_up<std::int64_t>(args.parts[i].n, kRowsOfTile));
  };
  while (block >= div_up(tiles_of_part(index), most)) {
    block -= div_up(tiles_of_part(index), most);
    ++index;
  }
  const SkinnyPart& part = args.parts[index];
  const int k_tiles = static_cast<int>(div_up<std::int64_t>(args.k, T::kK)), begin = block * most;
  RowWalk walk;
  walk.rows = min(most, tiles_of_part(index) - begin);
  walk.k_tiles = k_tiles;
  auto* table = reinterpret_cast<std::uint32_t*>(shared);
  walk.table = table;
  const StagedRow<T> x(shared + table_bytes<T>(), k_tiles);
  walk.sums = reinterpret_cast<float*>(shared + table_bytes<T>() + row_bytes<T>(k_tiles));
  const Byte* tiles =
      static_cast<const Byte*>(part.tiles) + static_cast<std::int64_t>(begin) * k_tiles * T::kBytes;
  const auto to_x = [&](int) { return x; };
  multiply_rows<T>(
      walk, [&](int row) { return tiles + static_cast<std::int64_t>(row) * k_tiles * T::kBytes; },
      to_x,
      [&] {
        fill_table<T>(table);
        await_previous();
        RowStager<T, decltype(to_x)> stager(1, args.x, 0, static_cast<int>(args.k), k_tiles, to_x);
        stager.load();
        stager.finish();
        __syncthreads();
      });
  for (int i = threadIdx.x; i < walk.rows * kRowsOfTile; i += blockDim.x) {
    const int r = begin * kRowsOfTile + i;
    if (r >= part.n) continue;
    float sum = walk.sum(i / kRowsOfTile, i % kRowsOfTile);
    if (part.bias != nullptr) sum += part.bias[r];
    store_float(part.y, part.y_type, r, sum);
  }
}

template <class T>
__global__ void __launch_bounds__(kRowWarps<T>* kWarp, 1)
    row_kernel(const __grid_constant__ SkinnyArgs args, int most) {
  extern __shared__ __align__(16) Byte shared[];
  start_next();
  multiply_row_block<T>(args, most, blockIdx.x, shared);
}

template <class T>
SkinnyPlan plan_row(std::int64_t row_tiles, std::int64_t k, const DeviceInfo& device) {
  const std::int64_t k_tiles = div_up<std::int64_t>(k, T::kK);
  const bool small = row_tiles * k_tiles <= 64 * device.n_sms;
  const RowPlan rows = plan_rows(row_tiles, 1, k_tiles, device.n_sms, small ? 16 : kRowWarps<T>);
  SkinnyPlan plan;
  plan.most = rows.most;
  plan.warps = rows.warps;
  plan.shared_bytes = table_bytes<T>() + row_bytes<T>(k_tiles) + rows.sums_bytes;
  return plan;
}

/// Above it few_rows.cuh divides k as well, on devices that have less sooner.
inline constexpr std::size_t kMostRowShared = 160 * 1024;

inline int row_blocks(const SkinnyArgs& args, int most) {
  std::int64_t blocks = 0;
  for (int i = 0; i < args.n_parts; ++i)
    blocks += div_up<std::int64_t>(div_up<std::int64_t>(args.parts[i].n, kRowsOfTile), most);
  return static_cast<int>(blocks);
}

template <class T>
Status launch_row(const SkinnyArgs& args, const SkinnyPlan& plan, Stream stream) {
  const Status status = allow_shared(row_kernel<T>, plan.shared_bytes);
  if (status != Status::kOk) return status;
  return launch(row_kernel<T>, static_cast<unsigned>(row_blocks(args, plan.most)),
                static_cast<unsigned>(plan.warps * kWarp), plan.shared_bytes, stream, args,
                plan.most);
}

/// Many columns want each x that was read multiplied with more row tiles, and the registers for it.
/// Tables of codes take shared memory's time, so that tiles wait longer in the ring.
template <class T, int kN>
using FewRows = std::conditional_t<
    kN == 1, FewRowsConfig<T, 1, 1, 16, few_rows_stages<T>(1, 16, (HasTable<T> ? 112 : 76) * 1024)>,
    FewRowsConfig<T, kN, 2, 8, few_rows_stages<T>(2, 8, 80 * 1024)>>;

template <class T>
SkinnyPlan plan_skinny(std::int64_t row_tiles, std::int64_t k, std::int64_t m,
                       const DeviceInfo& device) {
  if (m == 1) {
    const SkinnyPlan row = plan_row<T>(row_tiles, k, device);
    if (row.shared_bytes <= kMostRowShared && row.shared_bytes <= device.shared_bytes) return row;
  }
  for (const std::int64_t rows : kPlannedRows) {
    if (m > rows) continue;
    if (rows <= 8) return plan_few_rows<FewRows<T, 1>>(row_tiles, k, rows, device);
    if (rows <= 16) return plan_few_rows<FewRows<T, 2>>(row_tiles, k, rows, device);
    break;
  }
  return plan_few_rows<FewRows<T, 4>>(row_tiles, k, kSkinnyRows, device);
}

template <class T>
Status launch_skinny(const SkinnyArgs& args, const SkinnyPlan& plan, Stream stream) {
  if (plan.most > 0) return launch_row<T>(args, plan, stream);
  if (args.m <= 8) return launch_few_rows<FewRows<T, 1>>(args, plan, stream);
  if (args.m <= 16) return launch_few_rows<FewRows<T, 2>>(args, plan, stream);
  return launch_few_rows<FewRows<T, 4>>(args, plan, stream);
}

template <class T>
Status launch_pack(const void* rows, std::int64_t n, std::int64_t k, void* tiles, Stream stream) {
  const std::int64_t n_tiles = div_up(n, kTileRows) * div_up<std::int64_t>(k, T::kK);
  pack_kernel<T>
      <<<static_cast<unsigned>(div_up<std::int64_t>(n_tiles, kWarps)), kWarps * kWarp, 0, stream>>>(
          static_cast<const Byte*>(rows), n, k, static_cast<Byte*>(tiles), n_tiles);
  return launched();
}

template <class T>
Status launch_unpack(const UnpackArgs& args, Stream stream) {
  const std::int64_t k_tiles = div_up<std::int64_t>(args.w.k, T::kK);
  const std::int64_t n_tiles = div_up(args.n_rows, kTileRows) * k_tiles;
  const Byte* tiles =
      static_cast<const Byte*>(args.w.tiles) + args.begin / kTileRows * k_tiles * T::kBytes;
  return launch(unpack_kernel<T>, static_cast<unsigned>(div_up<std::int64_t>(n_tiles, kWarps)),
                kWarps * kWarp, 0, stream, tiles, args.n_rows, args.w.k, n_tiles, args.out,
                args.out_type);
}

}  // namespace kt::kernels::cuda

/// Instantiates the kernels of one format.
#define KT_TILE_KERNELS(format, T)                                                                 \
  template <>                                                                                      \
  const TileKernels& tile_kernels<formats::Format::format>() {                                     \
    static_assert(sizeof(T::Raw) >= 4 && T::kBytes % 16 == 0);                                     \
    static const TileKernels row = {                                                               \
        T::kK, T::kBytes, &launch_pack<T>, &launch_unpack<T>, &plan_skinny<T>, &launch_skinny<T>}; \
    return row;                                                                                    \
  }
