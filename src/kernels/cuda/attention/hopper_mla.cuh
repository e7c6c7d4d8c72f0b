// Absorbed MLA on Hopper (hopper_mla.cu): where things lie in shared memory, and the warpgroup that
// brings tiles of latents there.
//
//   bf16: one thread, by the copy engine      E4M3: all threads, 16 codes at a time, widened
//
// There is no memory beside the tiles. So the codes of a part of a tile come to the second half of
// the room that the part will take, and have left it when the values get there. Thread rule:
// device code; one warpgroup runs load_tiles() or widen_tiles().
#pragma once
#include "kernels/cuda/attention/hopper.cuh"

namespace kt::kernels::cuda::mla {

inline constexpr int kRows = 64, kTile = 64, kBlocks = 9;  // blocks of 64 columns
inline constexpr int kBlockBytes = kTile * 128, kTileBytes = kBlocks * kBlockBytes;
inline constexpr int kMostCluster = 8;
inline constexpr int kThreads = 3 * hopper::kWarpgroup;

struct Small {
  std::uint64_t queries, full[2][kBlocks], empty[2][2];  // [tile][left, right columns]
  float tops[2][kRows], sums[2][kRows];
  float2 rows[kRows];  // maximum and sum, for the cluster (hopper_mla_sums.cuh)
};
inline constexpr int kWeightBytes = hopper::kWarpgroup * 64;
inline constexpr int kSharedBytes = 3 * kTileBytes + kWeightBytes + static_cast<int>(sizeof(Small));
static_assert(kSharedBytes <= 227 * 1024);

#if KT_HOPPER()
using namespace hopper;

inline constexpr int kLeftBlocks = 4;
inline constexpr int kReadyA = 1, kReadyB = 2, kReadyC = 3, kGroupBarrier = 4, kBothBarrier = 6,
                     kLoadBarrier = 7;  // named barriers; kGroupBarrier is two

struct Shared {
  std::uint32_t queries, tiles, weights;
  Small* small;
  __device__ explicit Shared(unsigned char* raw)
      : queries(shared_address(raw)),
        tiles(queries + kTileBytes),
        weights(tiles + 2 * kTileBytes),
        small(reinterpret_cast<Small*>(raw + 3 * kTileBytes + kWeightBytes)) {}
  __device__ std::uint32_t full(int tile, int block) const {
    return shared_address(&small->full[tile][block]);
  }
  __device__ std::uint32_t empty(int tile, int part) const {
    return shared_address(&small->empty[tile][part]);
  }
  /// Left columns of a tile, or right ones.
  __device__ std::uint32_t columns(int tile, int part) const {
    return tiles + tile * kTileBytes + part * kLeftBlocks * kBlockBytes;
  }
  /// 16 bytes `i` of a thread's weights.
  __device__ std::uint32_t slot(int i, int thread) const {
    return weights + (i * kWarpgroup + thread) * 16;
  }
};

/// One thread: the queries, of which rows behind the last are those of others or zeros.
__device__ inline void load_queries(const Shared& shared, const CUtensorMap& map,
                                    const AttentionArgs& args, const BlockRange& range) {
  const auto row = static_cast<int>(range.token(0) * args.n_heads + range.head(0));
  const std::uint32_t barrier = shared_address(&shared.small->queries);
  barrier_expect(barrier, kTileBytes);
  for (int b = 0; b < kBlocks; ++b)
    copy_box(shared.queries + b * kBlockBytes, &map, barrier, 64 * b, 0, row);
}

/// One thread: the pages of all tiles, in the order in which memory comes free.
__device__ inline void load_tiles(const Shared& shared, const CUtensorMap& map,
                                  const AttentionArgs& args, const BlockRange& range, int n_pairs) {
  const auto load = [&](int tile, int part, int row, int pair) {
    if (pair > 0) barrier_wait(shared.empty(tile, part), (pair - 1) % 2);
    const int first = part == 0 ? 0 : kLeftBlocks, end = part == 0 ? kLeftBlocks : kBlocks;
    const std::uint32_t to = shared.tiles + tile * kTileBytes;
    for (int b = first; b < end; ++b) {
      const std::uint32_t barrier = shared.full(tile, b);
      barrier_expect(barrier, kBlockBytes);
      copy_box(to + b * kBlockBytes, &map, barrier, 64 * b, 0, row);
    }
  };
  for (int pair = 0; pair < n_pairs; ++pair) {
    const int key = range.key + pair * 2 * kTile;
    const int row_a = page_row(args, range, key), row_b = page_row(args, range, key + kTile);
    load(0, 0, row_a, pair);
    load(1, 1, row_b, pair);
    load(0, 1, row_a, pair);
    load(1, 0, row_b, pair);
  }
}

/// A thread's share of the columns of a page in E4M3 that are one part of a tile: 16 codes of two
/// rows in each block of 64.
class Codes {
 public:
  __device__ Codes(const Shared& shared, int tile, int part)
      : values_(shared.columns(tile, part)),
        thread_(threadIdx.x % kWarpgroup),
        first_(part == 0 ? 0 : kLeftBlocks),
        n_(part == 0 ? kLeftBlocks : kBlocks - kLeftBlocks) {}

