#include "formats/iq_neighbours.h"

#include <algorithm>
#include <array>
#include <utility>

namespace kt::formats {

GridNeighbours::GridNeighbours(const GridShape& shape, const float* levels) {
  for (int e = 0; e < shape.n_entries; ++e) {
    for (int i = 0; i < shape.group; ++i) {
      numbers_[e][i] =
          static_cast<std::uint8_t>((shape.grid[e] >> (shape.bits * i)) & ((1 << shape.bits) - 1));
    }
  }
  int n_points = 1;
  for (int i = 0; i < shape.group; ++i) n_points *= shape.n_levels;
  std::array<std::pair<float, std::uint16_t>, 2048> ranked;
  for (int point = 0; point < n_points; ++point) {
    float at[8];
    for (int i = 0, rest = point; i < shape.group; ++i, rest /= shape.n_levels) {
      at[i] = levels[rest % shape.n_levels];
    }
    for (int e = 0; e < shape.n_entries; ++e) {
      float distance = 0.0f;
      for (int i = 0; i < shape.group; ++i) {
        const float d = at[i] - levels[numbers_[e][i]];
        distance += d * d;
      }
      ranked[static_cast<std::size_t>(e)] = {distance, static_cast<std::uint16_t>(e)};
    }
    const auto end = ranked.begin() + shape.n_entries;
    std::nth_element(ranked.begin(), ranked.begin() + kNeighbours - 1, end);
    std::sort(ranked.begin(), ranked.begin() + kNeighbours);
    for (int k = 0; k < kNeighbours; ++k) {
      lists_[point][k] = ranked[static_cast<std::size_t>(k)].second;
    }
  }
}

}  // namespace kt::formats
