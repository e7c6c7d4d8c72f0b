// The tiles of each weight format: 16 rows × kK values as codes (codes.cuh), then the scales of the
// 16 rows.
//
//   w = a · (c - kOffset) + min        c: sum of the planes that plane() gives, a and min: one per
//   kGroup values
//
// A tile description has: kK, kBytes, kGroup (0: codes are the values), kOffset, kHasMin, kPlanes;
// Raw, what a lane keeps of a tile; load(); scales(), which decodes the groups that the lane owns
// (lane t of four owns groups t·kOwned …, or all four hold the same when there are fewer than
// four); plane(); and for pack(): code(), which reads one code of a file block, store_scales(),
// kBlock and kBlockBytes, values and bytes of a file block; with kHasTable, entry(), the table that
// plane() gets; with kMinCodes, a scales() that gives minimums as MinCodes. Thread rule: device
// code, pure.
#pragma once
#include "formats/basic_quants.h"
#include "formats/checkpoint_quants.h"
#include "formats/fp4_quants.h"
#include "formats/iq4_quants.h"
#include "formats/k_quants.h"
#include "kernels/cuda/gemm/codes.cuh"

namespace kt::kernels::cuda {

using Byte = std::uint8_t;

__device__ inline std::uint32_t u16_at(const void* p) {
  const auto* b = static_cast<const Byte*>(p);
  return b[0] | static_cast<std::uint32_t>(b[1]) << 8;
}
__device__ inline std::uint32_t u32_at(const void* p) {
  return u16_at(p) | u16_at(static_cast<const Byte*>(p) + 2) << 16;
}
template <class T>
__device__ T& at(Byte* base, int i) {
  return reinterpret_cast<T*>(base)[i];
}

constexpr int owned_groups(int k, int group) {
  return group == 0 ? 1 : (k / group >= 4 ? k / group / 4 : 1);
}

/// The scales that one lane decoded: rows g and g + 8.
template <int kOwned>
struct LaneScales {
  float a[2][kOwned];
  float min[2][kOwned];
};

/// The minimums of the two groups that one lane owns as factor · code: of rows g and g + 8 the
/// codes as a pair of bf16 integers, and the factor.
struct MinCodes {
  std::uint32_t pair[2];
  float factor[2];
};

/// A number for each of 16 rows and each lane of four; a lane reads those of rows g and g + 8.
template <class T>
struct LaneNumbers {
  static constexpr int kBytes = 16 * 4 * sizeof(T);
  std::uint32_t w[2];
  template <Space kFrom>
  __device__ void load(const Byte* base, int lane) {
#pragma unroll
    for (int h = 0; h < 2; ++h) w[h] = read<T, kFrom>(base, (lane / 4 + 8 * h) * 4 + lane % 4);
  }
};

/// Codes of up to 7 bits in one plane, 128 + c.
struct Plus128 {
  static constexpr int kPlanes = 1;
  template <class Raw>
  __device__ static std::uint32_t plane(const Raw& raw, int h, int s, int p, int,
                                        const std::uint32_t*) {
    return raw.codes.pair_plus128(h, s, p);
  }
};

/// Value of group `group` among all of the tile's, from the lane of this quad that owns it.
template <int kGroups, int kOwned>
__device__ float from_owner(const float (&values)[kOwned], int group, int lane) {
  if constexpr (kGroups == 1) return values[0];
  const int owner = kGroups >= 4 ? group / kOwned : group * (4 / kGroups);
  return __shfl_sync(~0u, values[group % kOwned], (lane & ~3) | owner);
}

// ---- values that are no codes

struct TileBF16 {
  static constexpr int kK = 64, kGroup = 0, kPlanes = 1;
  static constexpr float kOffset = 0.0f;
  static constexpr bool kHasMin = false;
  using Raw = Halves<2>;
  static constexpr int kBytes = Raw::kBytes, kBlock = 1, kBlockBytes = 2;
  __device__ static std::uint32_t plane(const Raw& raw, int h, int s, int p, int,
                                        const std::uint32_t*) {
    return raw.pair(h, s, p);
  }
  __device__ static std::uint32_t code(const Byte* block, int) { return u16_at(block); }
};

/// fp16 as a sum of two bf16 numbers, which is exact.
struct TileF16 : TileBF16 {
  static constexpr int kPlanes = 2;
  __device__ static std::uint32_t plane(const Raw& raw, int h, int s, int p, int plane,
                                        const std::uint32_t*) {
    const std::uint32_t pair = raw.pair(h, s, p);
    const float low = half_bits(pair & 0xffffu), high = half_bits(pair >> 16);
    const std::uint32_t first = bf16_pair(low, high);
    return plane == 0 ? first : bf16_pair(low - low_bf16(first), high - high_bf16(first));
  }
};

/// A float as a sum of three bf16 numbers, each the upper bits of what is left; exact.
struct TileF32 {
  static constexpr int kK = 32, kGroup = 0, kPlanes = 3;
  static constexpr float kOffset = 0.0f;
  static constexpr bool kHasMin = false;
  using Raw = Words<1>;
  static constexpr int kBytes = Raw::kBytes, kBlock = 1, kBlockBytes = 4;
  __device__ static std::uint32_t plane(const Raw& raw, int h, int s, int p, int plane,
                                        const std::uint32_t*) {
    float low = __uint_as_float(raw.value(h, s, 2 * p));
    float high = __uint_as_float(raw.value(h, s, 2 * p + 1));
    std::uint32_t part = upper_halves(low, high);
    for (int i = 0; i < plane; ++i) {
      low -= low_bf16(part);
      high -= high_bf16(part);
      part = upper_halves(low, high);
    }
    return part;
  }
  __device__ static std::uint32_t code(const Byte* block, int) { return u32_at(block); }
};

// ---- blocks of 32 values

/// Scales of a tile of 128 k whose groups of 32 have one fp16 number each, or two.
template <int kNumbers>
struct Fp16Scales {
  std::uint32_t bits[2];
  static constexpr int kBytes = 16 * 4 * 2 * kNumbers;
  template <Space kFrom>
  __device__ void load(const Byte* base, int lane) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int i = (lane / 4 + 8 * h) * 4 + lane % 4;
      if constexpr (kNumbers == 1) {
        bits[h] = read<std::uint16_t, kFrom>(base, i);
      } else {
        bits[h] = read<std::uint32_t, kFrom>(base, i);
      }
    }
  }
  __device__ void decode(LaneScales<1>& out) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      out.a[h][0] = half_bits(bits[h] & 0xffffu);
      out.min[h][0] = kNumbers == 1 ? 0.0f : half_bits(bits[h] >> 16);
    }
  }
  __device__ static void store(Byte* base, int row, int group, const Byte* block) {
    if constexpr (kNumbers == 1) {
      at<std::uint16_t>(base, row * 4 + group) =
          static_cast<std::uint16_t>(block == nullptr ? 0 : u16_at(block));
    } else {
      at<std::uint32_t>(base, row * 4 + group) = block == nullptr ? 0 : u32_at(block);
    }
  }
};

