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
/// Whether GPUs have a kernel for such heads; a slow one takes all.
bool gpu_attends(std::int64_t dim_qk, std::int64_t dim_v);

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

}  // namespace kt::operators
