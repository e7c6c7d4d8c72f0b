// A warp's tiles on their way from global to shared memory, kR at a time and kStages times as many
// in all, so that what is in flight depends neither on registers nor on how many warps there are.
//
// take() waits for the oldest and reads this lane's share of them; load() then asks for the next in
// their place. Every load() counts, also one of fewer tiles or of none. Thread rule: device code,
// called by whole warps.
#pragma once
#include "kernels/cuda/gemm/multiply.cuh"

namespace kt::kernels::cuda {

template <class T, int kR, int kStages>
class TileRing {
 public:
  static constexpr int kStageBytes = kR * T::kBytes;
  static constexpr int kBytes = kStages * kStageBytes;

  /// `memory`: kBytes of this warp, 16-byte aligned.
  __device__ explicit TileRing(Byte* memory) : memory_(memory) {}

  __device__ void load(int count, const Byte* const (&tiles)[kR]) {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int r = 0; r < kR; ++r) {
      if (r >= count) break;
#pragma unroll
      for (int i = 0; i < T::kBytes; i += 16 * kWarp) {
        if (i + 16 * kWarp <= T::kBytes || i + lane * 16 < T::kBytes) {
          copy_async<16>(memory_ + in_ + r * T::kBytes + i + lane * 16, tiles[r] + i + lane * 16);
        }
      }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    in_ = in_ + kStageBytes == kBytes ? 0 : in_ + kStageBytes;
  }

  __device__ void take(typename T::Raw (&raw)[kR]) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 1) : "memory");
    __syncwarp();
#pragma unroll
    for (int r = 0; r < kR; ++r)
      load_raw<T, Space::kShared>(raw[r], memory_ + out_ + r * T::kBytes, threadIdx.x % kWarp);
    __syncwarp();
    out_ = out_ + kStageBytes == kBytes ? 0 : out_ + kStageBytes;
  }

 private:
  Byte* memory_;
  int in_ = 0, out_ = 0;
};

}  // namespace kt::kernels::cuda