template <class Codes, class Scales>
struct RawTile {
  Codes codes;
  Scales scales;
};

/// What formats of blocks of 32 with fp16 scales in front share. store_scales: lane t does the
/// blocks it owns.
template <class Codes, int kNumbers, int kTileOffset>
struct TileOf32 : Plus128 {
  static constexpr int kK = 128, kGroup = 32, kBlock = 32;
  static constexpr float kOffset = static_cast<float>(kTileOffset);
  static constexpr bool kHasMin = kNumbers == 2;
  using Raw = RawTile<Codes, Fp16Scales<kNumbers>>;
  static constexpr int kBytes = Codes::kBytes + Fp16Scales<kNumbers>::kBytes;
  __device__ static void scales(const Raw& raw, int, LaneScales<1>& out) { raw.scales.decode(out); }
  template <class Block>
  __device__ static void store_scales(Byte* base, int row, int t, Block&& block) {
    Fp16Scales<kNumbers>::store(base, row, t, block(t));
  }
};

__device__ inline std::uint32_t half_and_half(const Byte* qs, int j) {
  return (qs[j % 16] >> (j / 16 * 4)) & 15u;
}
__device__ inline std::uint32_t bit_of(const Byte* bits, int j) {
  return (bits[j / 8] >> (j % 8)) & 1u;
}

