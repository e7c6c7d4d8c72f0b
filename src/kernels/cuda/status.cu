#include <cuda_runtime.h>

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
  int l2 = 0;
  const bool known =
      cudaDeviceGetAttribute(&info->n_sms, cudaDevAttrMultiProcessorCount, device) == cudaSuccess &&
      cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device) == cudaSuccess;
  if (!known) return Status::kDeviceFailed;
  info->l2_bytes = static_cast<std::size_t>(l2);
  return Status::kOk;
}

}  // namespace kt::kernels::cuda
