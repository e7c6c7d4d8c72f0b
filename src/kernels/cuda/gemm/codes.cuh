// How the codes of a tile of 16 rows lie in memory and become tensor-core operands.
//
// A tile is kSubs sub-blocks of 32 k. Lane 4g + t of a warp owns, in rows g (half h = 0) and g + 8
// (h = 1), the values 4t … 4t+3 and 16+4t … 16+4t+3 of each sub-block: eight codes, four pairs;
// pairs 0 and 1 feed the first product of 16 k, pairs 2 and 3 the second. load() reads a lane's
// share with 16-byte loads (8 where it is no longer), a warp's together contiguous. pair() gives
// the codes of one pair, in the low bits of two halves; plus128() makes them bf16: a code c of up
// to 7 bits becomes 128 + c by placing its bits under the exponent, and wider ones are sums of
// several planes. Thread rule: device code, pure.
#pragma once
#include "kernels/cuda/device/numbers.cuh"

namespace kt::kernels::cuda {

/// Position in its sub-block of value i (0 … 7) of lane t.
__device__ constexpr int lane_value(int t, int i) { return i < 4 ? 4 * t + i : 12 + 4 * t + i; }

__device__ inline std::uint32_t shifted(std::uint32_t v, int right) {
  return right >= 0 ? v >> right : v << -right;
}

/// (bits & mask) | base in one instruction.
__device__ inline std::uint32_t mask_or(std::uint32_t bits, std::uint32_t mask,
                                        std::uint32_t base) {
  std::uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(bits), "r"(mask), "r"(base));
  return out;
}

/// The masked bits, an integer below 2^23, as a float.
__device__ inline float masked_int(std::uint32_t bits, std::uint32_t mask) {
  return __uint_as_float(mask_or(bits, mask, 0x4b000000u)) - 8388608.0f;
}

/// Where a tile lies that a lane reads its share of.
enum class Space { kGlobal, kShared };

template <class T, Space kFrom>
__device__ T read(const std::uint8_t* base, int i) {
  const T* from = reinterpret_cast<const T*>(base) + i;
  if constexpr (kFrom == Space::kShared) {
    return *from;
  } else if constexpr (sizeof(T) == 16) {
    return load_once(from);
  } else {
    return __ldg(from);
  }
}

/// Copies to shared memory while the thread goes on; 16 bytes past L1.
template <int kBytes>
__device__ void copy_async(void* to, const void* from) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(at), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(at), "l"(from), "n"(kBytes)
                 : "memory");
  }
}

template <int kWords>
struct LaneWords {
  static_assert(kWords == 2 || kWords % 4 == 0);
  static constexpr int kBytes = kWords * 4 * 32;
  std::uint32_t w[kWords];

  template <Space kFrom>
  __device__ void load(const std::uint8_t* base, int lane) {
    if constexpr (kWords == 2) {
      const uint2 v = read<uint2, kFrom>(base, lane);
      w[0] = v.x;
      w[1] = v.y;
    } else {
#pragma unroll
      for (int i = 0; i < kWords; i += 4) {
        const uint4 v = read<uint4, kFrom>(base, i / 4 * 32 + lane);
        w[i] = v.x;
        w[i + 1] = v.y;
        w[i + 2] = v.z;
        w[i + 3] = v.w;
      }
    }
  }

  __device__ void store(std::uint8_t* base, int lane) const {
    if constexpr (kWords == 2) {
      reinterpret_cast<uint2*>(base)[lane] = make_uint2(w[0], w[1]);
    } else {
#pragma unroll
      for (int i = 0; i < kWords; i += 4) {
        reinterpret_cast<uint4*>(base)[i / 4 * 32 + lane] =
            make_uint4(w[i], w[i + 1], w[i + 2], w[i + 3]);
      }
    }
  }
};

/// The low 4 bits: word (h, s), nibbles p and p + 4 are pair p.
template <int kSubs>
struct Nibbles : LaneWords<2 * kSubs> {
  __device__ std::uint32_t pair(int h, int s, int p) const {
    return shifted(this->w[index(h, s)], 4 * p) & 0x000f000fu;
  }
  /// The pair as bf16 128 + c.
  __device__ std::uint32_t pair_plus128(int h, int s, int p) const {
    return mask_or(shifted(this->w[index(h, s)], 4 * p), 0x000f000fu, 0x43004300u);
  }
  /// code(h, s, i) gives the code of value i.
  template <class Code>
  __device__ void fill(Code&& code) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int s = 0; s < kSubs; ++s) {
        std::uint32_t v = 0;
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          v |= (code(h, s, 2 * p) & 15u) << (4 * p);
          v |= (code(h, s, 2 * p + 1) & 15u) << (4 * p + 16);
        }
        this->w[index(h, s)] = v;
      }
    }
  }
  __device__ static constexpr int index(int h, int s) { return (s / 4 * 2 + h) * 4 + s % 4; }
};

