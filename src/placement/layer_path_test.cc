#include "placement/layer_path.h"

#include <gtest/gtest.h>

namespace kt::placement {
namespace {

TEST(SplitLayer, TakesPathsApartAtTheNumber) {
  const LayerPath path = split_layer("model.layers.12.mlp.experts");
  EXPECT_EQ(path.before, "model.layers.");
  EXPECT_EQ(path.number, 12);
  EXPECT_EQ(path.after, ".mlp.experts");
  EXPECT_EQ(path.with("#"), "model.layers.#.mlp.experts");
  EXPECT_EQ(split_layer("model.layers.3").after, "");
}

TEST(SplitLayer, OtherPathsStayWhole) {
  for (const char* text : {"", "lm_head", "model.layers", "model.layers.", "model.layers.x.mlp",
                           "model.layers.99999999999999999999.mlp"}) {
    const LayerPath path = split_layer(text);
    EXPECT_EQ(path.number, -1) << text;
    EXPECT_EQ(path.with("#"), text);
  }
}

TEST(LayerGroups, MergesEqualKeysOfOnePlaceInOrder) {
  LayerGroups<int> groups;
  groups.at("layers.0.a", "x", 0) += 1;
  groups.at("layers.0.b", "x", 0) += 10;
  groups.at("layers.1.a", "x", 0) += 2;
  groups.at("layers.2.a", "y", 0) += 4;
  groups.at("head", "x", 0) += 8;
  ASSERT_EQ(groups.groups().size(), 4u);
  EXPECT_EQ(groups.groups()[0].value, 3);
  EXPECT_EQ(groups.groups()[0].layers, (std::vector<std::int64_t>{0, 1}));
  EXPECT_EQ(groups.groups()[1].path, "layers.0.b");
  EXPECT_EQ(groups.groups()[2].value, 4);
  EXPECT_TRUE(groups.groups()[3].layers.empty());
}

TEST(LayerRanges, ShortensRunsOfNumbers) {
  EXPECT_EQ(layer_ranges({7}), "7");
  EXPECT_EQ(layer_ranges({0, 1, 2, 5}), "{0-2,5}");
}

}  // namespace
}  // namespace kt::placement