template <class BlockT, int kNumbers, int kTileOffset>
struct TileNibbles : TileOf32<Nibbles<4>, kNumbers, kTileOffset> {
  static constexpr int kBlockBytes = sizeof(BlockT);
  __device__ static std::uint32_t code(const Byte* block, int j) {
    return half_and_half(reinterpret_cast<const BlockT*>(block)->qs, j);
  }
};
struct TileQ4_0 : TileNibbles<formats::BlockQ4_0, 1, 128 + 8> {};
struct TileQ4_1 : TileNibbles<formats::BlockQ4_1, 2, 128> {};

template <int kSubs, int kBits>
struct SplitCodes {
  Nibbles<kSubs> low;
  HighBits<kSubs, kBits> high;
  static constexpr int kBytes = Nibbles<kSubs>::kBytes + HighBits<kSubs, kBits>::kBytes;
  template <Space kFrom>
  __device__ void load(const Byte* base, int lane) {
    low.template load<kFrom>(base, lane);
    high.template load<kFrom>(base + Nibbles<kSubs>::kBytes, lane);
  }
  __device__ void store(Byte* base, int lane) const {
    low.store(base, lane);
    high.store(base + Nibbles<kSubs>::kBytes, lane);
  }
  __device__ std::uint32_t pair_plus128(int h, int s, int p) const {
    return low.pair_plus128(h, s, p) | high.pair(h, s, p, 4);
  }
  template <class Code>
  __device__ void fill(Code&& code) {
    low.fill(code);
    high.fill(code, 4);
  }
};

template <class BlockT, int kNumbers, int kTileOffset>
struct TileQ5Of32 : TileOf32<SplitCodes<4, 1>, kNumbers, kTileOffset> {
  static constexpr int kBlockBytes = sizeof(BlockT);
  __device__ static std::uint32_t code(const Byte* block, int j) {
    const auto* b = reinterpret_cast<const BlockT*>(block);
    return half_and_half(b->qs, j) | bit_of(b->qh, j) << 4;
  }
};
struct TileQ5_0 : TileQ5Of32<formats::BlockQ5_0, 1, 128 + 16> {};
struct TileQ5_1 : TileQ5Of32<formats::BlockQ5_1, 2, 128> {};

/// Codes are kept as q + 128, in two planes: 128 + (low nibble) and 2048 + 16 · (high nibble).
struct TileQ8_0 : TileOf32<Bytes<4>, 1, 128 + 128 + 2048> {
  static constexpr int kPlanes = 2, kBlockBytes = sizeof(formats::BlockQ8_0);
  template <class Raw>
  __device__ static std::uint32_t plane(const Raw& raw, int h, int s, int p, int plane,
                                        const std::uint32_t*) {
    const std::uint32_t pair = raw.codes.pair(h, s, p);
    return plane == 0 ? plus128(pair & 0x000f000fu) : plus2048(pair >> 4 & 0x000f000fu);
  }
  __device__ static std::uint32_t code(const Byte* block, int j) { return block[2 + j] ^ 0x80u; }
};

/// Codes into a table of 16 integers, which are exact in bf16. `table` holds one pair for each of
/// the 256 bytes, for each lane in a bank of its own.
template <class T>
concept HasTable = requires { T::kHasTable; };
inline constexpr int kTableBytes = 256 * 32 * 4;

struct TableCodes {
  static constexpr bool kHasTable = true;
  __device__ static std::uint32_t entry(int byte) {
    const auto value = [](int code) {
      constexpr std::int8_t book[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                        1,    13,   25,  38,  53,  69,  89,  113};
      return static_cast<float>(book[code]);
    };
    return bf16_pair(value(byte & 15), value(byte >> 4));
  }
  template <class Raw>
  __device__ static std::uint32_t plane(const Raw& raw, int h, int s, int p, int,
                                        const std::uint32_t* table) {
    const std::uint32_t at = raw.codes.byte_times_128(h, s, p) | threadIdx.x % 32 * 4;
    return *reinterpret_cast<const std::uint32_t*>(reinterpret_cast<const Byte*>(table) + at);
  }
};