/// 4 bits as for a table of pairs: byte p of word (h, s) is pair p.
template <int kSubs>
struct NibblePairs : LaneWords<2 * kSubs> {
  /// 128 times the pair's byte.
  __device__ std::uint32_t byte_times_128(int h, int s, int p) const {
    return shifted(this->w[Nibbles<kSubs>::index(h, s)], 8 * p - 7) & 0x7f80u;
  }
  template <class Code>
  __device__ void fill(Code&& code) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int s = 0; s < kSubs; ++s) {
        std::uint32_t v = 0;
#pragma unroll
        for (int i = 0; i < 8; ++i) v |= (code(h, s, i) & 15u) << (4 * i);
        this->w[Nibbles<kSubs>::index(h, s)] = v;
      }
    }
  }
};

/// kBits = 1 or 2 further bits of each code: a word holds several sub-blocks, the first value of a
/// pair in its low half and the second 16 bits above.
template <int kSubs, int kBits>
struct HighBits : LaneWords<2 * kSubs * kBits / 4> {
  static constexpr int kPerWord = 4 / kBits;  // sub-blocks

  /// The pair's bits, moved to bit `at` of each half.
  __device__ std::uint32_t pair(int h, int s, int p, int at) const {
    constexpr std::uint32_t mask = (1u << kBits) - 1;
    return shifted(this->w[index(h, s)], place(s, p) - at) & ((mask | mask << 16) << at);
  }
  template <class Code>
  __device__ void fill(Code&& code, int from_bit) {
#pragma unroll
    for (std::uint32_t& v : this->w) v = 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int s = 0; s < kSubs; ++s) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const std::uint32_t bits = (code(h, s, i) >> from_bit) & ((1u << kBits) - 1);
          this->w[index(h, s)] |= bits << (place(s, i / 2) + i % 2 * 16);
        }
      }
    }
  }
  __device__ static constexpr int index(int h, int s) {
    return h * (kSubs / kPerWord) + s / kPerWord;
  }
  __device__ static constexpr int place(int s, int p) { return (s % kPerWord * 4 + p) * kBits; }
};

/// Codes of 8 bits: two words for (h, s), one for each product; its pairs are bytes {0, 2} and {1,
/// 3}.
template <int kSubs>
struct Bytes : LaneWords<4 * kSubs> {
  /// The pair's codes in the low byte of each half.
  __device__ std::uint32_t pair(int h, int s, int p) const {
    return shifted(this->w[index(h, s, p / 2)], 8 * (p % 2)) & 0x00ff00ffu;
  }
  template <class Code>
  __device__ void fill(Code&& code) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int s = 0; s < kSubs; ++s) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          this->w[index(h, s, j)] =
              (code(h, s, 4 * j) & 255u) | (code(h, s, 4 * j + 2) & 255u) << 8 |
              (code(h, s, 4 * j + 1) & 255u) << 16 | (code(h, s, 4 * j + 3) & 255u) << 24;
        }
      }
    }
  }
  __device__ static constexpr int index(int h, int s, int j) { return (h * kSubs + s) * 2 + j; }
};

/// Codes of 16 bits: word (h, s, p) is pair p.
template <int kSubs>
struct Halves : LaneWords<8 * kSubs> {
  __device__ std::uint32_t pair(int h, int s, int p) const {
    return this->w[(h * kSubs + s) * 4 + p];
  }
  template <class Code>
  __device__ void fill(Code&& code) {
#pragma unroll
    for (int i = 0; i < 8 * kSubs; ++i) {
      const int h = i / 4 / kSubs, s = i / 4 % kSubs, p = i % 4;
      this->w[i] = (code(h, s, 2 * p) & 0xffffu) | code(h, s, 2 * p + 1) << 16;
    }
  }
};

/// Codes of 32 bits.
template <int kSubs>
struct Words : LaneWords<16 * kSubs> {
  __device__ std::uint32_t value(int h, int s, int i) const {
    return this->w[(h * kSubs + s) * 8 + i];
  }
  template <class Code>
  __device__ void fill(Code&& code) {
#pragma unroll
    for (int i = 0; i < 16 * kSubs; ++i) this->w[i] = code(i / 8 / kSubs, i / 8 % kSubs, i % 8);
  }
};

/// bf16 128 + c for each half's code c below 128.
__device__ inline std::uint32_t plus128(std::uint32_t pair) { return pair | 0x43004300u; }
/// bf16 2048 + 16 c for each half's code c below 16.
__device__ inline std::uint32_t plus2048(std::uint32_t pair) { return pair | 0x45004500u; }

/// a · b + c of both halves.
__device__ inline std::uint32_t fma_bf16(std::uint32_t a, std::uint32_t b, std::uint32_t c) {
  std::uint32_t out;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(a), "r"(b), "r"(c));
  return out;
}
/// Both halves times those of `factor`.
__device__ inline std::uint32_t product_bf16(std::uint32_t pair, std::uint32_t factor) {
  return fma_bf16(pair, factor, 0x80008000u);
}
/// Both halves times a power of two, in bf16 with subnormal inputs.
__device__ inline std::uint32_t times_bf16(std::uint32_t pair, std::uint32_t factor_bits) {
  return product_bf16(pair, factor_bits | factor_bits << 16);
}

}  // namespace kt::kernels::cuda
