#include <cuda_runtime.h>

#include <array>
#include <atomic>

#include "kernels/cuda/device/errors.h"
#include "kernels/cuda/device/hopper.h"

namespace kt::kernels::cuda {
namespace {

// Its bound says which code the driver chose: that for sm_90a runs on compute capability 9.0 only.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define KT_PROBE_THREADS 64
#else
#define KT_PROBE_THREADS 32
#endif
__global__ void __launch_bounds__(KT_PROBE_THREADS) probe_kernel() {}
#undef KT_PROBE_THREADS

}  // namespace

bool has_wgmma() {
  static std::array<std::atomic<int>, 64> known;
  int device = 0;
  if (status_of(cudaGetDevice(&device)) != Status::kOk || device < 0 || device >= 64) return false;
  std::atomic<int>& threads = known[static_cast<std::size_t>(device)];
  if (threads == 0) {
    cudaFuncAttributes attributes = {};
    if (status_of(cudaFuncGetAttributes(&attributes, probe_kernel)) != Status::kOk) return false;
    threads = attributes.maxThreadsPerBlock;
  }
  return threads == 64;
}

}  // namespace kt::kernels::cuda
