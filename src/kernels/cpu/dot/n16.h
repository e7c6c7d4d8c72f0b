// Pack kN16: how 16 weight rows of a format lie interleaved, shared by the packer and the ISA
// kernels.
//
// A tile is 16 rows; it is a sequence of units (one block of 32, a super-block of 256, or one k of
// a float format). Codes of a 32-block come in lines of 64 bytes = 16 rows x 4 consecutive k
// ("group"):
//   8 bits  q[8][64]   line g, byte 4 r + i: row r, k = 4 g + i
//   4 bits  q[4][64]   line g: low nibble group g, high nibble group g + 4
//   2 bits  q2[2][64]  line p, bits 2 j, 2 j + 1: group 4 p + j (also the high bits of 6-bit codes)
//   1 bit   q1[64]     bit g: group g
//   E4M3    q[32][64]  line g, bytes 4 r .. 4 r + 3: row r, k = 4 g + 0, 2, 1, 3, so that the even
//                      and the odd bytes are 16-bit pairs of consecutive k
//   IQ1-3   c[16][..]  codebook codes of each row: each is a scalar load
// Scales of the 16 rows are contiguous. Sizes equal the file's (6-bit sub-scales are split in a
// plane of 4 and one of 2 bits), less the sums that Q8_1 and Q8_K hold. Thread rule: pure.
#pragma once
#include <cstddef>
#include <cstdint>

#include "formats/format.h"

