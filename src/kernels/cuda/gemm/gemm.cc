#include "kernels/cuda/gemm/gemm.h"

#include <algorithm>

#include "kernels/cuda/gemm/reference.h"
#include "kernels/cuda/gemm/tile_kernels.h"

namespace kt::kernels::cuda {
namespace {

constexpr std::int64_t kSlabStep = 128;

std::size_t round_up(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

/// Rows of weights decoded at a time. Large slabs: a product of few columns leaves multiprocessors
/// idle, which costs more than weights that have left L2.
std::int64_t slab_rows(const Matrix& w, const DeviceInfo& device) {
  const std::int64_t fit =
      static_cast<std::int64_t>(device.l2_bytes) * 5 / 2 / (2 * w.k) / kSlabStep * kSlabStep;
  const std::int64_t most = std::max(fit, 4 * kSlabStep);
  if (most >= w.n) return w.n;
  const std::int64_t slabs = (w.n + most - 1) / most;
  return ((w.n + slabs - 1) / slabs + kSlabStep - 1) / kSlabStep * kSlabStep;
}

bool valid(const GemmArgs& args) {
  return args.m > 0 && args.w.n > 0 && args.w.k > 0 && args.x_stride >= args.w.k &&
         args.y_stride >= args.w.n && args.x != nullptr && args.y != nullptr &&
         args.w.tiles != nullptr;
}

Status gemm_few(const GemmArgs& args, const TileKernels& kernels, const DeviceInfo& device,
                Stream stream) {
  for (std::int64_t begin = 0; begin < args.m; begin += kSkinnyRows) {
    const std::int64_t m = std::min(args.m - begin, kSkinnyRows);
    const SkinnyPlan plan = kernels.plan(args.w.n, args.w.k, m, device);
    if (plan.workspace_bytes > args.workspace_bytes) return Status::kNoWorkspace;
    SkinnyArgs skinny{args.w.tiles, args.w.n, args.w.k};
    skinny.x = static_cast<const std::uint16_t*>(args.x) + begin * args.x_stride;
    skinny.x_stride = args.x_stride;
    skinny.m = m;
    skinny.y = static_cast<std::byte*>(args.y) +
               static_cast<std::size_t>(begin * args.y_stride) * type_bytes(args.y_type);
    skinny.y_type = args.y_type;
    skinny.y_stride = args.y_stride;
    skinny.workspace = args.workspace;
    const Status status = kernels.skinny(skinny, plan, stream);
    if (status != Status::kOk) return status;
  }
  return Status::kOk;
}

Status gemm_many(const GemmArgs& args, const DeviceInfo& device, BlasLt* blas, Stream stream) {
  if (blas == nullptr) return Status::kNoLibrary;
  const std::int64_t rows = slab_rows(args.w, device);
  const std::size_t wanted = kBlasWorkspaceBytes + static_cast<std::size_t>(rows * args.w.k) * 2;
  if (wanted > args.workspace_bytes) return Status::kNoWorkspace;
  auto* blas_workspace = static_cast<std::byte*>(args.workspace);
  std::byte* slab = blas_workspace + kBlasWorkspaceBytes;
  for (std::int64_t begin = 0; begin < args.w.n; begin += rows) {
    const std::int64_t n = std::min(args.w.n - begin, rows);
    Status status = unpack({args.w, begin, n, slab, Type::kBF16}, stream);
    if (status != Status::kOk) return status;
    BlasLtArgs product;
    product.x = args.x;
    product.x_stride = args.x_stride;
    product.w = slab;
    product.y =
        static_cast<std::byte*>(args.y) + static_cast<std::size_t>(begin) * type_bytes(args.y_type);
    product.y_type = args.y_type;
    product.y_stride = args.y_stride;
    product.m = args.m;
    product.n = n;
    product.k = args.w.k;
    product.workspace = blas_workspace;
    status = blas->multiply(product, stream);
    if (status != Status::kOk) return status;
  }
  return Status::kOk;
}

}  // namespace

const TileKernels* find_tile_kernels(formats::Format format) {
  switch (format) {
#define TILE(id) \
  case formats::Format::id: return &tile_kernels<formats::Format::id>();
#include "kernels/cuda/gemm/kernels.inc"
#undef TILE
    default: return nullptr;
  }
}

bool has_gemm(formats::Format format) { return find_tile_kernels(format) != nullptr; }

std::size_t packed_bytes(formats::Format format, std::int64_t n, std::int64_t k) {
  const TileKernels* kernels = find_tile_kernels(format);
  if (kernels == nullptr) return 0;
  const std::int64_t row_tiles = (n + kTileRows - 1) / kTileRows;
  const std::int64_t k_tiles = (k + kernels->k - 1) / kernels->k;
  return static_cast<std::size_t>(row_tiles * k_tiles) * kernels->bytes;
}

Status pack(formats::Format format, const void* rows, std::int64_t n, std::int64_t k, void* tiles,
            Stream stream) {
  const TileKernels* kernels = find_tile_kernels(format);
  if (kernels == nullptr) return Status::kUnsupported;
  if (n <= 0 || k <= 0 || k % formats::traits(format).block_len != 0) return Status::kBadArgument;
  return kernels->pack(rows, n, k, tiles, stream);
}

Status unpack(const UnpackArgs& args, Stream stream) {
  const TileKernels* kernels = find_tile_kernels(args.w.format);
  if (kernels == nullptr) return Status::kUnsupported;
  const bool inside = args.begin >= 0 && args.begin % kTileRows == 0 && args.n_rows > 0 &&
                      args.begin + args.n_rows <= args.w.n;
  return inside ? kernels->unpack(args, stream) : Status::kBadArgument;
}

std::size_t gemm_workspace(const Matrix& w, std::int64_t m, const DeviceInfo& device) {
  const TileKernels* kernels = find_tile_kernels(w.format);
  if (kernels == nullptr) return 0;
  std::size_t bytes = 0;
  for (std::int64_t rows = 1; rows <= std::min(m, kSkinnyRows); ++rows) {
    bytes = std::max(bytes, kernels->plan(w.n, w.k, rows, device).workspace_bytes);
  }
  if (m > kDirectRows) {
    const std::int64_t slab = slab_rows(w, device) * w.k;
    bytes = std::max(bytes, kBlasWorkspaceBytes + static_cast<std::size_t>(slab) * 2);
  }
  return round_up(bytes);
}

Status gemm(const GemmArgs& args, const DeviceInfo& device, BlasLt* blas, Stream stream) {
  const TileKernels* kernels = find_tile_kernels(args.w.format);
  if (kernels == nullptr || args.x_type != Type::kBF16) return Status::kUnsupported;
  if (!valid(args)) return Status::kBadArgument;
  if (args.m <= kDirectRows) return gemm_few(args, *kernels, device, stream);
  return gemm_many(args, device, blas, stream);
}

Status gemm_reference(const GemmArgs& args, Stream stream) {
  if (find_tile_kernels(args.w.format) == nullptr) return Status::kUnsupported;
  if (!valid(args)) return Status::kBadArgument;
  if (args.workspace_bytes < reference_slab_bytes(args.w)) return Status::kNoWorkspace;
  auto* slab = static_cast<float*>(args.workspace);
  for (std::int64_t begin = 0; begin < args.w.n; begin += kReferenceRows) {
    const std::int64_t n = std::min(args.w.n - begin, kReferenceRows);
    Status status = unpack({args.w, begin, n, slab, Type::kF32}, stream);
    if (status == Status::kOk) status = multiply_reference(args, slab, begin, n, stream);
    if (status != Status::kOk) return status;
  }
  return Status::kOk;
}

}  // namespace kt::kernels::cuda
