#include "kernels/cuda/gemm/gemm.h"

#include <algorithm>
#include <array>

#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/gemm/many_rows.h"
#include "kernels/cuda/gemm/reference.h"
#include "kernels/cuda/gemm/tile_kernels.h"

namespace kt::kernels::cuda {
namespace {

constexpr std::int64_t kSlabStep = 128;

Status add_bias(const GemmArgs& args, Stream stream) {
  // Rows of y lie y_stride apart.
  for (std::int64_t row = 0; args.y_stride != args.w.n && row < args.m; ++row) {
    void* y = static_cast<std::byte*>(args.y) +
              static_cast<std::size_t>(row * args.y_stride) * type_bytes(args.y_type);
    const Status status = add({y, args.y_type, args.bias, Type::kF32, 0, 1, args.w.n}, stream);
    if (status != Status::kOk) return status;
  }
  if (args.y_stride != args.w.n) return Status::kOk;
  return add({args.y, args.y_type, args.bias, Type::kF32, 0, args.m, args.w.n}, stream);
}

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

int row_tiles(const Matrix& w) { return static_cast<int>((w.n + kTileRows - 1) / kTileRows); }

/// The launch of `count` products with matrices of one format, without rows of x.
SkinnyArgs skinny_args(const GemmArgs* const* products, int count) {
  const GemmArgs& first = *products[0];
  SkinnyArgs skinny;
  skinny.k = first.w.k;
  skinny.x_stride = first.x_stride;
  skinny.workspace = first.workspace;
  skinny.n_parts = count;
  for (int i = 0; i < count; ++i) {
    const GemmArgs& args = *products[i];
    skinny.parts[i] = {args.w.tiles,  args.w.n,  args.y,          args.y_type,
                       args.y_stride, args.bias, skinny.row_tiles};
    skinny.row_tiles += row_tiles(args.w);
  }
  return skinny;
}

Status gemm_few(const GemmArgs* const* products, int count, const TileKernels& kernels,
                const DeviceInfo& device, Stream stream) {
  const GemmArgs& first = *products[0];
  SkinnyArgs skinny = skinny_args(products, count);
  for (std::int64_t begin = 0; begin < first.m; begin += kSkinnyRows) {
    skinny.m = std::min(first.m - begin, kSkinnyRows);
    const SkinnyPlan plan = kernels.plan(skinny.row_tiles, skinny.k, skinny.m, device);
    if (plan.workspace_bytes > first.workspace_bytes) return Status::kNoWorkspace;
    skinny.x = static_cast<const std::uint16_t*>(first.x) + begin * first.x_stride;
    for (int i = 0; i < count; ++i) {
      const GemmArgs& args = *products[i];
      skinny.parts[i].y = static_cast<std::byte*>(args.y) +
                          static_cast<std::size_t>(begin * args.y_stride) * type_bytes(args.y_type);
    }
    const Status status = kernels.skinny(skinny, plan, stream);
    if (status != Status::kOk) return status;
  }
  return Status::kOk;
}

/// Products of one format, in the order in which they were given.
struct Alike {
  formats::Format format{};
  const GemmArgs* products[kMaxSiblings] = {};
  int count = 0;
};

/// One row with two formats that have a kernel for both; kUnsupported: they have none, or not for
/// this shape.
Status multiply_pair(const Alike& a, const Alike& b, const DeviceInfo& device, Stream stream) {
  const bool swapped = find_row_pair(a.format, b.format) == nullptr;
  const Alike &first = swapped ? b : a, &second = swapped ? a : b;
  const RowPair pair = find_row_pair(first.format, second.format);
  if (pair == nullptr) return Status::kUnsupported;
  SkinnyArgs args[] = {skinny_args(first.products, first.count),
                       skinny_args(second.products, second.count)};
  for (SkinnyArgs& skinny : args) {
    skinny.m = 1;
    skinny.x = static_cast<const std::uint16_t*>(a.products[0]->x);
  }
  return pair(args[0], args[1], device, stream);
}

std::size_t few_workspace(const TileKernels& kernels, std::int64_t tiles, std::int64_t k,
                          std::int64_t m, const DeviceInfo& device) {
  std::size_t bytes = 0;
  for (const std::int64_t rows : kPlannedRows) {
    bytes = std::max(bytes, kernels.plan(tiles, k, rows, device).workspace_bytes);
    if (rows >= m) break;
  }
  return bytes;
}

/// Microseconds that decoding first and cuBLASLt take an H100, about: measured.
double slab_cost(const GemmArgs& args) {
  const double weights = static_cast<double>(args.w.n) * static_cast<double>(args.w.k);
  const double product =
      std::max(2.0 * weights * static_cast<double>(args.m) / 800e6, 2.0 * weights / 2.7e6);
  return 8.0 + weights * 1.05e-6 + product;
}

/// What decoding beside the products adds to the cost of a plan, which is that of 4 bits: measured
/// for Q6_K and Q8_0.
double decoding_cost(formats::Format format) {
  switch (format) {
    case formats::Format::kQ5_K:
    case formats::Format::kQ6_K: return 1.08;
    case formats::Format::kQ8_0:
    case formats::Format::kF8_E4M3_B128: return 1.14;
    default: return 1.0;
  }
}

/// Whether weights are decoded beside the products, and how.
bool decodes_beside(const GemmArgs& args, const DeviceInfo& device, ManyLaunches* plan) {
  const auto misaligned = reinterpret_cast<std::uintptr_t>(args.x) % 16 +
                          static_cast<std::uintptr_t>(args.x_stride % 8 + args.w.k % 8);
  if (args.portable || args.m <= kSkinnyRows || misaligned != 0 || !has_many_rows(args.w.format))
    return false;
  *plan = plan_many_launches(args.w.n, args.w.k, args.m, device.n_sms);
  return args.m <= kDirectRows || plan->cost * decoding_cost(args.w.format) <= slab_cost(args);
}

Status gemm_beside(const GemmArgs& args, const ManyLaunches& plan, Stream stream) {
  ManyArgs many;
  many.first = args.w.tiles;
  many.n = args.w.n;
  many.k = args.w.k;
  many.x = static_cast<const std::uint16_t*>(args.x);
  many.x_stride = args.x_stride;
  many.out = args.y;
  many.out_type = args.y_type;
  many.out_stride = args.y_stride;
  many.bias = args.bias;
  many.m = plan.rows;
  const Status status = multiply_many_rows(args.w.format, many, plan.first, stream);
  if (status != Status::kOk || plan.rows == args.m) return status;
  many.x += plan.rows * args.x_stride;
  many.out = static_cast<std::byte*>(args.y) +
             static_cast<std::size_t>(plan.rows * args.y_stride) * type_bytes(args.y_type);
  many.m = args.m - plan.rows;
  return multiply_many_rows(args.w.format, many, plan.rest, stream);
}

Status gemm_in_slabs(const GemmArgs& args, const DeviceInfo& device, BlasLt* blas, Stream stream) {
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
  if (args.bias == nullptr) return Status::kOk;
  return add_bias(args, stream);
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
  std::size_t bytes = few_workspace(*kernels, row_tiles(w), w.k, m, device);
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
  ManyLaunches plan;
  if (decodes_beside(args, device, &plan)) return gemm_beside(args, plan, stream);
  if (args.m > kDirectRows) return gemm_in_slabs(args, device, blas, stream);
  const GemmArgs* one = &args;
  return gemm_few(&one, 1, *kernels, device, stream);
}

std::size_t gemm_siblings_workspace(const SiblingsArgs& args, const DeviceInfo& device) {
  std::size_t bytes = 0;
  for (int i = 0; i < args.count; ++i) {
    const Matrix& w = args.products[i].w;
    const TileKernels* kernels = find_tile_kernels(w.format);
    if (kernels == nullptr) return 0;
    const std::int64_t m = args.products[0].m;
    if (m > kDirectRows) {
      bytes = std::max(bytes, gemm_workspace(w, m, device));
      continue;
    }
    int tiles = 0;
    for (int j = 0; j < args.count; ++j) {
      if (args.products[j].w.format == w.format) tiles += row_tiles(args.products[j].w);
    }
    bytes = std::max(bytes, few_workspace(*kernels, tiles, w.k, m, device));
  }
  return round_up(bytes);
}

Status gemm_siblings(const SiblingsArgs& args, const DeviceInfo& device, BlasLt* blas,
                     Stream stream) {
  if (args.count < 1 || args.count > kMaxSiblings) return Status::kBadArgument;
  std::array<GemmArgs, kMaxSiblings> products;
  const GemmArgs& first = args.products[0];
  for (int i = 0; i < args.count; ++i) {
    GemmArgs& product = products[static_cast<std::size_t>(i)];
    product = args.products[i];
    product.x = first.x;
    product.x_type = first.x_type;
    product.x_stride = first.x_stride;
    product.m = first.m;
    product.workspace = first.workspace;
    product.workspace_bytes = first.workspace_bytes;
    if (find_tile_kernels(product.w.format) == nullptr || product.x_type != Type::kBF16)
      return Status::kUnsupported;
    if (!valid(product) || product.w.k != first.w.k) return Status::kBadArgument;
  }
  Alike alike[kMaxSiblings];
  int n_formats = 0;
  for (int i = 0; i < args.count; ++i) {
    const GemmArgs& product = products[static_cast<std::size_t>(i)];
    ManyLaunches plan;
    const bool beside = decodes_beside(product, device, &plan);
    if (beside || first.m > kDirectRows) {
      const Status status = beside ? gemm_beside(product, plan, stream)
                                   : gemm_in_slabs(product, device, blas, stream);
      if (status != Status::kOk) return status;
      continue;
    }
    int at = 0;
    while (at < n_formats && alike[at].format != product.w.format) ++at;
    if (at == n_formats) alike[n_formats++].format = product.w.format;
    alike[at].products[alike[at].count++] = &product;
  }
  if (first.m == 1 && n_formats == 2) {
    const Status status = multiply_pair(alike[0], alike[1], device, stream);
    if (status != Status::kUnsupported) return status;
  }
  Status status = Status::kOk;
  for (int i = 0; i < n_formats && status == Status::kOk; ++i) {
    status = gemm_few(alike[i].products, alike[i].count, *find_tile_kernels(alike[i].format),
                      device, stream);
  }
  return status;
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
  return args.bias == nullptr ? Status::kOk : add_bias(args, stream);
}

}  // namespace kt::kernels::cuda