  /// From the page at `page` to the second half of the part, as they are.
  __device__ void copy(const std::byte* page, std::int64_t row_stride) const {
    const std::byte* from = page + thread_ / 4 * row_stride + first_ * 64 + thread_ % 4 * 16;
#pragma unroll 1
    for (int b = 0; b < n_; ++b) {
#pragma unroll
      for (int h = 0; h < 2; ++h) copy_16(codes(b, h), from + h * 32 * row_stride + b * 64, false);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  /// What copy() brought, to where the products read it. Behind the first two blocks values may
  /// come to lie on codes: not before every thread has taken its own.
  __device__ void widen() const {
    const std::uint32_t row = thread_ / 4, column = thread_ % 4 * 32;
#pragma unroll 1
    for (int b = 0; b < n_; ++b) {
      uint4 taken[2];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(taken[h].x), "=r"(taken[h].y), "=r"(taken[h].z), "=r"(taken[h].w)
                     : "r"(codes(b, h))
                     : "memory");
      }
      if (b >= 2) sync_some(kLoadBarrier, kWarpgroup);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        uint4 low, high;
        cuda::widen(taken[h], low, high);
        const std::uint32_t to = values_ + b * kBlockBytes;
        put(to + swizzle128(row + 32 * h, column), low);
        put(to + swizzle128(row + 32 * h, column + 16), high);
      }
    }
    fence_proxy();
  }

 private:
  /// Of row thread / 4 + 32 h of block b.
  __device__ std::uint32_t codes(int b, int h) const {
    return values_ + (n_ + b) * (kBlockBytes / 2) + h * (kBlockBytes / 4) + thread_ * 16;
  }
  __device__ static void put(std::uint32_t to, const uint4& v) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
  }
  std::uint32_t values_;
  int thread_, first_, n_;
};

/// A warpgroup: load_tiles() of pages in E4M3.
__device__ inline void widen_tiles(const Shared& shared, const AttentionArgs& args,
                                   const BlockRange& range, int n_pairs) {
  const std::int64_t stride = args.k.row_stride;
  const auto page = [&](int key) {
    return static_cast<const std::byte*>(args.k.base) + page_row(args, range, key) * stride;
  };
  const auto copy = [&](int tile, int part, const std::byte* from, int pair) {
    if (pair > 0) barrier_wait(shared.empty(tile, part), (pair - 1) % 2);
    Codes(shared, tile, part).copy(from, stride);
  };
  const auto widen = [&](int tile, int part) {
    Codes(shared, tile, part).widen();
    barrier_arrive(shared.full(tile, part == 0 ? 0 : kLeftBlocks));
  };
#pragma unroll 1
  for (int pair = 0; pair < n_pairs; ++pair) {
    const int key = range.key + pair * 2 * kTile;
    const std::byte *page_a = page(key), *page_b = page(key + kTile);
    if (threadIdx.x % kWarpgroup < 2 && pair + 1 < n_pairs)
      prefetch_bulk(page(key + (2 + threadIdx.x % 2) * kTile), kTile * static_cast<int>(stride));
    // Memory of the second two comes free when the first two are there.
    copy(0, 0, page_a, pair);
    copy(1, 1, page_b, pair);
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    widen(0, 0);
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    widen(1, 1);
    copy(0, 1, page_a, pair);
    copy(1, 0, page_b, pair);
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    widen(0, 1);
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    widen(1, 0);
  }
}

#endif

}  // namespace kt::kernels::cuda::mla
