#include "serve/models.h"

#include <gtest/gtest.h>

namespace kt::serve {
namespace {

TEST(ModelNames, ComparesAsClientsMean) {
  EXPECT_TRUE(same_model("Qwen3:latest", "qwen3"));
  EXPECT_TRUE(same_model("library/qwen3", "Qwen3"));
  EXPECT_TRUE(same_model("registry.ollama.ai/library/qwen3:30b", "qwen3:30b"));
  EXPECT_FALSE(same_model("qwen3:8b", "qwen3:30b"));
  EXPECT_FALSE(same_model("qwen3:8b", "qwen3"));
}

}  // namespace
}  // namespace kt::serve
