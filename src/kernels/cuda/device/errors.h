// CUDA's answers as Statuses. What failed is kept for device_error_text() and taken from CUDA,
// whose last error of the thread a later launch with <<<>>> would report as its own. Thread rule:
// what is kept is the thread's.
#pragma once
#include <cuda_runtime.h>

#include "kernels/cuda/status.h"

namespace kt::kernels::cuda {

/// kOk or kDeviceFailed.
Status status_of(cudaError_t error);

/// As printf: what device_error_text() says from now on.
[[gnu::format(printf, 1, 2)]] void remember_error(const char* format, ...);
/// The same text, where CUDA is not to be asked: without a driver it has an error again at once.
const char* remembered_error();

}  // namespace kt::kernels::cuda
