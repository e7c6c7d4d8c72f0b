// The table of what runs where, over a tree of made-up modules.
#include "placement/explain.h"

#include <gtest/gtest.h>

#include <memory>

namespace kt::placement {
namespace {

class Leaf : public operators::Module {
 public:
  Leaf(std::string path, std::string op, std::uint64_t bytes, std::string format,
       std::string device)
      : Module({std::move(path), std::move(op), "", std::move(device)}, "Linear"),
        bytes_(bytes),
        format_(std::move(format)) {}
  std::vector<operators::WeightSpec> weights() const override {
    return {{path() + ".weight", {4, 4}}};
  }
  std::uint64_t weight_bytes() const override { return bytes_; }
  std::string weight_format() const override { return format_; }

 private:
  std::uint64_t bytes_;
  std::string format_;
};

class Group : public operators::Module {
 public:
  explicit Group(std::string path) : Module({std::move(path), "Group", "", "cpu"}, "Model") {}
};

class ExplainTest : public testing::Test {
 protected:
  void leaf(const std::string& path, std::uint64_t bytes, const std::string& format,
            const char* op = "KLinear", const char* device = "cpu") {
    leaves_.push_back(std::make_unique<Leaf>(path, op, bytes, format, device));
    root_.add_child(*leaves_.back());
  }
  std::vector<std::string> paths() {
    std::vector<std::string> out;
    for (const ExplainRow& row : explain(root_, placement_)) out.push_back(row.path);
    return out;
  }
  Group root_{""};
  std::vector<std::unique_ptr<Leaf>> leaves_;
  operators::Placement placement_;
};

using Paths = std::vector<std::string>;

TEST_F(ExplainTest, EqualLayersAreOneRowInTreeOrder) {
  leaf("model.embed_tokens", 1000, "F16");
  for (int i = 0; i < 4; ++i) {
    leaf("model.layers." + std::to_string(i) + ".q_proj", 100, "Q4_K");
    leaf("model.layers." + std::to_string(i) + ".v_proj", 10, "Q6_K");
  }
  leaf("lm_head", 5, "Q6_K");
  const auto rows = explain(root_, placement_);
  EXPECT_EQ(paths(), (Paths{"model.embed_tokens", "model.layers.{0-3}.q_proj",
                            "model.layers.{0-3}.v_proj", "lm_head"}));
  EXPECT_EQ(rows[1].bytes, 400u);
  EXPECT_EQ(rows[1].format, "Q4_K");
  EXPECT_EQ(rows[1].device, "cpu");
  EXPECT_EQ(rows[1].reason, "default");
  EXPECT_EQ(rows[1].op, "KLinear");
}

TEST_F(ExplainTest, FormatOperatorAndDeviceSeparateRows) {
  for (const int i : {0, 1, 2, 5, 7, 8})
    leaf("model.layers." + std::to_string(i) + ".down", 1, i == 7 ? "Q6_K" : "Q4_K");
  leaf("model.layers.9.down", 1, "Q4_K", "Other");
  leaf("model.layers.10.down", 1, "Q4_K", "KLinear", "cuda:0");
  placement_.entries["model.layers.10.down"] = {"KLinear", "cuda:0", "rule 3"};
  EXPECT_EQ(paths(), (Paths{"model.layers.{0-2,5,8}.down", "model.layers.7.down",
                            "model.layers.9.down", "model.layers.10.down"}));
  const auto rows = explain(root_, placement_);
  EXPECT_EQ(rows[3].device, "cuda:0");
  EXPECT_EQ(rows[3].reason, "rule 3");
}

TEST_F(ExplainTest, ModulesWithoutWeightsHaveNoRow) {
  Group inner("model.layers.0");
  root_.add_child(inner);
  EXPECT_TRUE(explain(root_, placement_).empty());
}

TEST_F(ExplainTest, TheTableIsAlignedAndAddsUp) {
  leaf("model.embed_tokens", 3 << 20, "F16");
  leaf("lm_head", 512 << 10, "Q6_K", "KAnotherLinear");
  const std::string table = explain_table(root_, placement_);
  EXPECT_EQ(table,
            "module              operator        device  format     memory  why\n"
            "model.embed_tokens  KLinear         cpu     F16       3.0 MiB  default\n"
            "lm_head             KAnotherLinear  cpu     Q6_K    512.0 KiB  default\n"
            "total                                                 3.5 MiB\n");
}

}  // namespace
}  // namespace kt::placement
