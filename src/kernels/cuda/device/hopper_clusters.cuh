// Hopper's instructions (device/hopper.cuh) between blocks of a cluster: addresses of each other's
// shared memory, boxes of tensor maps that come to several blocks at once; and the store that turns
// fragments of products around. Thread rule: device code.
#pragma once
#include "kernels/cuda/device/wgmma.cuh"

namespace kt::kernels::cuda::hopper {

#ifdef KT_HOPPER

__device__ inline int cluster_rank() {
  int rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
/// Every thread of every block of the cluster arrives and waits; what they wrote is seen.
__device__ inline void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
/// Where block `rank` has what this block has at `address`, a shared_address().
__device__ inline std::uint32_t in_block(std::uint32_t address, int rank) {
  std::uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
/// barrier_arrive() and a store, at addresses of in_block().
__device__ inline void barrier_arrive_there(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void store_there(std::uint32_t to, float a, float b, float c, float d) {
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(to), "f"(a), "f"(b),
               "f"(c), "f"(d)
               : "memory");
}

/// copy_box() to the same place of all blocks whose bits `blocks` has; the bytes arrive at the same
/// barrier of each.
__device__ inline void copy_box_to(std::uint32_t blocks, std::uint32_t to, const CUtensorMap* map,
                                   std::uint32_t barrier, int x, int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(to),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z), "h"(static_cast<std::uint16_t>(blocks))
      : "memory");
}

/// Four fragments of 8 × 8 values of 16 bits, transposed: lane 8i + r gives the address of 16 bytes
/// for column r of fragment i.
__device__ inline void store_transposed(std::uint32_t to, const std::uint32_t (&v)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
               "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
               : "memory");
}

__device__ inline uint4 load_shared(std::uint32_t from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from)
               : "memory");
  return v;
}

#endif

}  // namespace kt::kernels::cuda::hopper
