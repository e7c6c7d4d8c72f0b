// Pack kN16 read back: the file block of one row of a unit, in pieces of a few bytes that may be
// made in any order, by any thread. GPUs relay weights that lie packed for the CPU with it
// (kernels/cuda/gemm/pack_n16.cu), so that one copy in host memory serves both.
//
// Blocks come out as they went in, but for E4M3: a negative scale has become the signs of the codes
// (n16.cc). Thread rule: pure; compiled for the host and for GPUs.
#pragma once
#include <cstring>

#include "formats/basic_quants.h"
#include "formats/checkpoint_quants.h"
#include "formats/fp4_quants.h"
#include "formats/k_quants.h"
#include "kernels/cpu/dot/n16.h"

#ifdef __CUDACC__
#define KT_HOST_DEVICE __host__ __device__
#else
#define KT_HOST_DEVICE
#endif

namespace kt::kernels::dot {

/// Unit, Block, kPieces; piece(u, r, i, out) writes piece i of row r's block to `out`.
template <formats::Format kFormat>
struct N16Rows;

namespace n16_rows {

using U8 = std::uint8_t;

KT_HOST_DEVICE inline std::uint32_t get4(const void* p) {
  std::uint32_t v;
  std::memcpy(&v, __builtin_assume_aligned(p, 4), 4);
  return v;
}
template <class T>
KT_HOST_DEVICE void put(U8* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

/// Codes of four consecutive k, 4 g …, of row r's sub-block of 32.
KT_HOST_DEVICE inline std::uint32_t nibbles(const U8 (*q)[64], int r, int g) {
  return get4(q[g % 4] + 4 * r) >> (g < 4 ? 0 : 4) & 0x0f0f0f0fu;
}
KT_HOST_DEVICE inline std::uint32_t pairs(const U8 (*q2)[64], int r, int g) {
  return get4(q2[g / 4] + 4 * r) >> (2 * (g % 4)) & 0x03030303u;
}
KT_HOST_DEVICE inline std::uint32_t bits(const U8* q1, int r, int g) {
  return get4(q1 + 4 * r) >> g & 0x01010101u;
}

KT_HOST_DEVICE inline unsigned first_six(const SixBits& from, int s, int r) {
  return (from.low[s][r] & 15u) | (from.high[s % 4][r] >> (4 * (s / 4)) & 3u) << 4;
}
KT_HOST_DEVICE inline unsigned second_six(const SixBits& from, int s, int r) {
  return from.low[s][r] >> 4 | (from.high[s % 4][r] >> (4 * (s / 4) + 2) & 3u) << 4;
}
/// Bytes j, j + 4 and j + 8 of the scales of Q4_K and Q5_K (formats::pack_scales_k4).
KT_HOST_DEVICE inline void put_scales(const SixBits& from, int r, int j, U8* scales) {
  const unsigned sc = first_six(from, j, r), m = second_six(from, j, r);
  const unsigned sc4 = first_six(from, j + 4, r), m4 = second_six(from, j + 4, r);
  scales[j] = static_cast<U8>(sc | sc4 >> 4 << 6);
  scales[j + 4] = static_cast<U8>(m | m4 >> 4 << 6);
  scales[j + 8] = static_cast<U8>((sc4 & 15u) | (m4 & 15u) << 4);
}

}  // namespace n16_rows

template <>
struct N16Rows<formats::Format::kBF16> {
  using Unit = TileF16;
  using Block = std::uint16_t;
  static constexpr int kPieces = 1;
  KT_HOST_DEVICE static void piece(const Unit& u, int r, int, std::uint8_t* out) {
    n16_rows::put(out, u.w[r]);
  }
};

template <>
struct N16Rows<formats::Format::kQ4_0> {
  using Unit = TileQ4_0;
  using Block = formats::BlockQ4_0;
  static constexpr int kPieces = 4 + 1;
  KT_HOST_DEVICE static void piece(const Unit& u, int r, int i, std::uint8_t* out) {
    if (i < 4) {
      n16_rows::put(out + 2 + 4 * i, n16_rows::get4(u.q[i] + 4 * r));
    } else {
      n16_rows::put(out, u.d[r]);
    }
  }
};

template <>
struct N16Rows<formats::Format::kQ8_0> {
  using Unit = TileQ8_0;
  using Block = formats::BlockQ8_0;
  static constexpr int kPieces = 8 + 1;
  KT_HOST_DEVICE static void piece(const Unit& u, int r, int i, std::uint8_t* out) {
    if (i < 8) {
      n16_rows::put(out + 2 + 4 * i, n16_rows::get4(u.q[i] + 4 * r));
    } else {
      n16_rows::put(out, u.d[r]);
    }
  }
};

template <>
struct N16Rows<formats::Format::kMXFP4> {
  using Unit = TileMXFP4;
  using Block = formats::BlockMXFP4;
  static constexpr int kPieces = 4 + 1;
  KT_HOST_DEVICE static void piece(const Unit& u, int r, int i, std::uint8_t* out) {
    if (i < 4) {
      n16_rows::put(out + 1 + 4 * i, n16_rows::get4(u.q[i] + 4 * r));
    } else {
      out[0] = u.e[r];
    }
  }
};

template <>
struct N16Rows<formats::Format::kQ4_K> {
  using Unit = TileQ4_K;
  using Block = formats::BlockQ4_K;
  static constexpr int kPieces = 32 + 4 + 1;
  KT_HOST_DEVICE static void piece(const Unit& u, int r, int i, std::uint8_t* out) {
    using namespace n16_rows;
    if (i < 32) {
      const int s = i / 8 * 2, g = i % 8;
      put(out + 16 + 4 * i, nibbles(u.block[s].q, r, g) | nibbles(u.block[s + 1].q, r, g) << 4);
    } else if (i < 36) {
      put_scales(u.scales, r, i - 32, out + 4);
    } else {
      put(out, u.d[r]);
      put(out + 2, u.dmin[r]);
    }
  }
};

template <>
struct N16Rows<formats::Format::kQ5_K> {
  using Unit = TileQ5_K;
  using Block = formats::BlockQ5_K;
  static constexpr int kPieces = 32 + 8 + 4 + 1;
  KT_HOST_DEVICE static void piece(const Unit& u, int r, int i, std::uint8_t* out) {
    using namespace n16_rows;
    if (i < 32) {
      const int s = i / 8 * 2, g = i % 8;
      put(out + 48 + 4 * i, nibbles(u.block[s].q, r, g) | nibbles(u.block[s + 1].q, r, g) << 4);
    } else if (i < 40) {
      std::uint32_t high = 0;
      for (int s = 0; s < 8; ++s) high |= bits(u.block[s].q1, r, i - 32) << s;
      put(out + 16 + 4 * (i - 32), high);
    } else if (i < 44) {
      put_scales(u.scales, r, i - 40, out + 4);
    } else {
      put(out, u.d[r]);
      put(out + 2, u.dmin[r]);
    }
  }
};

template <>
struct N16Rows<formats::Format::kQ6_K> {
  using Unit = TileQ6_K;
  using Block = formats::BlockQ6_K;
  static constexpr int kPieces = 32 + 16 + 8 + 1;
  KT_HOST_DEVICE static void piece(const Unit& u, int r, int i, std::uint8_t* out) {
    using namespace n16_rows;
    if (i < 32) {
      const int s = i / 16 * 4 + i / 8 % 2, g = i % 8;
      put(out + 4 * i, nibbles(u.block[s].q, r, g) | nibbles(u.block[s + 2].q, r, g) << 4);
    } else if (i < 48) {
      const int s = (i - 32) / 8 * 4, g = i % 8;
      std::uint32_t high = 0;
      for (int j = 0; j < 4; ++j) high |= pairs(u.block[s + j].q2, r, g) << (2 * j);
      put(out + 128 + 4 * (i - 32), high);
    } else if (i < 56) {
      const auto& b = u.block[i - 48];
      put(out + 192 + 2 * (i - 48), b.scale[0][r]);
      put(out + 193 + 2 * (i - 48), b.scale[1][r]);
    } else {
      put(out + 208, u.d[r]);
    }
  }
};

template <>
struct N16Rows<formats::Format::kF8_E4M3_B128> {
  using Unit = TileF8;
  using Block = formats::BlockF8_E4M3_B128;
  static constexpr int kPieces = 32 + 1;
  KT_HOST_DEVICE static void piece(const Unit& u, int r, int i, std::uint8_t* out) {
    using namespace n16_rows;
    if (i < 32) {
      const std::uint32_t v = get4(u.q[i] + 4 * r);
      put(out + 4 + 4 * i, (v & 0xff0000ffu) | (v >> 8 & 0x0000ff00u) | (v << 8 & 0x00ff0000u));
    } else {
      put(out, get4(&u.scale[r]) & 0x7fffffffu);
    }
  }
};

template <int kGroup>
struct N16RowsOfI4 {
  using Unit = TileI4<kGroup>;
  using Block = formats::BlockI4<kGroup>;
  static constexpr int kPieces = kGroup / 8 + 1;
  KT_HOST_DEVICE static void piece(const Unit& u, int r, int i, std::uint8_t* out) {
    using namespace n16_rows;
    if (i == kGroup / 8) {
      put(out, u.scale[r]);
      put(out + 4, u.zero[r]);
    } else if constexpr (kGroup == 32) {
      put(out + 8 + 4 * i, get4(u.block[0].q[i] + 4 * r));
    } else {
      constexpr int kHalf = kGroup / 64;  // sub-blocks in the low nibbles
      const int s = i / 8, g = i % 8;
      put(out + 8 + 4 * i, nibbles(u.block[s].q, r, g) | nibbles(u.block[s + kHalf].q, r, g) << 4);
    }
  }
};
template <>
struct N16Rows<formats::Format::kI4_32> : N16RowsOfI4<32> {};
template <>
struct N16Rows<formats::Format::kI4_128> : N16RowsOfI4<128> {};

/// Row r of k values of a packed tile, back to file layout.
template <formats::Format kFormat>
void read_n16_row(const std::byte* tile, std::int64_t k, int r, std::byte* row) {
  using Rows = N16Rows<kFormat>;
  const std::int64_t unit_len = formats::traits(kFormat).block_len;
  const auto* units = reinterpret_cast<const typename Rows::Unit*>(tile);
  auto* out = reinterpret_cast<std::uint8_t*>(row);
  for (std::int64_t u = 0; u < k / unit_len; ++u, out += sizeof(typename Rows::Block)) {
    for (int i = 0; i < Rows::kPieces; ++i) Rows::piece(units[u], r, i, out);
  }
}

}  // namespace kt::kernels::dot
