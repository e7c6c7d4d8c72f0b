// Instructions of compute capability 9.0 (sm_90a): products of warpgroups, barriers in shared
// memory, copies that complete on them, registers moved between warpgroups.
//
//   wgmma<N>: acc[64, N] (+)= a[64, 16] · b[N, 16]ᵀ;  warp w of four holds rows 16w … 16w + 15 of a
//   and acc as mma_bf16() has them (numbers.cuh), acc in blocks of 8 columns; b lies in shared
//   memory, rows of 128 bytes in swizzle128() order, described by b_descriptor().
//
// Source: PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions". Thread rule: device code.
#pragma once
#include <cstdint>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define KT_HOPPER 1
#endif

namespace kt::kernels::cuda::hopper {

#ifdef KT_HOPPER

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
/// Rows of 64 bf16 values in swizzle128() order; the next 16 values of k lie 32 bytes further.
__device__ inline std::uint64_t b_descriptor(std::uint32_t address) {
  constexpr std::uint64_t kEightRows = 1024 >> 4, kSwizzle128 = 1;
  return (address & 0x3ffffu) >> 4 | 1ull << 16 | kEightRows << 32 | kSwizzle128 << 62;
}

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until all but the last kPending groups are done.
template <int kPending>
__device__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

#define KT_NAMES_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define KT_NAMES_32 \
  KT_NAMES_16       \
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
#define KT_ACC4(i) "+f"(acc[i]), "+f"(acc[i + 1]), "+f"(acc[i + 2]), "+f"(acc[i + 3])
#define KT_ACC16(i) KT_ACC4(i), KT_ACC4(i + 4), KT_ACC4(i + 8), KT_ACC4(i + 12)
#define KT_ACC32(i) KT_ACC16(i), KT_ACC16(i + 16)
#define KT_WGMMA(n, names, a0, a1, a2, a3, b_name, flag, ...)                                    \
  asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, " flag                        \
               ", 0;\nwgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" names "}, {" a0 \
               "," a1 "," a2 "," a3 "}, " b_name ", accumulate, 1, 1, 0;\n}"                     \
               : __VA_ARGS__                                                                     \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate))

/// accumulate 0: acc is written, else added to.
template <int kN>
__device__ void wgmma(float (&acc)[kN / 2], const std::uint32_t (&a)[4], std::uint64_t b,
                      int accumulate) {
  if constexpr (kN == 32) {
    KT_WGMMA("32", KT_NAMES_16, "%16", "%17", "%18", "%19", "%20", "%21", KT_ACC16(0));
  } else if constexpr (kN == 64) {
    KT_WGMMA("64", KT_NAMES_32, "%32", "%33", "%34", "%35", "%36", "%37", KT_ACC32(0));
  } else if constexpr (kN == 128) {
    KT_WGMMA("128", KT_NAMES_64, "%64", "%65", "%66", "%67", "%68", "%69", KT_ACC32(0),
             KT_ACC32(32));
  } else {
    static_assert(kN == 256);
    KT_WGMMA("256", KT_NAMES_128, "%128", "%129", "%130", "%131", "%132", "%133", KT_ACC32(0),
             KT_ACC32(32), KT_ACC32(64), KT_ACC32(96));
  }
}
/// Keeps uses of acc behind the wait before this.
template <int kCount>
__device__ void wgmma_settle(float (&acc)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(acc[i])::"memory");
}
#undef KT_WGMMA
#undef KT_ACC32
#undef KT_ACC16
#undef KT_ACC4
#undef KT_NAMES_128
#undef KT_NAMES_64
#undef KT_NAMES_32
#undef KT_NAMES_16

#endif

}  // namespace kt::kernels::cuda::hopper
