// Instructions of compute capability 9.0 (sm_90a) but products (wgmma.cuh) and what is between
// blocks (clusters.cuh): barriers in shared memory and of some warps, copies that complete on
// barriers, registers moved between warpgroups.
//
// Tiles are blocks of 64 columns, rows of 128 bytes in swizzle128() order, as copy_box() writes
// them. Source: PTX ISA. Thread rule: device code.
#pragma once
#include <cuda.h>

#include <cstdint>

// Whether what follows is compiled for sm_90a. With the brackets, a file that does not include this
// one does not compile, instead of losing its kernels.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define KT_HOPPER() 1
#else
#define KT_HOPPER() 0
#endif

namespace kt::kernels::cuda::hopper {

inline constexpr int kWarpgroup = 128;  // threads

#if KT_HOPPER()

__device__ inline std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

__device__ inline void barrier_init(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}
__device__ inline void barrier_arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/// Arrives, and lets the phase wait for so many bytes of copy_bulk() too.
__device__ inline void barrier_expect(std::uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
/// Arrives once the thread's copy_16()s so far are done; counts among the barrier's arrivals.
__device__ inline void barrier_arrive_copied(std::uint32_t barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void barrier_wait(std::uint32_t barrier, std::uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

/// After barrier_init(), before a barrier of the block.
__device__ inline void fence_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
/// Named barriers 1 to 15, of `threads` threads.
__device__ inline void sync_some(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ inline void arrive_some(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// 16 bytes of device memory, or zeros.
__device__ inline void copy_16(std::uint32_t to, const void* from, bool zero) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(zero ? 0 : 16)
               : "memory");
}
/// Multiples of 16 bytes, aligned to 16.
__device__ inline void copy_bulk(std::uint32_t to, const void* from, int bytes,
                                 std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
/// The box of a tensor map that begins at (x, y, z), x in elements; its bytes arrive at `barrier`.
__device__ inline void copy_box(std::uint32_t to, const CUtensorMap* map, std::uint32_t barrier,
                                int x, int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4, %5}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
      : "memory");
}
/// Multiples of 16 bytes, aligned to 16, to L2.
__device__ inline void prefetch_bulk(const void* from, int bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
__device__ inline void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
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
/// What was written to shared memory before is seen by products and bulk copies after it.
__device__ inline void fence_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

template <int kRegisters>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// Byte `at` of a row of 128 bytes, row `row` of a piece aligned to 1024.
__device__ inline std::uint32_t swizzle128(std::uint32_t row, std::uint32_t at) {
  return row * 128 + (at ^ (row % 8 * 16));
}

/// Four fragments of 8 × 8 values of 16 bits, transposed: lane 8i + r gives the address of 16 bytes
/// for column r of fragment i.
__device__ inline void store_transposed(std::uint32_t to, const std::uint32_t (&v)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to),
               "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3])
               : "memory");
}
__device__ inline float4 load_shared(std::uint32_t from) {
  float4 v;
  asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(from)
               : "memory");
  return v;
}

#endif

}  // namespace kt::kernels::cuda::hopper
