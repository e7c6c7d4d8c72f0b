// Weights packed for the CPU → tiles: each warp brings the file blocks of a tile's rows into shared
// memory, piece by piece (kernels/cpu/dot/n16_rows.h), neighbouring lanes neighbouring rows, and
// packs them as pack() does.
#include "kernels/cpu/dot/n16_rows.h"
#include "kernels/cuda/gemm/tile_kernels.cuh"

namespace kt::kernels::cuda {
namespace {

template <class T, formats::Format kFormat>
__global__ void pack_n16_kernel(PackN16Args args, std::int64_t n_tiles) {
  using Rows = dot::N16Rows<kFormat>;
  using Unit = typename Rows::Unit;
  constexpr int kBlocks = T::kK / T::kBlock;
  static_assert(sizeof(typename Rows::Block) == T::kBlockBytes);
  __shared__ Byte shared[kWarps][kTileRows][kBlocks][T::kBlockBytes];

  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kWarps + warp;
  if (index >= n_tiles) return;
  const std::int64_t k_tiles = div_up<std::int64_t>(args.k, T::kK);
  const std::int64_t row = index / k_tiles * kTileRows, begin = index % k_tiles * T::kK;
  const auto* units = reinterpret_cast<const Unit*>(static_cast<const Byte*>(args.from) +
                                                    blockIdx.y * args.from_stride) +
                      (row / dot::kN16Rows * args.k + begin) / T::kBlock;
  const auto left = static_cast<int>((args.k - begin) / T::kBlock);
  const int n_blocks = left < kBlocks ? left : kBlocks;

  for (int i = lane; i < 16 * n_blocks * Rows::kPieces; i += kWarp) {
    const int r = i % 16, b = i / 16 % n_blocks;
    Rows::piece(units[b], r, i / 16 / n_blocks, shared[warp][r][b]);
  }
  __syncwarp();
  Byte* tile = static_cast<Byte*>(args.to) + blockIdx.y * args.to_stride + index * T::kBytes;
  pack_tile<T>(tile, lane, [&](int h, int b) -> const Byte* {
    const int r = lane / 4 + 8 * h;
    return row + r >= args.n || b >= n_blocks ? nullptr : shared[warp][r][b];
  });
}

template <class T, formats::Format kFormat>
Status launch(const PackN16Args& args, Stream stream) {
  static_assert(kTileRows == dot::kN16Rows);
  const std::int64_t n_tiles = div_up(args.n, kTileRows) * div_up<std::int64_t>(args.k, T::kK);
  const dim3 grid(static_cast<unsigned>(div_up<std::int64_t>(n_tiles, kWarps)),
                  static_cast<unsigned>(args.count));
  pack_n16_kernel<T, kFormat><<<grid, kWarps * kWarp, 0, stream>>>(args, n_tiles);
  return launched();
}

/// The tile description of a format, by its name.
template <formats::Format kFormat>
struct TileOf;
#define TILE_OF(format, T)                 \
  template <>                              \
  struct TileOf<formats::Format::format> { \
    using Type = T;                        \
  };
TILE_OF(kBF16, TileBF16)
TILE_OF(kQ4_0, TileQ4_0)
TILE_OF(kQ8_0, TileQ8_0)
TILE_OF(kQ4_K, TileQ4_K)
TILE_OF(kQ5_K, TileQ5_K)
TILE_OF(kQ6_K, TileQ6_K)
TILE_OF(kMXFP4, TileMXFP4)
TILE_OF(kF8_E4M3_B128, TileF8_E4M3_B128)
TILE_OF(kI4_32, TileI4<32>)
TILE_OF(kI4_128, TileI4<128>)
#undef TILE_OF

}  // namespace

Status pack_n16(const PackN16Args& args, Stream stream) {
  const bool valid = args.n > 0 && args.k > 0 && args.count > 0 && args.count <= 65535 &&
                     args.k % formats::traits(args.format).block_len == 0;
  if (!valid) return Status::kBadArgument;
  switch (args.format) {
#define EXPERTS(id)         \
  case formats::Format::id: \
    return launch<TileOf<formats::Format::id>::Type, formats::Format::id>(args, stream);
#include "kernels/cuda/moe/kernels.inc"
#undef EXPERTS
    default: return Status::kUnsupported;
  }
}

}  // namespace kt::kernels::cuda
