// What a GPU plug-in (libkt_cuda.so) gives to the program: one table of functions over plain
// structs and pointers (a reference is a pointer here). Nothing of the C++ library and no exception
// crosses; failures are a Status, with error_text() for kDeviceFailed and kNoMemory.
//
//   kt_gpu_api() → GpuApi, whose version is a digest of the headers that both sides were compiled
//   against (CMakeLists.txt), so that a table of another build is never called
// Thread rule: status.h; use_device() and error_text() are per thread.
#pragma once
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/latent.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/exchange/exchange.h"
#include "kernels/cuda/gemm/gemm.h"
#include "kernels/cuda/moe/moe.h"
#include "kernels/cuda/moe/router.h"
#include "kernels/cuda/sampling/sampling.h"
#include "kernels/cuda/status.h"

struct CUevent_st;
struct CUgraphExec_st;

namespace kt::backend {

using kernels::cuda::Status;
using kernels::cuda::Stream;
using GpuEventHandle = CUevent_st*;
using GpuGraphHandle = CUgraphExec_st*;

struct GpuDescription {
  char name[256] = {};
  char pci_bus[16] = {};  // "0000:17:00.0"
  int major = 0, minor = 0;
  int driver = 0;  // CUDA that the driver knows: 13020 is 13.2
  std::size_t total_bytes = 0;
  kernels::cuda::DeviceInfo info;
};

enum class CopyKind : std::uint8_t { kToDevice, kToHost, kOnDevice };

/// Rows of row_bytes, so many bytes apart on either side.
struct Copy2d {
  void* to = nullptr;
  std::size_t to_stride = 0;
  const void* from = nullptr;
  std::size_t from_stride = 0;
  std::size_t row_bytes = 0, n_rows = 0;
  CopyKind kind{};
};

/// Members are in the order of gpu_api.inc.
struct GpuApi {
  std::uint64_t version = 0;
#define GPU_CALL(result, name, parameters) result(*name) parameters = nullptr;
#define GPU_KERNEL(name) decltype(&kernels::cuda::name) name = nullptr;
#include "backend/gpu/gpu_api.inc"
#undef GPU_CALL
#undef GPU_KERNEL
};

/// The one symbol that a plug-in exports.
inline constexpr const char* kGpuApiEntry = "kt_gpu_api";
using GpuApiEntry = const GpuApi* (*)();

}  // namespace kt::backend
