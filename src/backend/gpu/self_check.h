// The self-check of a GPU: every family of fast kernels beside its slow twin on small
// random data, products at the numbers of rows where the way to compute changes.
//
//   error = |fast - slow| / |slow|   over all values (the 2-norm); not finite counts as infinite
//
// bf16 rounding makes 1e-3 of it, a wrong kernel a good part of 1.
// Thread rule: as the Gpu.
#pragma once
#include <compare>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "backend/gpu/gpu.h"

namespace kt::backend {

struct GpuCheck {
  enum class Outcome {
    kAgrees,
    kDiffers,
    kFailed,  // problem says how
    kAbsent,  // not in this plug-in, or no cuBLASLt
  };
  std::string family;  // "products", "experts", "streamed", "attention", "lists"
  std::string what;    // "Q4_K, 8 rows"
  Outcome outcome = Outcome::kAbsent;
  double error = 0.0;
  std::string problem;
};

/// Heads of an attention. latent: one stream, whose first dim_v values are v.
struct GpuHeads {
  std::int64_t dim_qk = 0, dim_v = 0;
  bool latent = false;
  kernels::cuda::CacheType cache = kernels::cuda::CacheType::kBF16;
  auto operator<=>(const GpuHeads&) const = default;
};

/// What is to be checked: the formats of products, of experts (gate and up, down), of those that
/// come as the CPU has them packed, the heads.
struct GpuKernels {
  std::set<formats::Format> products;
  std::set<std::pair<formats::Format, formats::Format>> experts;
  std::set<formats::Format> streamed;
  std::set<GpuHeads> attention;
  bool lists = false;  // of logits
};
/// Some of every family.
GpuKernels common_gpu_kernels();

inline constexpr double kLargestGpuError = 1e-2;
/// Reserved memory that the self-check wants free.
inline constexpr std::size_t kGpuCheckBytes = std::size_t{48} << 20;

/// Runs these; allocations are given back. A failing kernel is a result, not an exception.
std::vector<GpuCheck> check_gpu(Gpu& gpu, const GpuKernels& kernels);

}  // namespace kt::backend
