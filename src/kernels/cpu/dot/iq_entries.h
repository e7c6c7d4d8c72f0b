// Codebook entries of the IQ formats as bytes, one per value, for kernels that look them up: level
// + kIqBias, so that an entry with some signs flipped (2 kIqBias - byte) is unsigned too. Levels of
// IQ1 are in eighths, without the offset of an eighth.
// Thread rule: constants.
#pragma once
#include <cstdint>

namespace kt::kernels::dot {

inline constexpr int kIqBias = 64;

template <int kCount>
struct IqEntries8 {
  std::uint64_t v[kCount];  // byte i: value i
};
template <int kCount>
struct IqEntries4 {
  std::uint32_t v[kCount];
};

extern const IqEntries8<256> kIq2XxsEntries;
extern const IqEntries8<512> kIq2XsEntries;
extern const IqEntries8<1024> kIq2SEntries;
extern const IqEntries4<256> kIq3XxsEntries;
extern const IqEntries4<512> kIq3SEntries;
extern const IqEntries8<2048> kIq1Entries;

}  // namespace kt::kernels::dot
