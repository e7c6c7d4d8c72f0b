// Every launch: from the host, kernels that may start while the one before ends, more shared
// memory, CUDA's answer as a Status; in the kernel, when it may touch what others wrote.
//
//   start_next(); [loads of weights] await_previous(); … the kernel
//
// With programmatic dependent launch (compute capability 9) blocks of a kernel come onto
// multiprocessors as soon as all blocks of the one before have called start_next(). Every thread of
// every kernel calls await_previous() before it ends and before it reads or writes anything but
// weights, or by read_early(); so a kernel that has ended means that all before it have. Thread
// rule: as status.h.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

#include "kernels/cuda/device/errors.h"

namespace kt::kernels::cuda {

inline constexpr int kWarp = 32;

template <class T>
constexpr T div_up(T a, T b) {
  return (a + b - 1) / b;
}

/// Lets the next kernel of the stream come; it waits in its await_previous().
__device__ inline void start_next() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Until all that the stream did before is done and seen.
__device__ inline void await_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// The exception: what a kernel that has ended wrote, as the one before the one before has when the
/// one before lets others come only after its own await_previous(). Past L1, which may hold what
/// was there before.
template <class V>
__device__ V read_early(const V* from) {
  static_assert(sizeof(V) == 4);
  std::uint32_t bits;
  asm volatile("ld.relaxed.gpu.global.b32 %0, [%1];" : "=r"(bits) : "l"(from) : "memory");
  return *reinterpret_cast<const V*>(&bits);
}

/// Whether the thread's device overlaps kernels in this way.
bool overlaps_launches();

/// Multiprocessors of the thread's device.
int multiprocessors();

/// Bytes of shared memory that a block may have on the thread's device.
std::size_t most_shared();

/// kernel<<<grid, threads, shared, stream>>>(args…), beginning before its predecessor has ended, in
/// clusters of blocks (compute capability 9; clusters.cuh).
template <class... Parameters, class... Args>
Status launch_clusters(dim3 cluster, void (*kernel)(Parameters...), dim3 grid, unsigned threads,
                       std::size_t shared, Stream stream, Args&&... args) {
  constexpr unsigned kMost = 65535;  // blocks above one another
  if (grid.y > kMost || grid.z > kMost) return Status::kBadArgument;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  cudaLaunchAttribute attributes[2] = {};
  config.attrs = attributes;
  if (overlaps_launches()) {
    cudaLaunchAttribute& overlap = attributes[config.numAttrs++];
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster.x * cluster.y * cluster.z > 1) {
    cudaLaunchAttribute& together = attributes[config.numAttrs++];
    together.id = cudaLaunchAttributeClusterDimension;
    together.val.clusterDim = {cluster.x, cluster.y, cluster.z};
  }
  return status_of(
      cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(std::forward<Args>(args))...));
}

/// The same without clusters.
template <class... Parameters, class... Args>
Status launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, std::size_t shared,
              Stream stream, Args&&... args) {
  return launch_clusters(dim3(), kernel, grid, threads, shared, stream,
                         std::forward<Args>(args)...);
}

/// What a launch with <<<>>>, which overlaps nothing, came to.
inline Status launched() { return status_of(cudaGetLastError()); }

/// Lets `kernel` use this much dynamic shared memory; more than 48 KiB must be asked for. What is
/// allowed never shrinks: other threads launch the same kernel with more.
Status allow_shared(const void* kernel, std::size_t bytes);
template <class... Parameters>
Status allow_shared(void (*kernel)(Parameters...), std::size_t bytes) {
  return allow_shared(reinterpret_cast<const void*>(kernel), bytes);
}

}  // namespace kt::kernels::cuda
