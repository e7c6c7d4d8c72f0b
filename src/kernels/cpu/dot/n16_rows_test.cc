// Rows packed as kN16 and read back are the bytes that went in.
#include "kernels/cpu/dot/n16_rows.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace kt::kernels::dot {
namespace {

using formats::Format;
using Bytes = std::vector<std::byte>;

template <Format kFormat>
void expect_round_trip() {
  const N16Layout* layout = n16_layout(kFormat);
  ASSERT_NE(layout, nullptr);
  using Rows = N16Rows<kFormat>;
  static_assert(sizeof(typename Rows::Block) * 16 == sizeof(typename Rows::Unit));
  const formats::FormatTraits& traits = formats::traits(kFormat);
  EXPECT_EQ(traits.block_bytes, sizeof(typename Rows::Block));
  EXPECT_EQ(layout->unit_bytes, sizeof(typename Rows::Unit));
  EXPECT_EQ(layout->unit_len, traits.block_len);
  const std::int64_t k = 3 * std::max<std::int64_t>(traits.block_len, 32);
  std::mt19937 random(1);
  std::vector<Bytes> rows(16, Bytes(formats::row_bytes(kFormat, k)));
  Bytes tile(layout->tile_bytes(k));
  for (int r = 0; r < 16; ++r) {
    Bytes& row = rows[static_cast<std::size_t>(r)];
    for (std::byte& b : row) b = static_cast<std::byte>(random());
    if (kFormat == Format::kF8_E4M3_B128) {  // scales that are not negative
      for (std::size_t at = 3; at < row.size(); at += traits.block_bytes)
        row[at] &= std::byte{0x7f};
    }
    layout->pack_row(row.data(), k, r, tile.data());
  }
  for (int r = 0; r < 16; ++r) {
    Bytes back(rows[0].size(), std::byte{0xa5});
    read_n16_row<kFormat>(tile.data(), k, r, back.data());
    EXPECT_EQ(back, rows[static_cast<std::size_t>(r)]) << traits.name << " row " << r;
  }
}

TEST(N16Rows, GiveBackTheBytesOfTheFile) {
#define N16_ROWS(id) expect_round_trip<Format::id>();
#include "kernels/cpu/dot/n16_rows.inc"
#undef N16_ROWS
}

TEST(N16Rows, NegativeScalesHaveBecomeSignsOfCodes) {
  formats::BlockF8_E4M3_B128 in{-0.5f, {}}, out{};
  in.q[1] = 0x38;
  TileF8 tile{};
  n16_layout(Format::kF8_E4M3_B128)
      ->pack_row(reinterpret_cast<const std::byte*>(&in), 128, 3,
                 reinterpret_cast<std::byte*>(&tile));
  read_n16_row<Format::kF8_E4M3_B128>(reinterpret_cast<const std::byte*>(&tile), 128, 3,
                                      reinterpret_cast<std::byte*>(&out));
  EXPECT_EQ(out.scale, 0.5f);
  EXPECT_EQ(out.q[1], 0xb8);
  EXPECT_EQ(out.q[0], 0x80);
}

}  // namespace
}  // namespace kt::kernels::dot
