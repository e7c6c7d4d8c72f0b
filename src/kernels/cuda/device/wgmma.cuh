// More of Hopper's instructions (device/hopper.cuh), for attention: boxes of tensor maps, barriers
// of some warps, shared memory of a cluster's other blocks, products with both operands in shared
// memory and with a transposed one.
//
//   wgmma_ss<N>    d[64, N] (+)= A[64, 16] · B[N, 16]ᵀ   both in shared memory, rows along k
//   wgmma_rs_t<N>  d[64, N]  += A[64, 16] · B[16, N]     A in registers, rows of B along n
//
// Tiles are blocks of 64 columns, rows of 128 bytes in swizzle128() order, as copy_box() writes
// them. d and registers of A as mma_bf16() has them (numbers.cuh). Source: PTX ISA, "Asynchronous
// Warpgroup Level Matrix Instructions". Thread rule: device code.
#pragma once
#include <cuda.h>

#include "kernels/cuda/device/hopper.cuh"

namespace kt::kernels::cuda::hopper {

inline constexpr int kWarpgroup = 128;  // threads

#ifdef KT_HOPPER

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

/// Which of the blocks of its cluster this one is, and of how many.
__device__ inline int cluster_rank() {
  int rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
__device__ inline int cluster_size() {
  int size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}
/// Where block `rank` of the cluster has what `address` is in this one's shared memory.
__device__ inline std::uint32_t of_block(std::uint32_t address, int rank) {
  std::uint32_t there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}
__device__ inline float2 load_remote_2(std::uint32_t from) {
  float2 v;
  asm volatile("ld.shared::cluster.v2.f32 {%0, %1}, [%2];"
               : "=f"(v.x), "=f"(v.y)
               : "r"(from)
               : "memory");
  return v;
}
__device__ inline float4 load_remote_4(std::uint32_t from) {
  float4 v;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "r"(from)
               : "memory");
  return v;
}

/// Rows along n: `lead` bytes from a block of 64 columns to the next; 16 rows further lie 2048
/// bytes.
__device__ inline std::uint64_t transposed_descriptor(std::uint32_t address, std::uint32_t lead) {
  return (b_descriptor(address) & ~0xffff0000ull) | std::uint64_t{lead >> 4} << 16;
}

/// Keeps the compiler from computing all that follows from a descriptor outside of a loop, where it
/// would need registers for every step.
__device__ inline std::uint64_t here(std::uint64_t descriptor) {
  asm volatile("" : "+l"(descriptor));
  return descriptor;
}
#define KT_NAMES_32                                       \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15" \
  ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define KT_NAMES_64                                                  \
  KT_NAMES_32                                                        \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47" \
  ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define KT_NAMES_128                                                             \
  KT_NAMES_64                                                                    \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"             \
  ",%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"             \
  ",%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111" \
  ",%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define KT_REGISTERS_8(d, i)                                                                  \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define KT_REGISTERS_32(d, i)                                                \
  KT_REGISTERS_8(d, i), KT_REGISTERS_8(d, i + 8), KT_REGISTERS_8(d, i + 16), \
      KT_REGISTERS_8(d, i + 24)
#define KT_REGISTERS_64(d, i) KT_REGISTERS_32(d, i), KT_REGISTERS_32(d, i + 32)
#define KT_REGISTERS_128(d, i) KT_REGISTERS_64(d, i), KT_REGISTERS_64(d, i + 64)
#define KT_WGMMA_SS(n, names, registers, a_name, b_name, flag_name)                    \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " flag_name                           \
               ", 0;\nwgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" names \
               "}, " a_name ", " b_name ", p, 1, 1, 0, 0;\n}"                          \
               : registers                                                             \
               : "l"(a), "l"(b), "r"(accumulate))
#define KT_WGMMA_RS_T(n, names, registers, a_names, b_name, flag_name)                 \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " flag_name                           \
               ", 0;\nwgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" names \
               "}, {" a_names "}, " b_name ", p, 1, 1, 1;\n}"                          \
               : registers                                                             \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate))

/// accumulate 0: d is written, else added to.
template <int kN>
__device__ inline void wgmma_ss(float (&d)[kN / 2], std::uint64_t a, std::uint64_t b,
                                int accumulate) {
  if constexpr (kN == 64) {
    KT_WGMMA_SS("64", KT_NAMES_32, KT_REGISTERS_32(d, 0), "%32", "%33", "%34");
  } else {
    static_assert(kN == 128);
    KT_WGMMA_SS("128", KT_NAMES_64, KT_REGISTERS_64(d, 0), "%64", "%65", "%66");
  }
}

template <int kN>
__device__ inline void wgmma_rs_t(float (&d)[kN / 2], const std::uint32_t (&a)[4], std::uint64_t b,
                                  int accumulate) {
  if constexpr (kN == 64) {
    KT_WGMMA_RS_T("64", KT_NAMES_32, KT_REGISTERS_32(d, 0), "%32,%33,%34,%35", "%36", "%37");
  } else if constexpr (kN == 128) {
    KT_WGMMA_RS_T("128", KT_NAMES_64, KT_REGISTERS_64(d, 0), "%64,%65,%66,%67", "%68", "%69");
  } else {
    static_assert(kN == 256);
    KT_WGMMA_RS_T("256", KT_NAMES_128, KT_REGISTERS_128(d, 0), "%128,%129,%130,%131", "%132",
                  "%133");
  }
}

#undef KT_NAMES_32
#undef KT_NAMES_64
#undef KT_NAMES_128
#undef KT_REGISTERS_8
#undef KT_REGISTERS_32
#undef KT_REGISTERS_64
#undef KT_REGISTERS_128
#undef KT_WGMMA_SS
#undef KT_WGMMA_RS_T

#endif

}  // namespace kt::kernels::cuda::hopper
