#include "serve/models.h"

#include <gtest/gtest.h>

#include <future>

#include "base/error.h"

namespace kt::serve {
namespace {

TEST(ModelNames, ComparesAsClientsMean) {
  EXPECT_TRUE(same_model("Qwen3:latest", "qwen3"));
  EXPECT_TRUE(same_model("library/qwen3", "Qwen3"));
  EXPECT_TRUE(same_model("registry.ollama.ai/library/qwen3:30b", "qwen3:30b"));
  EXPECT_FALSE(same_model("qwen3:8b", "qwen3:30b"));
  EXPECT_FALSE(same_model("qwen3:8b", "qwen3"));
}

ModelOptions tiny_moe(const std::string& id) {
  ModelOptions options;
  options.id = id;
  options.session.model = std::string(KT_SOURCE_DIR) + "/models/tiny-moe/tiny-moe-q4_k_m.gguf";
  options.session.context = 64;
  options.session.n_threads = 1;
  return options;
}

std::shared_ptr<ServedModel> wait_for_model(Models& models, const std::string& name) {
  while (true) {
    std::shared_ptr<ServedModel> model;  // kept while it is being opened
    try {
      return models.get(name);
    } catch (const Loading& loading) {
      model = loading.model();
    }
    std::promise<void> opened;
    model->when_opened([&] { opened.set_value(); });
    opened.get_future().wait();
  }
}

TEST(Models, ALeaseKeepsAModelOpenAndNothingElseDoes) {
  Models models({tiny_moe("first"), tiny_moe("second")}, Models::Duration(0));
  EXPECT_EQ(models.peek("second"), nullptr);
  std::shared_ptr<ServedModel> lease = wait_for_model(models, "second");
  const std::shared_ptr<ServedModel> seen = models.peek("second");
  std::this_thread::sleep_for(std::chrono::milliseconds(2500));  // idle ones go each second
  EXPECT_EQ(models.peek("second"), seen);
  EXPECT_FALSE(lease->tokenize("text", false, false).empty());
  lease.reset();
  for (int i = 0; i < 1000 && models.peek("second") != nullptr; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(models.peek("second"), nullptr);
  EXPECT_EQ(models.facts("second")->context, 64);  // known without opening it
  EXPECT_EQ(models.peek("second"), nullptr);
}

TEST(Models, WhoWaitedForAModelThatCannotBeOpenedIsToldAndTheNextTriesAgain) {
  ModelOptions bad = tiny_moe("bad");
  bad.session.model = "/nowhere/model.gguf";
  Models models({tiny_moe("first"), bad}, Models::Duration(1000));
  int n_told = 0;
  for (int i = 0; i < 2; ++i) {
    std::shared_ptr<ServedModel> model;
    try {
      models.get("bad");
    } catch (const Loading& loading) {
      model = loading.model();
    } catch (const Error&) {
      ++n_told;  // it failed at once
      continue;
    }
    ASSERT_NE(model, nullptr);
    EXPECT_THROW(model->wait_open(std::chrono::minutes(1)), Error);
    EXPECT_EQ(model->state(), ServedModel::State::kFailed);
    EXPECT_THROW(model->facts(), Error);
    ++n_told;
  }
  EXPECT_EQ(n_told, 2);
}

}  // namespace
}  // namespace kt::serve
