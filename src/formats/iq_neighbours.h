// Nearest grid entries of the IQ formats, found by table: every combination of level numbers a
// group can round to lists the entries closest to it, so that an encoder weighs a handful of
// entries instead of the whole grid.
//
//   point = Σ number[i] * n_levels^i   →   kNeighbours entries, closest first
// Thread rule: built once, then constant.
#pragma once
#include <cstdint>

namespace kt::formats {

/// What a grid holds: groups of level numbers, packed as iq_grids.h says.
struct GridShape {
  const std::uint16_t* grid = nullptr;
  int n_entries = 0;  // at least kNeighbours, at most 2048
  int group = 0;      // numbers per entry: 8 or 4
  int bits = 0;       // per number
  int n_levels = 0;   // n_levels^group is at most kMaxPoints
};

class GridNeighbours {
 public:
  static constexpr int kNeighbours = 16;
  static constexpr int kMaxPoints = 6561;  // 3^8; IQ3 has 8^4

  /// `levels` [n_levels] are the values distances are measured in.
  GridNeighbours(const GridShape& shape, const float* levels);
  /// The entries nearest to a point; kNeighbours of them.
  const std::uint16_t* of(int point) const { return lists_[point]; }
  /// Level numbers of an entry.
  const std::uint8_t* numbers(int entry) const { return numbers_[entry]; }

 private:
  std::uint16_t lists_[kMaxPoints][kNeighbours] = {};
  std::uint8_t numbers_[2048][8] = {};
};

}  // namespace kt::formats
