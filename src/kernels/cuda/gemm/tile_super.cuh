// Tiles of the super-block formats, 256 k each: Q2_K … Q6_K and IQ4_XS. Included by tile.cuh, whose
// description of tiles holds here. Scales are kept so that lane t of four reads only what it
// decodes; the fp16 factors of the super-block are spread over the four where that keeps the loads
// whole. Thread rule: device code, pure.
#pragma once
#include "kernels/cuda/gemm/tile.cuh"

namespace kt::kernels::cuda {

/// The four top bytes of a quad's words as one word; all four lanes get it.
__device__ inline std::uint32_t gather_top_bytes(std::uint32_t word, int lane) {
  std::uint32_t v = word >> 24 << (8 * (lane % 4));
  v |= __shfl_xor_sync(~0u, v, 1);
  return v | __shfl_xor_sync(~0u, v, 2);
}

template <class Codes>
struct SuperTile : Plus128 {
  static constexpr int kK = 256, kBlock = 256;
  static constexpr int kCodeBytes = Codes::kBytes;
};

/// Scales of Q4_K and Q5_K: word (row, t) = sc and m of groups 2t and 2t + 1, 6 bits each, and byte
/// t of (d, dmin).
struct K4Scales : LaneNumbers<std::uint32_t> {
  __device__ void decode(int lane, LaneScales<2>& out, MinCodes& mins) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::uint32_t both = gather_top_bytes(w[h], lane);
      const float d = half_bits(both & 0xffffu);
#pragma unroll
      for (int i = 0; i < 2; ++i) out.a[h][i] = d * masked_int(w[h] >> (12 * i), 63u);
      // 128 + m, less 128.
      const std::uint32_t pair = (w[h] >> 6 & 63u) | (w[h] >> 2 & 63u << 16);
      mins.pair[h] = fma_bf16(pair | 0x43004300u, 0x3f803f80u, 0xc300c300u);
      mins.factor[h] = -half_bits(both >> 16);
    }
  }
  __device__ void decode(int lane, LaneScales<2>& out) const {
    MinCodes mins;
    decode(lane, out, mins);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
        out.min[h][i] = mins.factor[h] * masked_int(w[h] >> (12 * i + 6), 63u);
    }
  }
  /// `packed`: the 12 bytes of the file (formats::unpack_scales_k4).
  __device__ static void store(Byte* base, int row, int t, const Byte* block) {
    std::uint32_t w = 0;
    if (block != nullptr) {
      const Byte* packed = block + 4;
      for (int i = 0; i < 2; ++i) {
        const int j = 2 * t + i;
        const std::uint32_t sc =
            j < 4 ? packed[j] & 63u : (packed[j + 4] & 15u) | (packed[j - 4] >> 2 & 0x30u);
        const std::uint32_t m =
            j < 4 ? packed[j + 4] & 63u : packed[j + 4] >> 4 | (packed[j] >> 2 & 0x30u);
        w |= (sc | m << 6) << (12 * i);
      }
      w |= static_cast<std::uint32_t>(block[t]) << 24;
    }
    at<std::uint32_t>(base, row * 4 + t) = w;
  }
};

template <class Codes>
struct TileK4 : SuperTile<Codes> {
  static constexpr int kGroup = 32;
  static constexpr float kOffset = 128.0f;
  static constexpr bool kHasMin = true;
  using Raw = RawTile<Codes, K4Scales>;
  static constexpr int kBytes = Codes::kBytes + K4Scales::kBytes;
  static constexpr bool kMinCodes = true;
  __device__ static void scales(const Raw& raw, int lane, LaneScales<2>& out) {
    raw.scales.decode(lane, out);
  }
  __device__ static void scales(const Raw& raw, int lane, LaneScales<2>& out, MinCodes& mins) {
    raw.scales.decode(lane, out, mins);
  }
  template <class Block>
  __device__ static void store_scales(Byte* base, int row, int t, Block&& block) {
    K4Scales::store(base, row, t, block(0));
  }
};

