#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdarg>
#include <cstdio>

#include "kernels/cuda/device/errors.h"
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

namespace {

constexpr std::size_t kErrorSize = 256;
thread_local char last_error[kErrorSize] = "no error";

}  // namespace

void remember_error(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(last_error, kErrorSize, format, arguments);
  va_end(arguments);
}

Status status_of(cudaError_t error) {
  if (error == cudaSuccess) return Status::kOk;
  cudaGetLastError();
  remember_error("%s", cudaGetErrorString(error));
  return Status::kDeviceFailed;
}

const char* remembered_error() { return last_error; }

const char* device_error_text() {
  status_of(cudaGetLastError());  // of callers that asked CUDA themselves
  return last_error;
}

Status describe_device(int device, DeviceInfo* info) {
  int l2 = 0, shared = 0;
  const auto ask = [&](int* value, cudaDeviceAttr which) {
    return status_of(cudaDeviceGetAttribute(value, which, device)) == Status::kOk;
  };
  const bool known = ask(&info->n_sms, cudaDevAttrMultiProcessorCount) &&
                     ask(&l2, cudaDevAttrL2CacheSize) &&
                     ask(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin);
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
  if (status_of(cudaGetDevice(&device)) != Status::kOk || device < 0 || device >= 64) return 0;
  std::atomic<int>& value = known[static_cast<std::size_t>(device)];
  if (value == 0) {
    int asked = 0;
    status_of(cudaDeviceGetAttribute(&asked, kAttribute, device));
    value = asked;
  }
  return value;
}

}  // namespace

bool overlaps_launches() { return attribute<cudaDevAttrComputeCapabilityMajor>() >= 9; }

int multiprocessors() { return std::max(attribute<cudaDevAttrMultiProcessorCount>(), 1); }

std::size_t most_shared() {
  return static_cast<std::size_t>(attribute<cudaDevAttrMaxSharedMemoryPerBlockOptin>());
}

Status allow_shared(const void* kernel, std::size_t bytes) {
  if (bytes <= 48 * 1024) return Status::kOk;
  cudaFuncAttributes now = {};
  const Status status = status_of(cudaFuncGetAttributes(&now, kernel));
  if (status != Status::kOk || bytes <= static_cast<std::size_t>(now.maxDynamicSharedSizeBytes))
    return status;
  // All that there is, once.
  const std::size_t all = most_shared();
  const std::size_t most = all > now.sharedSizeBytes ? all - now.sharedSizeBytes : 0;
  return status_of(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(std::max(bytes, most))));
}

}  // namespace kt::kernels::cuda
