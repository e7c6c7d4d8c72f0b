// What attention on a GPU takes of its memory.
#include "operators/gpu_attention.h"

#include <gtest/gtest.h>

namespace kt::operators {
namespace {

TEST(GpuAttentionBytes, AreForHeadsWithoutAKernel) {
  io::ModelConfig c;
  c.n_heads = 16;
  c.head_dim = 128;
  EXPECT_EQ(gpu_attention_bytes(c, 512, 8192), 0u);
  c.head_dim = 96;
  EXPECT_EQ(gpu_attention_bytes(c, 512, 8192), std::uint64_t{512} * 16 * 8192 * 4);
}

}  // namespace
}  // namespace kt::operators