struct TileQ4_K : TileK4<Nibbles<8>> {
  static constexpr int kBlockBytes = sizeof(formats::BlockQ4_K);
  __device__ static std::uint32_t code(const Byte* block, int j) {
    const Byte* qs = reinterpret_cast<const formats::BlockQ4_K*>(block)->qs;
    return (qs[j / 64 * 32 + j % 32] >> (j / 32 % 2 * 4)) & 15u;
  }
};

struct TileQ5_K : TileK4<SplitCodes<8, 1>> {
  static constexpr int kBlockBytes = sizeof(formats::BlockQ5_K);
  __device__ static std::uint32_t code(const Byte* block, int j) {
    const auto* b = reinterpret_cast<const formats::BlockQ5_K*>(block);
    const std::uint32_t low = (b->qs[j / 64 * 32 + j % 32] >> (j / 32 % 2 * 4)) & 15u;
    return low | (b->qh[j % 32] >> (j / 32) & 1u) << 4;
  }
};

/// Word (row, t) = the scales of groups 4t … 4t + 3; then the fp16 factors of the rows, kNumbers
/// each.
template <int kNumbers>
struct ByteScales {
  std::uint32_t w[2], d[2];
  static constexpr int kBytes = 16 * (16 + 2 * kNumbers);
  template <Space kFrom>
  __device__ void load(const Byte* base, int lane) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = lane / 4 + 8 * h;
      w[h] = read<std::uint32_t, kFrom>(base, row * 4 + lane % 4);
      if constexpr (kNumbers == 1) {
        d[h] = read<std::uint16_t, kFrom>(base + 256, row);
      } else {
        d[h] = read<std::uint32_t, kFrom>(base + 256, row);
      }
    }
  }
  __device__ static void store(Byte* base, int row, int t, const Byte* scales,
                               const Byte* factors) {
    at<std::uint32_t>(base, row * 4 + t) = scales == nullptr ? 0 : u32_at(scales + 4 * t);
    if (t != 0) return;
    if constexpr (kNumbers == 1) {
      at<std::uint16_t>(base + 256, row) =
          static_cast<std::uint16_t>(factors == nullptr ? 0 : u16_at(factors));
    } else {
      at<std::uint32_t>(base + 256, row) = factors == nullptr ? 0 : u32_at(factors);
    }
  }
};

struct TileQ6_K : SuperTile<SplitCodes<8, 2>> {
  static constexpr int kGroup = 16, kBlockBytes = sizeof(formats::BlockQ6_K);
  static constexpr float kOffset = 128.0f + 32.0f;
  static constexpr bool kHasMin = false;
  using Raw = RawTile<SplitCodes<8, 2>, ByteScales<1>>;
  static constexpr int kBytes = kCodeBytes + ByteScales<1>::kBytes;
  __device__ static void scales(const Raw& raw, int, LaneScales<4>& out) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float d = half_bits(raw.scales.d[h]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        // Signed bytes, as numbers that are not negative less 128.
        const std::uint32_t sc = (raw.scales.w[h] ^ 0x80808080u) >> (8 * i) & 255u;
        out.a[h][i] = d * (small_int(sc) - 128.0f);
        out.min[h][i] = 0.0f;
      }
    }
  }
  __device__ static std::uint32_t code(const Byte* block, int j) {
    const auto* b = reinterpret_cast<const formats::BlockQ6_K*>(block);
    const int half = j / 128, v = j % 128;
    const std::uint32_t low = (b->ql[64 * half + v % 64] >> (v / 64 * 4)) & 15u;
    return low | (b->qh[32 * half + v % 32] >> (v / 32 * 2) & 3u) << 4;
  }
  template <class Block>
  __device__ static void store_scales(Byte* base, int row, int t, Block&& block) {
    const Byte* b = block(0);
    ByteScales<1>::store(base, row, t, b == nullptr ? nullptr : b + 192,
                         b == nullptr ? nullptr : b + 208);
  }
};

