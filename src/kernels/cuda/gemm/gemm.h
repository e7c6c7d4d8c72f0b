// Matrix products on the GPU: y[m, n] = x[m, k] · w[n, k]ᵀ, weights in any format of kernels.inc.
//
// Weights are relaid out once at load, at the same size, into tiles of 16 rows × 32 … 256 k in the
// order in which a warp's lanes want them (tile.cuh). Few rows of x: one kernel reads the codes,
// multiplies them as exact small integers on tensor cores and applies the scales to the sums, so
// that only x is rounded (to bf16). Many rows: on Hopper weights are decoded to bf16 beside the
// tensor cores (many_rows.h) from kSkinnyRows on; elsewhere, and where it takes less time, in
// slabs, which cuBLASLt multiplies. gemm_reference() is the slow twin: f32 throughout, no tensor
// cores. Packed weights are complete before a product is launched: kernels read them before the
// work in front of them on the stream has ended. Thread rule: status.h.
#pragma once
#include "formats/format.h"
#include "kernels/cuda/gemm/blas_lt.h"
#include "kernels/cuda/status.h"

namespace kt::kernels::cuda {

inline constexpr std::int64_t kTileRows = 16;
/// Up to this many rows of x the codes are multiplied directly, at a time and at all; on Hopper
/// more than kSkinnyRows of them are many.
inline constexpr std::int64_t kSkinnyRows = 32;
inline constexpr std::int64_t kDirectRows = 2 * kSkinnyRows;
/// Matrices that one call multiplies with the same x.
inline constexpr int kMaxSiblings = 4;

/// A packed weight matrix in device memory.
struct Matrix {
  formats::Format format{};
  const void* tiles = nullptr;  // pack()
  std::int64_t n = 0;
  std::int64_t k = 0;  // a multiple of the format's block
};

/// Whether kernels.inc lists this format.
bool has_gemm(formats::Format format);

/// Bytes of packed weights: the file's size but for rows filled up to 16, and k to a tile.
std::size_t packed_bytes(formats::Format format, std::int64_t n, std::int64_t k);

/// Relays n rows in file layout (device memory) to `tiles` (16-byte aligned).
Status pack(formats::Format format, const void* rows, std::int64_t n, std::int64_t k, void* tiles,
            Stream stream);

/// Relays `count` matrices that lie packed for the CPU (kernels/cpu/dot/n16.h), here in device
/// memory, to tiles, the same as pack() makes of their rows. For formats of moe/kernels.inc.
struct PackN16Args {
  formats::Format format{};
  const void* from = nullptr;   // 64-byte aligned, from_stride bytes apart
  std::size_t from_stride = 0;  // a multiple of 64
  std::int64_t n = 0, k = 0;
  void* to = nullptr;  // 16-byte aligned, to_stride bytes apart
  std::size_t to_stride = 0;
  std::int64_t count = 0;
};
Status pack_n16(const PackN16Args& args, Stream stream);

/// Decodes rows [begin, begin + n_rows) to out[n_rows, k]; begin is a multiple of 16.
struct UnpackArgs {
  Matrix w;
  std::int64_t begin = 0;
  std::int64_t n_rows = 0;
  void* out = nullptr;
  Type out_type = Type::kBF16;
};
Status unpack(const UnpackArgs& args, Stream stream);

struct GemmArgs {
  Matrix w;
  const void* x = nullptr;  // [m, k], x_stride elements apart; gemm() wants bf16
  Type x_type = Type::kBF16;
  std::int64_t x_stride = 0;
  std::int64_t m = 0;
  void* y = nullptr;  // [m, n], y_stride elements apart; overwritten
  Type y_type = Type::kF32;
  std::int64_t y_stride = 0;
  void* workspace = nullptr;  // gemm_workspace() bytes
  std::size_t workspace_bytes = 0;
  const float* bias = nullptr;  // [n], added to every row
  bool portable = false;        // without Hopper's instructions, on any device
};

/// Work memory of gemm() for up to m rows of x; the slow twin wants reference_slab_bytes().
std::size_t gemm_workspace(const Matrix& w, std::int64_t m, const DeviceInfo& device);

/// `blas` may be null while m is at most kDirectRows; kNoLibrary above that.
Status gemm(const GemmArgs& args, const DeviceInfo& device, BlasLt* blas, Stream stream);

/// Products of the same rows of x (x, x_type, x_stride and m of the first) with up to kMaxSiblings
/// matrices: few rows in one launch for each format among them. The workspace is the first's too.
struct SiblingsArgs {
  GemmArgs products[kMaxSiblings];
  int count = 0;
};
std::size_t gemm_siblings_workspace(const SiblingsArgs& args, const DeviceInfo& device);
Status gemm_siblings(const SiblingsArgs& args, const DeviceInfo& device, BlasLt* blas,
                     Stream stream);
Status gemm_reference(const GemmArgs& args, Stream stream);

}  // namespace kt::kernels::cuda
