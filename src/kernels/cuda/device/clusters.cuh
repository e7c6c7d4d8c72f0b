// Launches of clusters: blocks that run at the same time and see each other's shared memory, from
// compute capability 9 on. Thread rule: as status.h.
#pragma once
#include <cooperative_groups.h>

#include "kernels/cuda/device/launch.cuh"

namespace kt::kernels::cuda {

/// Whether the thread's device has clusters; those with overlapping launches do.
inline bool has_clusters() { return overlaps_launches(); }

/// Every thread of the cluster arrives, then waits until all have; what they wrote is seen.
__device__ inline void arrive_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cooperative_groups::this_cluster().barrier_arrive();
#endif
}
__device__ inline void wait_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cooperative_groups::this_cluster().barrier_wait();
#endif
}

/// Waits for all threads of the cluster without ordering what they wrote: the end of a kernel whose
/// blocks have read each other's shared memory.
__device__ inline void leave_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.relaxed;\nbarrier.cluster.wait;" ::: "memory");
#endif
}

/// Where the first block of the cluster has what `mine` is here, in shared memory.
template <class T>
__device__ T* of_first_block(T* mine) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return cooperative_groups::this_cluster().map_shared_rank(mine, 0);
#else
  return mine;
#endif
}

/// As launch(), `cluster` neighbouring blocks of the grid's x being a cluster. Needs
/// has_clusters().
template <class... Parameters, class... Args>
Status launch_clusters(void (*kernel)(Parameters...), dim3 grid, unsigned cluster, unsigned threads,
                       std::size_t shared, Stream stream, Args&&... args) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim.x = cluster;
  attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
  config.attrs = attributes;
  config.numAttrs = 2;
  return status_of(
      cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(std::forward<Args>(args))...));
}

}  // namespace kt::kernels::cuda
