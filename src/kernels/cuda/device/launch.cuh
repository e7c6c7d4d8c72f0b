// Host side of every launch: raising a kernel's shared memory, turning CUDA's answer into a Status.
// Thread rule: as status.h.
#pragma once
#include <cuda_runtime.h>

#include "kernels/cuda/status.h"

namespace kt::kernels::cuda {

inline constexpr int kWarp = 32;

template <class T>
constexpr T div_up(T a, T b) {
  return (a + b - 1) / b;
}

/// What the launch just made came to.
inline Status launched() {
  return cudaPeekAtLastError() == cudaSuccess ? Status::kOk : Status::kDeviceFailed;
}

/// Lets `kernel` use this much dynamic shared memory; more than 48 KiB must be asked for.
template <class Kernel>
Status allow_shared(Kernel* kernel, std::size_t bytes) {
  if (bytes <= 48 * 1024) return Status::kOk;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
  return error == cudaSuccess ? Status::kOk : Status::kDeviceFailed;
}

}  // namespace kt::kernels::cuda
