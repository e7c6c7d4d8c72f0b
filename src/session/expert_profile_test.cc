// Profiles of experts: both forms, damaged files, files of other models.
#include "session/expert_profile.h"

#include <gtest/gtest.h>

#include <fstream>

#include "io/gguf_writer.h"
#include "io/test_files.h"

namespace kt::session {
namespace {

class ExpertProfileTest : public testing::Test {
 protected:
  ExpertProfileTest() {
    config_.architecture = "qwen3_moe";
    config_.n_layers = 2;
    config_.moe.n_experts = 4;
    config_.moe.n_active = 2;
  }
  operators::ExpertProfile read(const std::string& text) {
    std::ofstream(folder_ / "uses.json") << text;
    return read_expert_profile(folder_ / "uses.json", config_);
  }
  ErrorCode refused(const std::string& text) {
    try {
      read(text);
    } catch (const Error& e) {
      return e.code();
    }
    ADD_FAILURE() << "accepted: " << text;
    return ErrorCode::kInternal;
  }
  io::testing::TemporaryFolder folder_;
  io::ModelConfig config_;
};

TEST_F(ExpertProfileTest, CountsBecomeUsesOfARow) {
  const auto profile = read(R"({"format": "kt-expert-uses", "uses": {
      "model.layers.0.mlp.experts": [10, 30, 0, 40], "model.layers.1.mlp.experts": [0, 0, 0, 0]}})");
  ASSERT_EQ(profile.size(), 2u);
  EXPECT_EQ(profile.at(0), (std::vector<float>{0.25f, 0.75f, 0.0f, 1.0f}));
  EXPECT_EQ(profile.at(1), std::vector<float>(4));
}

TEST_F(ExpertProfileTest, ImportanceMatricesCountExpertsToo) {
  const std::string path = folder_ / "imatrix.gguf";
  io::GgufWriter writer(path);
  writer.add_tensor("blk.1.ffn_down_exps.weight.counts", formats::Format::kF32, {4, 1});
  writer.add_tensor("blk.1.attn_q.weight.counts", formats::Format::kF32, {1, 1});
  writer.begin_data();
  const std::vector<float> counts = {10, 30, 0, 40}, one = {40};
  writer.append(std::as_bytes(std::span(counts)));
  writer.append(std::as_bytes(std::span(one)));
  writer.finish();
  const auto profile = read_expert_profile(path, config_);
  ASSERT_EQ(profile.size(), 1u);
  EXPECT_EQ(profile.at(1), (std::vector<float>{0.25f, 0.75f, 0.0f, 1.0f}));
}

TEST_F(ExpertProfileTest, OtherFilesAreErrors) {
  const std::string layer =
      R"({"format": "kt-expert-uses", "uses": {"model.layers.0.mlp.experts": )";
  EXPECT_EQ(refused(""), ErrorCode::kBadFile);
  EXPECT_EQ(refused("[1]"), ErrorCode::kBadFile);
  EXPECT_EQ(refused(R"({"format": 1})"), ErrorCode::kBadFile);
  EXPECT_EQ(refused(R"({"format": "kt-expert-uses", "uses": 5})"), ErrorCode::kBadFile);
  EXPECT_EQ(refused(R"({"format": "kt-expert-uses", "uses": {}})"), ErrorCode::kBadFile);
  EXPECT_EQ(refused(R"({"format": "kt-expert-uses", "uses": {"experts": [1, 2, 3, 4]}})"),
            ErrorCode::kBadFile);
  EXPECT_EQ(refused(layer + "7}}"), ErrorCode::kBadFile);
  EXPECT_EQ(refused(layer + R"([1, 2, "3", 4]}})"), ErrorCode::kBadFile);
  EXPECT_EQ(refused(layer + "[1, 2, -3, 4]}}"), ErrorCode::kBadFile);
  EXPECT_EQ(refused(layer + "[1, 2, 3]}}"), ErrorCode::kMismatch);
  EXPECT_EQ(refused(std::string(100000, '[')), ErrorCode::kBadFile);
  EXPECT_THROW(read_expert_profile(folder_ / "none", config_), Error);
  config_.moe.n_experts = 0;
  EXPECT_EQ(refused(layer + "[]}}"), ErrorCode::kUsage);
}

}  // namespace
}  // namespace kt::session