/// Called by whole blocks.
template <class T>
__device__ void fill_table(std::uint32_t* table) {
  if constexpr (HasTable<T>) {
    for (int i = threadIdx.x; i < kTableBytes / 16; i += blockDim.x) {
      const std::uint32_t v = T::entry(i / 8);
      reinterpret_cast<uint4*>(table)[i] = make_uint4(v, v, v, v);
    }
  }
}
template <class T>
constexpr int table_bytes() {
  return HasTable<T> ? kTableBytes : 0;
}

struct TileIQ4_NL : TableCodes, TileOf32<NibblePairs<4>, 1, 0> {
  using TableCodes::plane;
  static constexpr int kBlockBytes = sizeof(formats::BlockIQ4_NL);
  __device__ static std::uint32_t code(const Byte* block, int j) {
    return half_and_half(reinterpret_cast<const formats::BlockIQ4_NL*>(block)->qs, j);
  }
};

/// E2M1 codes: their exponent and fraction lie under the bf16 exponent; 2^127 makes them twice
/// their value.
__device__ inline std::uint32_t fp4_pair(std::uint32_t pair) {
  const std::uint32_t bits = (pair & 0x00070007u) << 6 | (pair & 0x00080008u) << 12;
  return times_bf16(bits, 0x7f00);
}

struct TileMXFP4 {
  static constexpr int kK = 128, kGroup = 32, kPlanes = 1, kBlock = 32;
  static constexpr int kBlockBytes = sizeof(formats::BlockMXFP4);
  static constexpr float kOffset = 0.0f;
  static constexpr bool kHasMin = false;
  using Scales = LaneNumbers<Byte>;
  using Raw = RawTile<Nibbles<4>, Scales>;
  static constexpr int kBytes = Nibbles<4>::kBytes + Scales::kBytes;
  __device__ static void scales(const Raw& raw, int, LaneScales<1>& out) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const std::uint32_t e = raw.scales.w[h];
      out.a[h][0] = __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
      out.min[h][0] = 0.0f;
    }
  }
  __device__ static std::uint32_t plane(const Raw& raw, int h, int s, int p, int,
                                        const std::uint32_t*) {
    return fp4_pair(raw.codes.pair(h, s, p));
  }
  __device__ static std::uint32_t code(const Byte* block, int j) {
    return half_and_half(reinterpret_cast<const formats::BlockMXFP4*>(block)->qs, j);
  }
  template <class Block>
  __device__ static void store_scales(Byte* base, int row, int t, Block&& block) {
    const Byte* b = block(t);
    base[row * 4 + t] = b == nullptr ? 0 : b[0];
  }
};

// ---- blocks of 64 and more, of checkpoints

struct TileNVFP4 {
  static constexpr int kK = 128, kGroup = 16, kPlanes = 1, kBlock = 64;
  static constexpr int kBlockBytes = sizeof(formats::BlockNVFP4);
  static constexpr float kOffset = 0.0f;
  static constexpr bool kHasMin = false;
  using Scales = LaneNumbers<std::uint16_t>;  // two bytes
  using Raw = RawTile<Nibbles<4>, Scales>;
  static constexpr int kBytes = Nibbles<4>::kBytes + Scales::kBytes;
  __device__ static void scales(const Raw& raw, int, LaneScales<2>& out) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        // Half of an unsigned E4M3 number; 127 reads as 0.
        const std::uint32_t d = raw.scales.w[h] >> (8 * i) & 0x7fu;
        const float v = d < 8 ? small_int(d) * 0x1p-10f : __uint_as_float((d << 20) + (119u << 23));
        out.a[h][i] = d == 0x7f ? 0.0f : v;
        out.min[h][i] = 0.0f;
      }
    }
  }
  __device__ static std::uint32_t plane(const Raw& raw, int h, int s, int p, int,
                                        const std::uint32_t*) {
    return fp4_pair(raw.codes.pair(h, s, p));
  }
  __device__ static std::uint32_t code(const Byte* block, int j) {
    const Byte* qs = reinterpret_cast<const formats::BlockNVFP4*>(block)->qs + j / 16 * 8;
    return (qs[j % 8] >> (j % 16 / 8 * 4)) & 15u;
  }
  template <class Block>
  __device__ static void store_scales(Byte* base, int row, int t, Block&& block) {
    const Byte* b = block(t / 2);
    at<std::uint16_t>(base, row * 4 + t) =
        static_cast<std::uint16_t>(b == nullptr ? 0 : u16_at(b + t % 2 * 2));
  }
};

