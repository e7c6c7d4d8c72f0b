#include "kernels/cpu/dot/iq_entries.h"

#include "formats/iq_grids.h"

namespace kt::kernels::dot {
namespace {

template <int kCount>
constexpr IqEntries8<kCount> entries8(const std::uint16_t (&grid)[kCount], const int (&levels)[4]) {
  IqEntries8<kCount> entries = {};
  for (int e = 0; e < kCount; ++e) {
    for (int i = 0; i < 8; ++i) {
      const int level = levels[(grid[e] >> (2 * i)) & 3];
      entries.v[e] |= static_cast<std::uint64_t>(level + kIqBias) << (8 * i);
    }
  }
  return entries;
}

template <int kCount>
constexpr IqEntries4<kCount> entries4(const std::uint16_t (&grid)[kCount],
                                      const std::uint8_t (&levels)[8]) {
  IqEntries4<kCount> entries = {};
  for (int e = 0; e < kCount; ++e) {
    for (int i = 0; i < 4; ++i) {
      const int level = levels[(grid[e] >> (4 * i)) & 7];
      entries.v[e] |= static_cast<std::uint32_t>(level + kIqBias) << (8 * i);
    }
  }
  return entries;
}

constexpr int kIq2[4] = {formats::kIq2Levels[0], formats::kIq2Levels[1], formats::kIq2Levels[2], 0};
constexpr int kIq1[4] = {-8, 0, 8, 16};

}  // namespace

constexpr IqEntries8<256> kIq2XxsEntries = entries8(formats::kIq2XxsGrid, kIq2);
constexpr IqEntries8<512> kIq2XsEntries = entries8(formats::kIq2XsGrid, kIq2);
constexpr IqEntries8<1024> kIq2SEntries = entries8(formats::kIq2SGrid, kIq2);
constexpr IqEntries4<256> kIq3XxsEntries = entries4(formats::kIq3XxsGrid, formats::kIq3XxsLevels);
constexpr IqEntries4<512> kIq3SEntries = entries4(formats::kIq3SGrid, formats::kIq3SLevels);
constexpr IqEntries8<2048> kIq1Entries = entries8(formats::kIq1Grid, kIq1);

}  // namespace kt::kernels::dot