struct TileQ2_K : SuperTile<HighBits<8, 2>> {
  static constexpr int kGroup = 16, kBlockBytes = sizeof(formats::BlockQ2_K);
  static constexpr float kOffset = 128.0f;
  static constexpr bool kHasMin = true;
  struct Codes : HighBits<8, 2> {
    template <class Code>
    __device__ void fill(Code&& code) {
      HighBits<8, 2>::fill(code, 0);
    }
  };
  using Raw = RawTile<Codes, ByteScales<2>>;
  static constexpr int kBytes = kCodeBytes + ByteScales<2>::kBytes;
  __device__ static void scales(const Raw& raw, int, LaneScales<4>& out) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float d = half_bits(raw.scales.d[h] & 0xffffu), dmin = half_bits(raw.scales.d[h] >> 16);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        out.a[h][i] = d * small_int(raw.scales.w[h] >> (8 * i) & 15u);
        out.min[h][i] = -dmin * small_int(raw.scales.w[h] >> (8 * i + 4) & 15u);
      }
    }
  }
  __device__ static std::uint32_t plane(const Raw& raw, int h, int s, int p, int,
                                        const std::uint32_t*) {
    return plus128(raw.codes.pair(h, s, p, 0));
  }
  __device__ static std::uint32_t code(const Byte* block, int j) {
    const auto* b = reinterpret_cast<const formats::BlockQ2_K*>(block);
    return (b->qs[32 * (j / 128) + j % 32] >> (2 * (j % 128 / 32))) & 3u;
  }
  template <class Block>
  __device__ static void store_scales(Byte* base, int row, int t, Block&& block) {
    const Byte* b = block(0);
    ByteScales<2>::store(base, row, t, b, b == nullptr ? nullptr : b + 80);
  }
};

struct TileQ3_K : SuperTile<HighBits<8, 2>> {
  static constexpr int kGroup = 16, kBlockBytes = sizeof(formats::BlockQ3_K);
  static constexpr float kOffset = 128.0f + 4.0f;
  static constexpr bool kHasMin = false;
  struct Codes {
    HighBits<8, 2> low;
    HighBits<8, 1> high;
    static constexpr int kBytes = HighBits<8, 2>::kBytes + HighBits<8, 1>::kBytes;
    template <Space kFrom>
    __device__ void load(const Byte* base, int lane) {
      low.template load<kFrom>(base, lane);
      high.template load<kFrom>(base + HighBits<8, 2>::kBytes, lane);
    }
    __device__ void store(Byte* base, int lane) const {
      low.store(base, lane);
      high.store(base + HighBits<8, 2>::kBytes, lane);
    }
    template <class Code>
    __device__ void fill(Code&& code) {
      low.fill(code, 0);
      high.fill(code, 2);
    }
  };
  /// Low 4 bits of groups 4t … 4t + 3 as 16 bits, their high 2 bits as a byte, the factor.
  struct Scales {
    std::uint32_t low[2], high[2], d[2];
    template <Space kFrom>
    __device__ void load(const Byte* base, int lane) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int row = lane / 4 + 8 * h;
        low[h] = read<std::uint16_t, kFrom>(base, row * 4 + lane % 4);
        high[h] = read<Byte, kFrom>(base + 128, row * 4 + lane % 4);
        d[h] = read<std::uint16_t, kFrom>(base + 192, row);
      }
    }
  };
  using Raw = RawTile<Codes, Scales>;
  static constexpr int kBytes = Codes::kBytes + 16 * 14;
  __device__ static void scales(const Raw& raw, int, LaneScales<4>& out) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float d = half_bits(raw.scales.d[h]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const std::uint32_t sc =
            (raw.scales.low[h] >> (4 * i) & 15u) | (raw.scales.high[h] >> (2 * i) & 3u) << 4;
        out.a[h][i] = d * (small_int(sc) - 32.0f);
        out.min[h][i] = 0.0f;
      }
    }
  }
  __device__ static std::uint32_t plane(const Raw& raw, int h, int s, int p, int,
                                        const std::uint32_t*) {
    return plus128(raw.codes.low.pair(h, s, p, 0) | raw.codes.high.pair(h, s, p, 2));
  }
  __device__ static std::uint32_t code(const Byte* block, int j) {
    const auto* b = reinterpret_cast<const formats::BlockQ3_K*>(block);
    const std::uint32_t low = (b->qs[32 * (j / 128) + j % 32] >> (2 * (j % 128 / 32))) & 3u;
    return low | (b->hmask[j % 32] >> (j / 32) & 1u) << 2;
  }
  template <class Block>
  __device__ static void store_scales(Byte* base, int row, int t, Block&& block) {
    const Byte* b = block(0);
    std::uint32_t low = 0, high = 0;
    if (b != nullptr) {
      const Byte* packed = b + 96;  // formats::unpack_scales_q3_k
      for (int i = 0; i < 4; ++i) {
        const int j = 4 * t + i;
        low |= (j < 8 ? packed[j] & 15u : packed[j - 8] >> 4) << (4 * i);
        high |= (packed[8 + j % 4] >> (2 * (j / 4)) & 3u) << (2 * i);
      }
    }
    at<std::uint16_t>(base, row * 4 + t) = static_cast<std::uint16_t>(low);
    base[128 + row * 4 + t] = static_cast<Byte>(high);
    if (t == 0) {
      at<std::uint16_t>(base + 192, row) =
          static_cast<std::uint16_t>(b == nullptr ? 0 : u16_at(b + 108));
    }
  }
};