namespace kt::kernels::dot {

inline constexpr std::int64_t kN16Rows = 16;

struct TileF32 {
  float w[16];
};
struct TileF16 {  // fp16 or bf16
  std::uint16_t w[16];
};
struct TileQ4_0 {  // also IQ4_NL
  std::uint16_t d[16];
  std::uint8_t q[4][64];
};
struct TileQ4_1 {
  std::uint16_t d[16];
  std::uint16_t m[16];
  std::uint8_t q[4][64];
};
struct TileQ5_0 {
  std::uint16_t d[16];
  std::uint8_t q1[64];
  std::uint8_t q[4][64];
};
struct TileQ5_1 {
  std::uint16_t d[16];
  std::uint16_t m[16];
  std::uint8_t q1[64];
  std::uint8_t q[4][64];
};
struct TileQ8_0 {
  std::uint16_t d[16];
  std::int8_t q[8][64];
};
struct TileMXFP4 {
  std::uint8_t e[16];
  std::uint8_t q[4][64];
};
/// Two numbers of 6 bits for each of 8 blocks and 16 rows.
struct SixBits {
  std::uint8_t low[8][16];   // low 4 bits of the first and, in the high nibble, of the second
  std::uint8_t high[4][16];  // bits 0, 1 and 2, 3: high bits of block j; high nibble: block j + 4
};
struct TileQ4_K {
  std::uint16_t d[16];
  std::uint16_t dmin[16];
  SixBits scales;  // scale and min of each 32 k
  struct Block {
    std::uint8_t q[4][64];
  } block[8];
};
struct TileQ5_K {
  std::uint16_t d[16];
  std::uint16_t dmin[16];
  SixBits scales;  // scale and min of each 32 k
  struct Block {
    std::uint8_t q1[64];
    std::uint8_t q[4][64];
  } block[8];
};
struct TileQ6_K {
  std::uint16_t d[16];
  struct Block {
    std::int8_t scale[2][16];  // of k 0..15 and 16..31
    std::uint8_t q2[2][64];
    std::uint8_t q[4][64];
  } block[8];
};
struct TileQ2_K {
  std::uint16_t d[16];
  std::uint16_t dmin[16];
  struct Block {
    std::uint8_t scale_min[2][16];  // low nibble scale, high nibble min
    std::uint8_t q2[2][64];
  } block[8];
};
struct TileQ3_K {
  std::uint16_t d[16];
  SixBits scales;  // plus 32; of k 0..15 and 16..31 of each 32
  struct Block {
    std::uint8_t q1[64];
    std::uint8_t q2[2][64];
  } block[8];
};
struct TileIQ4_XS {
  std::uint16_t d[16];
  std::uint8_t low[4][16];   // scale plus 32 of block j (low nibble) and of block j + 4
  std::uint8_t high[2][16];  // bits 2 j, 2 j + 1 of byte i: high bits of block 4 i + j
  struct Block {
    std::uint8_t q[4][64];
  } block[8];
};
// Codebook formats: codes in row order, because each is a scalar load; s[64], byte 4 r + g: signs
// of row r, k = 8 g .. 8 g + 7 (7 bits where their parity gives the eighth).
struct TileIQ2_XXS {
  std::uint16_t d[16];
  struct Block {
    std::uint8_t c[16][4];
    std::uint8_t s[64];  // bit 7 of byte 4 r + g: bit g of the row's scale
  } block[8];
};
struct TileIQ2_XS {
  std::uint16_t d[16];
  struct Block {
    std::uint16_t c[16][4];  // code | sign bits << 9; rows 4 j + 2, 4 j + 3 after all 4 j, 4 j + 1
    std::uint8_t scale[16];  // low nibble of k 0 .. 15
  } block[8];
};
struct TileIQ2_S {
  std::uint16_t d[16];
  struct Block {
    std::uint16_t c[16][4];  // code | low 6 sign bits << 10, order of IQ2_XS
    std::uint8_t s[16];      // bits 2 g, 2 g + 1: sign bits 6 and 7 of group g
    std::uint8_t scale[16];
  } block[8];
};
struct TileIQ3_XXS {
  std::uint16_t d[16];
  struct Block {
    std::uint8_t c[16][8];
    std::uint8_t s[64];  // bit 7 as in IQ2_XXS
  } block[8];
};
struct TileIQ3_S {
  std::uint16_t d[16];
  std::uint8_t scale[4][16];  // low nibble of the even block
  struct Block {
    std::uint8_t c[16][9];  // 8 codes of 9 bits
    std::uint8_t s[64];
  } block[8];
};
static_assert(sizeof(TileIQ2_XXS) == 16 * 66 && sizeof(TileIQ2_XS) == 16 * 74 &&
              sizeof(TileIQ2_S) == 16 * 82);
static_assert(sizeof(TileIQ3_XXS) == 16 * 98 && sizeof(TileIQ3_S) == 16 * 110);

/// Where row r of TileIQ2_XS and TileIQ2_S stands, so that packing two 64-byte lines of words to
/// bytes inside 16-byte lanes puts the rows in order.
constexpr int iq_row(int r) { return r % 4 / 2 * 8 + r / 4 * 2 + r % 2; }

struct TileIQ1_S {
  std::uint16_t d[16];
  struct Block {
    std::uint8_t c[16][4];  // low 8 bits
    std::uint16_t h[16];    // the file's: 4 x 3 high code bits, s << 12, negative delta << 15
  } block[8];
};
struct TileIQ1_M {
  struct Block {
    std::uint8_t c[16][4];   // low 8 bits
    std::uint16_t h[16];     // nibble g: 3 high code bits, negative delta << 3
    std::uint8_t scale[16];  // s of k 0 .. 15, s of k 16 .. 31 << 3; top: bits 2 b, 2 b + 1 of d
  } block[8];
};
static_assert(sizeof(TileIQ1_S) == 16 * 50 && sizeof(TileIQ1_M) == 16 * 56);

struct TileQ8_K {
  float d[16];
  struct Block {
    std::int8_t q[8][64];
  } block[8];
};
struct TileTQ2_0 {
  std::uint16_t d[16];
  struct Block {
    std::uint8_t q2[2][64];
  } block[8];
};
struct TileQ1_0 {
  std::uint16_t d[16];
  struct Block {
    std::uint8_t q1[64];
  } block[4];
};
struct TileNVFP4 {
  std::uint8_t d[4][16];  // of k 16 j .. 16 j + 15; byte 127, which reads as 0, is stored as 0
  struct Block {
    std::uint8_t q[4][64];
  } block[2];
};
static_assert(sizeof(TileTQ2_0) == 16 * 66 && sizeof(TileQ1_0) == 16 * 18 &&
              sizeof(TileNVFP4) == 16 * 36);

template <int kLen>
struct TileI4 {
  float scale[16];
  float zero[16];
  struct Block {
    std::uint8_t q[4][64];
  } block[kLen / 32];
};
static_assert(sizeof(TileI4<32>) == 16 * 24 && sizeof(TileI4<64>) == 16 * 40 &&
              sizeof(TileI4<128>) == 16 * 72);
struct TileF8 {
  float scale[16];  // not negative; the sign bit says that a code of the row is NaN
  std::uint8_t q[32][64];
};
static_assert(sizeof(TileF8) == 16 * 132);
static_assert(sizeof(TileQ4_0) == 16 * 18 && sizeof(TileQ4_1) == 16 * 20 &&
              sizeof(TileQ8_0) == 16 * 34);
static_assert(sizeof(TileQ5_0) == 16 * 22 && sizeof(TileQ5_1) == 16 * 24 &&
              sizeof(TileMXFP4) == 16 * 17);
static_assert(sizeof(TileQ6_K) == 16 * 210 && sizeof(TileQ2_K) == 16 * 84 &&
              sizeof(TileQ4_K) == 16 * 144);
static_assert(sizeof(TileQ5_K) == 16 * 176 && sizeof(TileQ3_K) == 16 * 110 &&
              sizeof(TileIQ4_XS) == 16 * 136);

struct N16Layout {
  formats::Format format;
  std::int64_t unit_len;   // k values per unit
  std::size_t unit_bytes;  // of 16 rows
  /// Writes row r (0..15) of k values from file layout into a zeroed tile.
  void (*pack_row)(const std::byte* row, std::int64_t k, int r, std::byte* tile) noexcept;
  /// Decodes row r back to floats, bitwise as the format's codec does.
  void (*unpack_row)(const std::byte* tile, std::int64_t k, int r, float* out) noexcept;
  /// At least the largest |weight| of a row in file layout, from its scales alone; NaN or infinite
  /// when one of them is. Null for formats without scales.
  float (*row_bound)(const std::byte* row, std::int64_t k) noexcept;
  std::size_t tile_bytes(std::int64_t k) const {
    return static_cast<std::size_t>(k / unit_len) * unit_bytes;
  }
};

/// Layout of a format, or nullptr when no kernel packs it.
const N16Layout* n16_layout(formats::Format format);

}  // namespace kt::kernels::dot
