// Weights on a GPU: read row by row like those of the CPU, recoded where the operator asks for it,
// sent through pinned memory and relaid out there for the kernels (kernels/cuda/gemm/gemm.h).
// Thread rule: one thread loads; reading and recoding are parallel inside.
#pragma once
#include <vector>

#include "operators/loader.h"

namespace kt::operators {

/// Whether GPUs multiply with weights of this format, as single matrices or as experts.
bool gpu_multiplies(tensor::Format format);
bool gpu_has_experts(tensor::Format format);

/// A copy on a GPU.
const float* gpu_floats(backend::Gpu& gpu, const std::vector<float>& values);

/// Equal matrices, one after the other.
struct GpuMatrices {
  kernels::cuda::Matrix first;
  std::size_t each = 0;  // bytes
  std::size_t bytes = 0;
};
/// Throws as Loader::matrices; kUnsupported when formats differ, kNoMemory.
GpuMatrices gpu_matrices(Loader& loader, backend::Gpu& gpu, const std::vector<WeightSpec>& specs,
                         const Recode& recode);

/// Rows [begin, begin + n) of every rows_each rows of a tensor: a small matrix of each head.
struct HeadRows {
  std::int64_t n_heads = 0, rows_each = 0, begin = 0, n = 0;
  bool transposed = false;  // [k, n] instead of [n, k]
};
/// In bf16, one after the other. Throws kNoMemory.
const void* gpu_head_rows(Loader& loader, backend::Gpu& gpu, const io::TensorInfo& info,
                          const HeadRows& rows);

}  // namespace kt::operators
