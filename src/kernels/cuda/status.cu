#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <atomic>

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/status.h"

namespace kt::kernels::cuda {

const char* status_text(Status status) {
  switch (status) {
    case Status::kOk: return "ok";
    case Status::kUnsupported: return "not supported";
    case Status::kBadArgument: return "bad argument";
    case Status::kNoWorkspace: return "too little work memory";
    case Status::kNoLibrary: return "cuBLASLt not found";
    case Status::kNoMemory: return "out of memory";
    case Status::kDeviceFailed: return "the device failed";
  }
  return "unknown";
}

const char* device_error_text() { return cudaGetErrorString(cudaPeekAtLastError()); }

Status describe_device(int device, DeviceInfo* info) {
  int l2 = 0, shared = 0;
  const bool known =
      cudaDeviceGetAttribute(&info->n_sms, cudaDevAttrMultiProcessorCount, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) ==
          cudaSuccess;
  if (!known) return Status::kDeviceFailed;
  info->l2_bytes = static_cast<std::size_t>(l2);
  info->shared_bytes = static_cast<std::size_t>(shared);
  return Status::kOk;
}

namespace {

/// An attribute of the thread's device, asked for once; 0 when there is none.
template <cudaDeviceAttr kAttribute>
int attribute() {
  static std::array<std::atomic<int>, 64> known;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device < 0 || device >= 64) return 0;
  std::atomic<int>& value = known[static_cast<std::size_t>(device)];
  if (value == 0) {
    int asked = 0;
    cudaDeviceGetAttribute(&asked, kAttribute, device);
    value = asked;
  }
  return value;
}

}  // namespace

bool overlaps_launches() { return attribute<cudaDevAttrComputeCapabilityMajor>() >= 9; }

int multiprocessors() { return std::max(attribute<cudaDevAttrMultiProcessorCount>(), 1); }

}  // namespace kt::kernels::cuda
