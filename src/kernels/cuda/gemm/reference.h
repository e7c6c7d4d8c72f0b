// The slow twin of the products: decoded rows of weights times x, one warp for each result, f32
// throughout. Thread rule: status.h.
#pragma once
#include "kernels/cuda/gemm/gemm.h"

namespace kt::kernels::cuda {

/// Rows decoded at a time, and the memory they take.
inline constexpr std::int64_t kReferenceRows = 64;
constexpr std::size_t reference_slab_bytes(const Matrix& w) {
  return static_cast<std::size_t>(kReferenceRows * w.k) * 4;
}

/// y[:, begin + i] = x · slab[i]ᵀ for i < n_rows; slab [n_rows, k].
Status multiply_reference(const GemmArgs& args, const float* slab, std::int64_t begin,
                          std::int64_t n_rows, Stream stream);

}  // namespace kt::kernels::cuda