struct TileIQ4_XS : TableCodes, SuperTile<NibblePairs<8>> {
  using TableCodes::plane;
  static constexpr int kGroup = 32, kBlockBytes = sizeof(formats::BlockIQ4_XS);
  static constexpr float kOffset = 0.0f;
  static constexpr bool kHasMin = false;
  /// 16 bits (row, t): ls of groups 2t and 2t + 1, 6 bits each, and nibble t of d.
  using Scales = LaneNumbers<std::uint16_t>;
  using Raw = RawTile<NibblePairs<8>, Scales>;
  static constexpr int kBytes = kCodeBytes + Scales::kBytes;
  __device__ static void scales(const Raw& raw, int lane, LaneScales<2>& out) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      std::uint32_t bits = raw.scales.w[h] >> 12 << (4 * (lane % 4));
      bits |= __shfl_xor_sync(~0u, bits, 1);
      bits |= __shfl_xor_sync(~0u, bits, 2);
      const float d = half_bits(bits);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        out.a[h][i] = d * (small_int(raw.scales.w[h] >> (6 * i) & 63u) - 32.0f);
        out.min[h][i] = 0.0f;
      }
    }
  }
  __device__ static std::uint32_t code(const Byte* block, int j) {
    const Byte* qs = reinterpret_cast<const formats::BlockIQ4_XS*>(block)->qs + j / 32 * 16;
    return half_and_half(qs, j % 32);
  }
  template <class Block>
  __device__ static void store_scales(Byte* base, int row, int t, Block&& block) {
    const Byte* b = block(0);
    std::uint32_t w = 0;
    if (b != nullptr) {
      for (int i = 0; i < 2; ++i) {
        const int s = 2 * t + i;
        const std::uint32_t low = b[4 + s / 2] >> (4 * (s % 2)) & 15u;
        w |= (low | (u16_at(b + 2) >> (2 * s) & 3u) << 4) << (6 * i);
      }
      w |= (u16_at(b) >> (4 * t) & 15u) << 12;
    }
    at<std::uint16_t>(base, row * 4 + t) = static_cast<std::uint16_t>(w);
  }
};

}  // namespace kt::kernels::cuda
