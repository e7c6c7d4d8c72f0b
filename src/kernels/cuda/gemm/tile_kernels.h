// The kernels of one weight format, as a row of pointers: what gemm.cc chooses from and tiles_*.cu
// instantiate. Thread rule: status.h.
#pragma once
#include "kernels/cuda/gemm/gemm.h"

namespace kt::kernels::cuda {

/// One of the matrices that a launch multiplies with.
struct SkinnyPart {
  const void* tiles = nullptr;
  std::int64_t n = 0;
  void* y = nullptr;
  Type y_type = Type::kF32;
  std::int64_t y_stride = 0;
  const float* bias = nullptr;  // [n] or null
  int first_tile = 0;           // row tiles of the parts before it
};

/// One launch of the products of few rows, m <= kSkinnyRows, with matrices of one format.
struct SkinnyArgs {
  SkinnyPart parts[kMaxSiblings];
  int n_parts = 0;
  int row_tiles = 0;  // of all parts
  std::int64_t k = 0;
  const std::uint16_t* x = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t m = 0;
  void* workspace = nullptr;
};

/// How the launch is divided. One row of x that shared memory holds: blocks of `warps` warps with
/// at most `most` row tiles. Else `most` is 0, `blocks` of `warps` share the row tiles and `splits`
/// times as many also k; where those that share it are a cluster they add their sums, else a second
/// kernel does.
struct SkinnyPlan {
  int most = 0, warps = 0;
  int blocks = 0, splits = 0;
  bool clustered = false;
  std::size_t shared_bytes = 0;
  std::size_t workspace_bytes = 0;
};

/// Rows of x at which plans change: any m is planned as the next of these.
inline constexpr std::int64_t kPlannedRows[] = {1, 2, 4, 8, 16, kSkinnyRows};

struct TileKernels {
  std::int64_t k = 0;  // of a tile
  std::size_t bytes = 0;
  Status (*pack)(const void* rows, std::int64_t n, std::int64_t k, void* tiles,
                 Stream stream) = nullptr;
  Status (*unpack)(const UnpackArgs& args, Stream stream) = nullptr;
  SkinnyPlan (*plan)(std::int64_t row_tiles, std::int64_t k, std::int64_t m,
                     const DeviceInfo& device) = nullptr;
  Status (*skinny)(const SkinnyArgs& args, const SkinnyPlan& plan, Stream stream) = nullptr;
};

template <formats::Format kFormat>
const TileKernels& tile_kernels();
#define TILE(id) \
  template <>    \
  const TileKernels& tile_kernels<formats::Format::id>();
#include "kernels/cuda/gemm/kernels.inc"
#undef TILE

/// The product of one row with matrices of two formats that files mix, in one launch; kUnsupported
/// where shared memory does not hold the row.
using RowPair = Status (*)(const SkinnyArgs& first, const SkinnyArgs& second,
                           const DeviceInfo& device, Stream stream);
/// Null: the two have none, in this order.
RowPair find_row_pair(formats::Format first, formats::Format second);

/// The row of a format, or null.
const TileKernels* find_tile_kernels(formats::Format format);

}  // namespace kt::kernels::cuda