/// One float for each row and tile. The code of NaN reads as 480: checkpoints have none.
struct TileF8_E4M3_B128 {
  static constexpr int kK = 128, kGroup = 128, kPlanes = 1, kBlock = 128;
  static constexpr int kBlockBytes = sizeof(formats::BlockF8_E4M3_B128);
  static constexpr float kOffset = 0.0f;
  static constexpr bool kHasMin = false;
  struct Scales {
    float scale[2];
    template <Space kFrom>
    __device__ void load(const Byte* base, int lane) {
#pragma unroll
      for (int h = 0; h < 2; ++h) scale[h] = read<float, kFrom>(base, lane / 4 + 8 * h);
    }
  };
  using Raw = RawTile<Bytes<4>, Scales>;
  static constexpr int kBytes = Bytes<4>::kBytes + 64;
  __device__ static void scales(const Raw& raw, int, LaneScales<1>& out) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      out.a[h][0] = raw.scales.scale[h];
      out.min[h][0] = 0.0f;
    }
  }
  __device__ static std::uint32_t plane(const Raw& raw, int h, int s, int p, int,
                                        const std::uint32_t*) {
    const std::uint32_t pair = raw.codes.pair(h, s, p);
    return times_bf16((pair & 0x007f007fu) << 4 | (pair & 0x00800080u) << 8, 0x7b80);  // 2^120
  }
  __device__ static std::uint32_t code(const Byte* block, int j) { return block[4 + j]; }
  template <class Block>
  __device__ static void store_scales(Byte* base, int row, int t, Block&& block) {
    const Byte* b = block(0);
    if (t == 0) at<float>(base, row) = b == nullptr ? 0.0f : __uint_as_float(u32_at(b));
  }
};

/// Groups of kLen with a float scale and a float zero point: min = -zero · scale.
template <int kLen>
struct TileI4 : Plus128 {
  static constexpr int kK = 128, kGroup = kLen, kBlock = kLen;
  static constexpr int kBlockBytes = sizeof(formats::BlockI4<kLen>), kGroups = kK / kLen;
  static constexpr float kOffset = 128.0f;
  static constexpr bool kHasMin = true;
  struct Scales {
    float2 v[2];
    template <Space kFrom>
    __device__ void load(const Byte* base, int lane) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        v[h] = read<float2, kFrom>(base, (lane / 4 + 8 * h) * kGroups + lane % 4 * kGroups / 4);
      }
    }
  };
  using Raw = RawTile<Nibbles<4>, Scales>;
  static constexpr int kBytes = Nibbles<4>::kBytes + 16 * kGroups * 8;
  __device__ static void scales(const Raw& raw, int, LaneScales<1>& out) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      out.a[h][0] = raw.scales.v[h].x;
      out.min[h][0] = -raw.scales.v[h].y * raw.scales.v[h].x;
    }
  }
  __device__ static std::uint32_t code(const Byte* block, int j) {
    const auto* b = reinterpret_cast<const formats::BlockI4<kLen>*>(block);
    return (b->q[j % (kLen / 2)] >> (j / (kLen / 2) * 4)) & 15u;
  }
  template <class Block>
  __device__ static void store_scales(Byte* base, int row, int t, Block&& block) {
    if (t >= kGroups) return;
    const Byte* b = block(t);
    at<float2>(base, row * kGroups + t) =
        b == nullptr ? make_float2(0.0f, 0.0f)
                     : make_float2(__uint_as_float(u32_at(b)), __uint_as_float(u32_at(b + 4)));
  }
};

}  // namespace kt::kernels::cuda

#include "kernels/cuda/gemm/tile_super.cuh"
