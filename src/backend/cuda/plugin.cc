// libkt_cuda.so: the kernels of kernels/cuda and the CUDA runtime, linked statically, as one
// GpuApi. The driver's library is found when the first call is made.
#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <map>
#include <mutex>

#include "backend/gpu/gpu_api.h"
#include "kernels/cuda/device/errors.h"

namespace kt::backend {
namespace {

using kernels::cuda::remember_error;

Status outcome(cudaError_t error) {
  const Status status = kernels::cuda::status_of(error);
  return error == cudaErrorMemoryAllocation ? Status::kNoMemory : status;
}

const char* error_text() { return kernels::cuda::device_error_text(); }

// Why there is no device, in words that say what to do.
void remember_no_device(cudaError_t error) {
  constexpr int kBuilt = CUDART_VERSION;
  int driver = 0;
  cudaDriverGetVersion(&driver);
  switch (error) {
    case cudaErrorInsufficientDriver:
      if (driver == 0) return remember_error("no NVIDIA driver on this machine (libcuda.so.1)");
      return remember_error(
          "the NVIDIA driver is for CUDA %d.%d, this plug-in needs %d.%d; update the driver",
          driver / 1000, driver % 1000 / 10, kBuilt / 1000, kBuilt % 1000 / 10);
    case cudaSuccess:
    case cudaErrorNoDevice:
      return remember_error("the NVIDIA driver shows no GPU (CUDA_VISIBLE_DEVICES can hide them)");
    case cudaErrorSystemDriverMismatch:
    case cudaErrorSystemNotReady:
      return remember_error(
          "the NVIDIA driver was updated or is starting (%s); restart the machine if this stays",
          cudaGetErrorString(error));
    default: return remember_error("the NVIDIA driver failed: %s", cudaGetErrorString(error));
  }
}

int device_count(const char** problem) {
  int n = 0;
  const cudaError_t error = cudaGetDeviceCount(&n);
  if (error == cudaSuccess && n > 0) return n;
  kernels::cuda::status_of(error);
  remember_no_device(error);
  *problem = kernels::cuda::remembered_error();
  return 0;
}

Status describe(int device, GpuDescription* out) {
  cudaDeviceProp properties;
  Status status = outcome(cudaGetDeviceProperties(&properties, device));
  if (status != Status::kOk) return status;
  std::snprintf(out->name, sizeof out->name, "%s", properties.name);
  out->major = properties.major;
  out->minor = properties.minor;
  out->total_bytes = properties.totalGlobalMem;
  status = outcome(cudaDeviceGetPCIBusId(out->pci_bus, sizeof out->pci_bus, device));
  if (status == Status::kOk) status = outcome(cudaDriverGetVersion(&out->driver));
  return status == Status::kOk ? kernels::cuda::describe_device(device, &out->info) : status;
}

Status use_device(int device) { return outcome(cudaSetDevice(device)); }

Status device_memory(std::size_t* free, std::size_t* total) {
  return outcome(cudaMemGetInfo(free, total));
}

// What device_malloc gave and device_free has not taken back; of all models of this process.
struct Held {
  struct Block {
    int device;
    std::size_t bytes;
  };
  std::mutex mutex;
  std::map<const void*, Block> blocks;
};
Held& held() {
  static Held held;
  return held;
}

Status device_malloc(std::size_t bytes, void** out) {
  int device = 0;
  Status status = outcome(cudaGetDevice(&device));
  if (status == Status::kOk) status = outcome(cudaMalloc(out, bytes));
  if (status != Status::kOk) return status;
  const std::lock_guard lock(held().mutex);
  held().blocks[*out] = {device, bytes};
  return status;
}
void device_free(void* data) {
  outcome(cudaFree(data));
  const std::lock_guard lock(held().mutex);
  held().blocks.erase(data);
}
std::size_t device_held() {
  int device = 0;
  if (outcome(cudaGetDevice(&device)) != Status::kOk) return 0;
  const std::lock_guard lock(held().mutex);
  std::size_t sum = 0;
  for (const auto& [data, block] : held().blocks) sum += block.device == device ? block.bytes : 0;
  return sum;
}

Status host_malloc(std::size_t bytes, void** out) {
  return outcome(cudaHostAlloc(out, bytes, cudaHostAllocPortable | cudaHostAllocMapped));
}
void host_free(void* data) { outcome(cudaFreeHost(data)); }

Status host_register(void* data, std::size_t bytes) {
  return outcome(cudaHostRegister(data, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped));
}
void host_unregister(void* data) { outcome(cudaHostUnregister(data)); }

Status device_address(void* host, void** out) {
  return outcome(cudaHostGetDevicePointer(out, host, 0));
}

Status stream_create(Stream* out) {
  return outcome(cudaStreamCreateWithFlags(out, cudaStreamNonBlocking));
}
void stream_destroy(Stream stream) { outcome(cudaStreamDestroy(stream)); }
Status stream_synchronize(Stream stream) { return outcome(cudaStreamSynchronize(stream)); }
// Of a query, for which "not yet" is an answer.
Status answer(cudaError_t error, bool* done) {
  *done = error == cudaSuccess;
  if (error != cudaErrorNotReady) return outcome(error);
  cudaGetLastError();  // it counts as one
  return Status::kOk;
}

Status stream_idle(Stream stream, bool* idle) { return answer(cudaStreamQuery(stream), idle); }
Status stream_wait_event(Stream stream, GpuEventHandle event) {
  return outcome(cudaStreamWaitEvent(stream, event, 0));
}

Status event_create(bool timed, GpuEventHandle* out) {
  return outcome(cudaEventCreateWithFlags(out, timed ? cudaEventDefault : cudaEventDisableTiming));
}
void event_destroy(GpuEventHandle event) { outcome(cudaEventDestroy(event)); }
Status event_record(GpuEventHandle event, Stream stream) {
  return outcome(cudaEventRecord(event, stream));
}
Status event_synchronize(GpuEventHandle event) { return outcome(cudaEventSynchronize(event)); }
Status event_done(GpuEventHandle event, bool* done) { return answer(cudaEventQuery(event), done); }
Status event_elapsed(GpuEventHandle from, GpuEventHandle to, float* milliseconds) {
  return outcome(cudaEventElapsedTime(milliseconds, from, to));
}

cudaMemcpyKind memcpy_kind(CopyKind kind) {
  switch (kind) {
    case CopyKind::kToDevice: return cudaMemcpyHostToDevice;
    case CopyKind::kToHost: return cudaMemcpyDeviceToHost;
    case CopyKind::kOnDevice: break;
  }
  return cudaMemcpyDeviceToDevice;
}

Status copy(void* to, const void* from, std::size_t bytes, CopyKind kind, Stream stream) {
  return outcome(cudaMemcpyAsync(to, from, bytes, memcpy_kind(kind), stream));
}
Status copy_2d(const Copy2d& c, Stream stream) {
  return outcome(cudaMemcpy2DAsync(c.to, c.to_stride, c.from, c.from_stride, c.row_bytes, c.n_rows,
                                   memcpy_kind(c.kind), stream));
}
Status fill(void* data, int byte, std::size_t bytes, Stream stream) {
  return outcome(cudaMemsetAsync(data, byte, bytes, stream));
}

// A function of the driver's library, or null.
template <class F>
F driver_function(const char* name) {
  constexpr unsigned kVersion = 12000;
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found{};
  const Status status = outcome(
      cudaGetDriverEntryPointByVersion(name, &address, kVersion, cudaEnableDefault, &found));
  const bool usable = status == Status::kOk && found == cudaDriverEntryPointSuccess;
  return reinterpret_cast<F>(usable ? address : nullptr);
}

using FlagFunction = decltype(&cuStreamWaitValue32);

Status flag_outcome(const char* name, FlagFunction f, void* flag, std::uint32_t value,
                    unsigned flags, Stream stream) {
  if (f == nullptr) {
    remember_error("the NVIDIA driver has no %s", name);
    return Status::kDeviceFailed;
  }
  const CUresult result = f(stream, reinterpret_cast<CUdeviceptr>(flag), value, flags);
  if (result == CUDA_SUCCESS) return Status::kOk;
  remember_error("%s: error %d of the NVIDIA driver", name, static_cast<int>(result));
  return Status::kDeviceFailed;
}

Status write_flag(void* flag, std::uint32_t value, Stream stream) {
  static const auto f = driver_function<FlagFunction>("cuStreamWriteValue32");
  return flag_outcome("cuStreamWriteValue32", f, flag, value, CU_STREAM_WRITE_VALUE_DEFAULT,
                      stream);
}

Status wait_flag(void* flag, std::uint32_t value, Stream stream) {
  static const auto f = driver_function<FlagFunction>("cuStreamWaitValue32");
  return flag_outcome("cuStreamWaitValue32", f, flag, value, CU_STREAM_WAIT_VALUE_GEQ, stream);
}

// Other threads may allocate meanwhile.
Status graph_begin(Stream stream) {
  return outcome(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
}

// Another GPU's stream may record on this thread still, and CUDA refuses to instantiate graphs then
// unless the thread's mode is relaxed.
Status graph_end(Stream stream, GpuGraphHandle* out) {
  cudaGraph_t graph = nullptr;
  Status status = outcome(cudaStreamEndCapture(stream, &graph));
  if (status == Status::kOk) {
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaThreadExchangeStreamCaptureMode(&mode);
    status = outcome(cudaGraphInstantiate(out, graph, 0));
    cudaThreadExchangeStreamCaptureMode(&mode);
  }
  if (graph != nullptr) cudaGraphDestroy(graph);
  return status;
}

Status graph_launch(GpuGraphHandle graph, Stream stream) {
  return outcome(cudaGraphLaunch(graph, stream));
}
void graph_destroy(GpuGraphHandle graph) { outcome(cudaGraphExecDestroy(graph)); }

Status blas_open(kernels::cuda::BlasLt** out) {
  try {
    Status status = Status::kOk;
    *out = kernels::cuda::BlasLt::open(&status).release();
    return status;
  } catch (...) {
    remember_error("no host memory for cuBLASLt");
    return Status::kNoMemory;
  }
}
void blas_close(kernels::cuda::BlasLt* blas) { delete blas; }

}  // namespace
}  // namespace kt::backend

extern "C" __attribute__((visibility("default"))) const kt::backend::GpuApi* kt_gpu_api() {
  using namespace kt::backend;
  static constexpr GpuApi kApi = {
      KT_GPU_API_VERSION,
#define GPU_CALL(result, name, parameters) &name,
#define GPU_KERNEL(name) &kt::kernels::cuda::name,
#include "backend/gpu/gpu_api.inc"
#undef GPU_CALL
#undef GPU_KERNEL
  };
  return &kApi;
}
