// Neighbour tables against a search of the whole grid.
#include "formats/iq_neighbours.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <set>
#include <vector>

#include "formats/iq_grids.h"

namespace kt::formats {
namespace {

void check(const GridShape& shape, const float* levels) {
  const auto near = std::make_unique<GridNeighbours>(shape, levels);
  const auto distance = [&](const int* point, int entry) {
    float sum = 0.0f;
    for (int i = 0; i < shape.group; ++i) {
      const float d = levels[point[i]] - levels[near->numbers(entry)[i]];
      sum += d * d;
    }
    return sum;
  };
  int n_points = 1;
  for (int i = 0; i < shape.group; ++i) n_points *= shape.n_levels;
  for (int point = 0; point < n_points; point += 37) {
    int number[8];
    for (int i = 0, rest = point; i < shape.group; ++i, rest /= shape.n_levels)
      number[i] = rest % shape.n_levels;
    std::vector<float> all;
    for (int e = 0; e < shape.n_entries; ++e) all.push_back(distance(number, e));
    std::sort(all.begin(), all.end());
    std::set<int> listed;
    for (int k = 0; k < GridNeighbours::kNeighbours; ++k) {
      const int entry = near->of(point)[k];
      listed.insert(entry);
      ASSERT_EQ(distance(number, entry), all[static_cast<std::size_t>(k)]) << point << " " << k;
    }
    ASSERT_EQ(listed.size(), std::size_t{GridNeighbours::kNeighbours}) << point;
  }
  for (int e = 0; e < shape.n_entries; ++e) {  // an entry is its own nearest
    int point = 0;
    for (int i = shape.group; i-- > 0;) point = point * shape.n_levels + near->numbers(e)[i];
    ASSERT_EQ(near->of(point)[0], e);
  }
}

TEST(GridNeighbours, AreTheNearestEntriesOfTheWholeGrid) {
  constexpr float kSigned[3] = {-1, 0, 1}, kMagnitudes[3] = {8, 25, 43};
  check({kIq1Grid, 2048, 8, 2, 3}, kSigned);
  check({kIq2XxsGrid, 256, 8, 2, 3}, kMagnitudes);
  check({kIq2SGrid, 1024, 8, 2, 3}, kMagnitudes);
  float levels[8];
  std::copy_n(kIq3XxsLevels, 8, levels);
  check({kIq3XxsGrid, 256, 4, 4, 8}, levels);
  std::copy_n(kIq3SLevels, 8, levels);
  check({kIq3SGrid, 512, 4, 4, 8}, levels);
}

}  // namespace
}  // namespace kt::formats
