// Weights of products of many rows (many_rows.cuh): from codes in shared memory to the operand of
// wgmma in registers, which is that of mma_bf16() (numbers.cuh).
//
// The tiles' order (tile.cuh) is that but for pairs of values that lie in other lanes of the same
// four: a lane reads the words of two and merges their fields.
//
// Decoding is in bf16: (code - offset) is exact, the scale and the minimum are rounded to bf16 and
// so is their sum, 2^-9 of each; codes are counted from their middle, which keeps minima small.
// Thread rule: device code, called by whole warps.
#pragma once
#include <type_traits>

#include "kernels/cuda/gemm/multiply.cuh"

namespace kt::kernels::cuda::many {

template <class T>
constexpr float middle() {
  return T::kHasMin ? 8.0f : 0.0f;
}
constexpr std::uint32_t both_bf16(float v) {
  const auto bits = __builtin_bit_cast(std::uint32_t, v) >> 16;
  return bits | bits << 16;
}
__device__ inline std::uint32_t add_bf16(std::uint32_t a, std::uint32_t b) {
  std::uint32_t out;
  asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(out) : "r"(a), "r"(b));
  return out;
}

/// Words of two lanes' codes as one of the order of k: its pairs 2j and 2j + 1, fields of kBits,
/// are the values {2t, 2t+1} and {2t+8, 2t+9} of product j, which lanes t/2 and 2 + t/2 of the quad
/// have.
template <int kBits>
__device__ std::uint32_t in_order(std::uint32_t a, std::uint32_t b, int lane) {
  constexpr std::uint32_t kEven = ~0u / ((1u << kBits) + 1);
  const int odd = lane % 2 * kBits;
  return (a >> odd & kEven) | (b << (kBits - odd) & ~kEven);
}
__device__ inline int first_lane(int lane) { return lane - lane % 4 + lane % 4 / 2; }

/// Four words at `base`, 16 bytes to a lane.
template <int kBits>
__device__ void load_quad_words(std::uint32_t* to, const Byte* base, int lane) {
  const auto* from = reinterpret_cast<const uint4*>(base) + first_lane(lane);
  const uint4 a = from[0], b = from[2];
  to[0] = in_order<kBits>(a.x, b.x, lane);
  to[1] = in_order<kBits>(a.y, b.y, lane);
  to[2] = in_order<kBits>(a.z, b.z, lane);
  to[3] = in_order<kBits>(a.w, b.w, lane);
  asm volatile("" ::: "memory");  // few such loads at a time: registers are full of sums
}

/// Codes of the 128 k number `unit` of a tile, in the order of k.
template <int kSubs>
__device__ void load_unit(Nibbles<4>& to, const Byte* tile, int unit, int lane,
                          const Nibbles<kSubs>*) {
#pragma unroll
  for (int h = 0; h < 2; ++h) load_quad_words<4>(to.w + 4 * h, tile + (2 * unit + h) * 512, lane);
}
__device__ inline void load_unit(Bytes<4>& to, const Byte* tile, int, int lane, const Bytes<4>*) {
#pragma unroll
  for (int i = 0; i < 4; ++i) load_quad_words<8>(to.w + 4 * i, tile + i * 512, lane);
}
template <int kSubs, int kBits>
__device__ void load_unit(SplitCodes<4, kBits>& to, const Byte* tile, int unit, int lane,
                          const SplitCodes<kSubs, kBits>*) {
  load_unit(to.low, tile, unit, lane, static_cast<const Nibbles<kSubs>*>(nullptr));
  using High = HighBits<kSubs, kBits>;
  const Byte* high = tile + Nibbles<kSubs>::kBytes;
  constexpr int kWords = 2 * kSubs * kBits / 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int i = 0; i < kBits; ++i) {
      const int word = High::index(h, 4 * unit) + i;
      const int first = kWords == 2 ? first_lane(lane) * 2 + word
                                    : (word / 4 * kWarp + first_lane(lane)) * 4 + word % 4;
      const auto* from = reinterpret_cast<const std::uint32_t*>(high) + first;
      to.high.w[h * kBits + i] = in_order<kBits>(from[0], from[kWords == 2 ? 4 : 8], lane);
    }
  }
}

template <class Codes>
struct FourSubs;
template <int kSubs>
struct FourSubs<Nibbles<kSubs>> {
  using Type = Nibbles<4>;
};
template <int kSubs>
struct FourSubs<Bytes<kSubs>> {
  using Type = Bytes<4>;
};
template <int kSubs, int kBits>
struct FourSubs<SplitCodes<kSubs, kBits>> {
  using Type = SplitCodes<4, kBits>;
};

/// What a lane keeps of a tile: codes of 128 k, and of the groups that it owns, for rows g and g +
/// 8, the scale and the minimum as bf16, or the scale twice.
template <class T>
struct Operand {
  using AllCodes = decltype(T::Raw::codes);
  static constexpr int kGroups = T::kK / T::kGroup, kOwned = owned_groups(T::kK, T::kGroup);
  struct Unit {
    typename FourSubs<AllCodes>::Type codes;
  };
  std::conditional_t<T::kK == 128, typename T::Raw, Unit> raw;
  std::uint32_t scales[2][kOwned];

  __device__ void load_codes(const Byte* tile, int unit, int lane) {
    load_unit(raw.codes, tile, unit, lane, static_cast<const AllCodes*>(nullptr));
  }
  /// `tile`: in shared memory.
  __device__ void load_scales(const Byte* tile, int lane) {
    typename T::Raw from;
    from.scales.template load<Space::kShared>(tile + sizeof(AllCodes) * kWarp, lane);
    LaneScales<kOwned> decoded;
    T::scales(from, lane, decoded);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int i = 0; i < kOwned; ++i) {
        const float a = decoded.a[h][i];
        scales[h][i] =
            T::kHasMin ? bf16_pair(a, decoded.min[h][i] + a * middle<T>()) : bf16_pair(a, a);
      }
    }
  }
  __device__ std::uint32_t scale(int h, int group, int lane) const {
    if constexpr (kGroups == 1) return scales[h][0];
    const int owner = kGroups >= 4 ? group / kOwned : group * (4 / kGroups);
    return __shfl_sync(~0u, scales[h][group % kOwned], (lane & ~3) | owner);
  }
  /// Pair p of the unit's sub-block s in row h, with its group's scale.
  __device__ std::uint32_t pair(int h, int s, int p, std::uint32_t scale) const {
    constexpr float kMiddle = T::kOffset + middle<T>();
    std::uint32_t v = T::plane(raw, h, s, p, 0, nullptr);
    if constexpr (T::kPlanes == 2) {
      // Sums of planes pass 256; the second less the offset does not.
      v = add_bf16(add_bf16(T::plane(raw, h, s, p, 1, nullptr), both_bf16(-kMiddle)), v);
    } else if constexpr (kMiddle != 0.0f) {
      v = add_bf16(v, both_bf16(-kMiddle));
    }
    if constexpr (T::kHasMin)
      return fma_bf16(v, __byte_perm(scale, 0, 0x1010), __byte_perm(scale, 0, 0x3232));
    return product_bf16(v, scale);
  }
};

}  // namespace kt::kernels::cuda::many
