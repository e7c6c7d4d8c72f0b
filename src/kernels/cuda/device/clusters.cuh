// Clusters of blocks, of compute capability 9: blocks that run at the same time and see each
// other's shared memory. launch_clusters() of launch.cuh launches them. Source: PTX ISA. Thread
// rule: device code.
#pragma once
#include <cstdint>

#include "kernels/cuda/device/launch.cuh"

namespace kt::kernels::cuda {

/// Whether the thread's device has clusters; those with overlapping launches do.
inline bool has_clusters() { return overlaps_launches(); }

/// How many clusters of that many blocks the thread's device runs at once: each lies in one group
/// of multiprocessors, some of which are off. 0: none, or CUDA does not say.
template <class... Parameters>
int most_clusters(void (*kernel)(Parameters...), dim3 cluster, unsigned threads,
                  std::size_t shared) {
  if (!has_clusters() || allow_shared(kernel, shared) != Status::kOk) return 0;
  cudaLaunchAttribute size = {};
  size.id = cudaLaunchAttributeClusterDimension;
  size.val.clusterDim = {cluster.x, cluster.y, cluster.z};
  cudaLaunchConfig_t config = {};
  config.gridDim = cluster;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.attrs = &size;
  config.numAttrs = 1;
  int n = 0;
  const Status asked = status_of(cudaOccupancyMaxActiveClusters(&n, kernel, &config));
  return asked == Status::kOk ? n : 0;
}

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define KT_CLUSTERS 1
#endif

/// Every thread of the cluster arrives, then waits until all have; what they wrote is seen.
__device__ inline void arrive_cluster() {
#ifdef KT_CLUSTERS
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}
__device__ inline void wait_cluster() {
#ifdef KT_CLUSTERS
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}
__device__ inline void sync_cluster() {
  arrive_cluster();
  wait_cluster();
}
/// Waits for all threads of the cluster without ordering what they wrote: the end of a kernel whose
/// blocks have read each other's shared memory.
__device__ inline void leave_cluster() {
#ifdef KT_CLUSTERS
  asm volatile("barrier.cluster.arrive.relaxed;\nbarrier.cluster.wait;" ::: "memory");
#endif
}

/// Which of the blocks of its cluster this one is, and of how many.
__device__ inline int cluster_rank() {
  int rank = 0;
#ifdef KT_CLUSTERS
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return rank;
}
__device__ inline int cluster_size() {
  int size = 1;
#ifdef KT_CLUSTERS
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
#endif
  return size;
}

/// Where block `rank` of the cluster has what this one has at an address of shared memory; for the
/// functions below, which take no other.
__device__ inline std::uint32_t in_block(std::uint32_t address, int rank) {
#ifdef KT_CLUSTERS
  asm("mapa.shared::cluster.u32 %0, %0, %1;" : "+r"(address) : "r"(rank));
#endif
  return address;
}
template <class T>
__device__ std::uint32_t in_block(T* mine, int rank) {
  return in_block(static_cast<std::uint32_t>(__cvta_generic_to_shared(mine)), rank);
}

__device__ inline void store_there(std::uint32_t to, float v) {
#ifdef KT_CLUSTERS
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(to), "f"(v) : "memory");
#endif
}
__device__ inline void store_there(std::uint32_t to, const float4& v) {
#ifdef KT_CLUSTERS
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(v.x), "f"(v.y),
               "f"(v.z), "f"(v.w)
               : "memory");
#endif
}
__device__ inline float2 load_there_2(std::uint32_t from) {
  float2 v = {};
#ifdef KT_CLUSTERS
  asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];"
               : "=f"(v.x), "=f"(v.y)
               : "r"(from)
               : "memory");
#endif
  return v;
}
__device__ inline float4 load_there_4(std::uint32_t from) {
  float4 v = {};
#ifdef KT_CLUSTERS
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(from)
               : "memory");
#endif
  return v;
}
/// At a barrier of another block, as barrier_arrive() (hopper.cuh).
__device__ inline void arrive_there(std::uint32_t barrier) {
#ifdef KT_CLUSTERS
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
#endif
}

}  // namespace kt::kernels::cuda
