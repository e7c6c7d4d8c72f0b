// Products of warpgroups, of compute capability 9.0 (sm_90a):
//
//   wgmma<N>       d[64, N] (+)= A[64, 16] · B[N, 16]ᵀ   A in registers, rows of B along k
//   wgmma_ss<N>    d[64, N] (+)= A[64, 16] · B[N, 16]ᵀ   both in shared memory, rows along k
//   wgmma_rs_t<N>  d[64, N] (+)= A[64, 16] · B[16, N]    A in registers, rows of B along n
//
// Warp w of four holds rows 16w … 16w + 15 of d and of A in registers, as mma_bf16() has them
// (numbers.cuh), d in blocks of 8 columns. What lies in shared memory is described by
// b_descriptor() or transposed_descriptor(). Source: PTX ISA, "Asynchronous Warpgroup Level Matrix
// Instructions". Thread rule: device code.
#pragma once
#include "kernels/cuda/device/hopper.cuh"

namespace kt::kernels::cuda::hopper {

#if KT_HOPPER()

/// Rows of 64 bf16 values in swizzle128() order; the next 16 values of k lie 32 bytes further.
__device__ inline std::uint64_t b_descriptor(std::uint32_t address) {
  constexpr std::uint64_t kEightRows = 1024 >> 4, kSwizzle128 = 1;
  return (address & 0x3ffffu) >> 4 | 1ull << 16 | kEightRows << 32 | kSwizzle128 << 62;
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

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until all but the last kPending groups are done.
template <int kPending>
__device__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
/// Keeps uses of acc behind the wait before this.
template <int kCount>
__device__ void wgmma_settle(float (&acc)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(acc[i])::"memory");
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
#define KT_REGISTERS_8(d, i)                                                                  \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define KT_REGISTERS_16(d, i) KT_REGISTERS_8(d, i), KT_REGISTERS_8(d, i + 8)
#define KT_REGISTERS_32(d, i)                                                \
  KT_REGISTERS_8(d, i), KT_REGISTERS_8(d, i + 8), KT_REGISTERS_8(d, i + 16), \
      KT_REGISTERS_8(d, i + 24)
#define KT_REGISTERS_64(d, i) KT_REGISTERS_32(d, i), KT_REGISTERS_32(d, i + 32)
#define KT_REGISTERS_128(d, i) KT_REGISTERS_64(d, i), KT_REGISTERS_64(d, i + 64)
#define KT_WGMMA_RS(n, names, registers, a_names, b_name, flag_name)                   \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " flag_name                           \
               ", 0;\nwgmma.mma_async.sync.aligned.m64n" n "k16.f32.bf16.bf16 {" names \
               "}, {" a_names "}, " b_name ", p, 1, 1, 0;\n}"                          \
               : registers                                                             \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate))
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
__device__ inline void wgmma(float (&d)[kN / 2], const std::uint32_t (&a)[4], std::uint64_t b,
                             int accumulate) {
  if constexpr (kN == 32) {
    KT_WGMMA_RS("32", KT_NAMES_16, KT_REGISTERS_16(d, 0), "%16,%17,%18,%19", "%20", "%21");
  } else if constexpr (kN == 64) {
    KT_WGMMA_RS("64", KT_NAMES_32, KT_REGISTERS_32(d, 0), "%32,%33,%34,%35", "%36", "%37");
  } else if constexpr (kN == 128) {
    KT_WGMMA_RS("128", KT_NAMES_64, KT_REGISTERS_64(d, 0), "%64,%65,%66,%67", "%68", "%69");
  } else {
    static_assert(kN == 256);
    KT_WGMMA_RS("256", KT_NAMES_128, KT_REGISTERS_128(d, 0), "%128,%129,%130,%131", "%132", "%133");
  }
}

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

#undef KT_NAMES_16
#undef KT_NAMES_32
#undef KT_NAMES_64
#undef KT_NAMES_128
#undef KT_REGISTERS_8
#undef KT_REGISTERS_16
#undef KT_REGISTERS_32
#undef KT_REGISTERS_64
#undef KT_REGISTERS_128
#undef KT_WGMMA_RS
#undef KT_WGMMA_SS
#undef KT_WGMMA_RS_T

#endif

}  // namespace kt::kernels::cuda::hopper
