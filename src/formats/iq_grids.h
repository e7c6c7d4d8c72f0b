// Codebooks of the IQ formats, packed: an entry holds 8 two-bit level numbers (value i at bit 2i),
// or for IQ3 four nibbles (value i at bit 4i).
//
//   IQ2 levels 8, 25, 43;  IQ1 levels -1, 0, 1 (number - 1);  IQ3 levels in kIq3*Levels
// Source: facts of the GGUF formats.
// Thread rule: constants.
#pragma once
#include <cstdint>

namespace kt::formats {

inline constexpr std::uint8_t kIq2Levels[4] = {8, 25, 43, 0};
inline constexpr std::uint8_t kIq3XxsLevels[8] = {4, 12, 20, 28, 36, 44, 52, 62};
inline constexpr std::uint8_t kIq3SLevels[8] = {1, 3, 5, 7, 9, 11, 13, 15};

extern const std::uint16_t kIq2XxsGrid[256];
extern const std::uint16_t kIq2XsGrid[512];
extern const std::uint16_t kIq2SGrid[1024];
extern const std::uint16_t kIq3XxsGrid[256];
extern const std::uint16_t kIq3SGrid[512];
extern const std::uint16_t kIq1Grid[2048];

}  // namespace kt::formats
