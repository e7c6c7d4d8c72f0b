// What the packers of kN16 (n16.cc, n16_iq.cc) share: code planes of one row written and read, and
// a layout made of a codec. A codec moves a file block into row r of a tile unit (pack), decodes
// row r (unpack), and may bound its largest |weight| (bound). Internal to the objects that include
// it.
#pragma once
#include <cmath>
#include <cstring>

#include "base/half.h"
#include "kernels/cpu/dot/n16.h"

namespace kt::kernels::dot {

/// The layouts of n16_iq.cc; nullptr for other formats.
const N16Layout* n16_iq_layout(formats::Format format);

namespace {

using formats::Format;

constexpr int kLen = 32;

inline std::uint32_t load4(const std::uint8_t* p) {
  std::uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}
inline void store4(std::uint8_t* p, std::uint32_t v) { std::memcpy(p, &v, 4); }

// Writers of the code planes of one row's 32-block; c holds one code per byte.

inline void put_nibbles(const std::uint8_t* c, int r, std::uint8_t (*q)[64]) {
  for (int g = 0; g < 4; ++g) {
    const std::uint32_t low = load4(c + 4 * g) & 0x0f0f0f0fu;
    const std::uint32_t high = load4(c + 16 + 4 * g) & 0x0f0f0f0fu;
    store4(q[g] + 4 * r, low | (high << 4));
  }
}

// Bits [shift, shift + 2) of every code.
inline void put_pairs(const std::uint8_t* c, int shift, int r, std::uint8_t (*q2)[64]) {
  for (int p = 0; p < 2; ++p) {
    std::uint32_t v = 0;
    for (int j = 0; j < 4; ++j)
      v |= ((load4(c + 16 * p + 4 * j) >> shift) & 0x03030303u) << (2 * j);
    store4(q2[p] + 4 * r, v);
  }
}

// Bit `shift` of every code.
inline void put_bits(const std::uint8_t* c, int shift, int r, std::uint8_t* q1) {
  std::uint32_t v = 0;
  for (int g = 0; g < 8; ++g) v |= ((load4(c + 4 * g) >> shift) & 0x01010101u) << g;
  store4(q1 + 4 * r, v);
}

// Readers of the code at k (0..31) of row r.

inline int nibble_at(const std::uint8_t (*q)[64], int r, int k) {
  return (q[(k / 4) % 4][4 * r + k % 4] >> (k < 16 ? 0 : 4)) & 15;
}
inline int pair_at(const std::uint8_t (*q2)[64], int r, int k) {
  return (q2[k / 16][4 * r + k % 4] >> (2 * ((k / 4) % 4))) & 3;
}
inline int bit_at(const std::uint8_t* q1, int r, int k) {
  return (q1[4 * r + k % 4] >> (k / 4)) & 1;
}

inline float magnitude(std::uint16_t fp16) { return std::fabs(fp16_to_f32(fp16)); }

template <class Codec, std::int64_t kUnitLen>
void pack_row(const std::byte* row, std::int64_t k, int r, std::byte* tile) noexcept {
  using Block = typename Codec::Block;
  auto* t = reinterpret_cast<typename Codec::Tile*>(tile);
  for (std::int64_t u = 0; u < k / kUnitLen; ++u, row += sizeof(Block)) {
    Block b;
    std::memcpy(&b, row, sizeof(Block));
    Codec::pack(b, r, t[u]);
  }
}

template <class Codec, std::int64_t kUnitLen>
void unpack_row(const std::byte* tile, std::int64_t k, int r, float* out) noexcept {
  const auto* t = reinterpret_cast<const typename Codec::Tile*>(tile);
  for (std::int64_t u = 0; u < k / kUnitLen; ++u) Codec::unpack(t[u], r, out + u * kUnitLen);
}

template <class Codec, std::int64_t kUnitLen>
float row_bound(const std::byte* row, std::int64_t k) noexcept {
  using Block = typename Codec::Block;
  float largest = 0.0f;
  for (std::int64_t u = 0; u < k; u += kUnitLen, row += sizeof(Block)) {
    Block b;
    std::memcpy(&b, row, sizeof(Block));
    const float bound = Codec::bound(b);
    if (!std::isfinite(bound)) return bound;
    if (bound > largest) largest = bound;
  }
  return largest;
}

template <class Codec>
concept HasScales = requires(const typename Codec::Block& block) { Codec::bound(block); };

template <class Codec, std::int64_t kUnitLen>
constexpr N16Layout layout_of(Format format) {
  N16Layout layout = {format,
                      kUnitLen,
                      sizeof(typename Codec::Tile),
                      pack_row<Codec, kUnitLen>,
                      unpack_row<Codec, kUnitLen>,
                      nullptr};
  if constexpr (HasScales<Codec>) layout.row_bound = row_bound<Codec, kUnitLen>;
  return layout;
}

}  // namespace
}  // namespace kt::kernels::dot
