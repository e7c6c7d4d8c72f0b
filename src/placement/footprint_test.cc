#include "placement/footprint.h"

#include <gtest/gtest.h>

#include "operators/expert_blocking.h"

namespace kt::placement {
namespace {

constexpr int kThreads = 8;

io::ModelConfig moe() {
  io::ModelConfig c;
  c.d_model = 2048;
  c.n_heads = c.n_kv_heads = 16;
  c.head_dim = 128;
  c.vocab_size = 1000;
  c.moe.n_experts = 64;
  c.moe.n_active = 8;
  c.moe.d_ff = 768;
  return c;
}

std::uint64_t workspace(CpuCaps caps, std::int64_t chunk,
                        backend::ActPolicy act = backend::ActPolicy::kQ16) {
  return workspace_bytes(moe(), {}, chunk, {caps, act, kThreads, false});
}

TEST(Workspace, CountsWhatExpertsTakeByTiles) {
  constexpr CpuCaps kVectors = kAvx2 | kAvx512, kTiles = kVectors | kAmx;
  const operators::ExpertBlocking few, tiles = operators::tile_blocking(2048, kThreads);
  const std::int64_t floats =
      tiles.gate_up_floats() + tiles.down_floats() - few.gate_up_floats() - few.down_floats();
  const std::int64_t filling = 64 * 15 * (2048 + 768);  // in bf16
  EXPECT_EQ(workspace(kTiles, 512) - workspace(kVectors, 512),
            static_cast<std::uint64_t>(4 * kThreads * floats + 2 * filling));
  EXPECT_EQ(workspace(kTiles, backend::kBatchRows - 1),
            workspace(kVectors, backend::kBatchRows - 1));
  EXPECT_EQ(workspace(kVectors | kAvx512Bf16, 512), workspace(kTiles, 512)) << "rows by tiles too";
  EXPECT_EQ(workspace(kTiles, 512, backend::ActPolicy::kF32),
            workspace(kVectors, 512, backend::ActPolicy::kF32));
}

}  // namespace
}  // namespace kt::placement
