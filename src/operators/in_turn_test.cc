#include "operators/in_turn.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace kt::operators {
namespace {

// Every task once, on its node, none before what it may rely on; with more workers than tasks or
// CPUs, stages without tasks, and nodes without any.
TEST(InTurn, TasksFindTheStageBeforeTheLastDone) {
  const std::vector<std::vector<WorkerGroup>> machines = {
      {{0, 1, {}}}, {{0, 3, {}}}, {{0, 40, {}}}, {{0, 2, {}}, {0, 1, {}}}};
  const std::vector<std::vector<std::int64_t>> sizes = {
      {7, 9, 5, 5}, {1, 0, 2, 0}, {0, 0, 3, 3}, {100, 1, 0, 64}, {0, 0, 0, 0}};
  for (const auto& machine : machines) {
    backend::Cpu cpu({.workers = machine}, detect_caps(), backend::ActPolicy::kQ16);
    for (const auto& n : sizes) {
      tensor::Arena arena;
      const Batch batch;
      Step step{batch, cpu, arena, {}};
      const auto count = [&](std::size_t stage, int node) { return node == 0 ? n[stage] : 2; };
      std::vector<std::int64_t> total = n;
      if (machine.size() > 1)
        for (std::int64_t& of_stage : total) of_stage += 2;
      bool prepared = false;
      std::vector<std::atomic<std::int64_t>> done(4);
      std::vector<std::vector<std::atomic<int>>> hits(8);
      for (std::size_t i = 0; i < 8; ++i)
        hits[i] =
            std::vector<std::atomic<int>>(static_cast<std::size_t>(std::max(n[i / 2], INT64_C(2))));
      for (int repeat = 1; repeat <= 50; ++repeat) {
        prepared = false;
        for (auto& of_stage : done) of_stage = 0;
        run_in_turn<4>(
            step, [&] { prepared = true; }, count,
            [&](std::size_t stage, int node, std::int64_t index, int worker) {
              EXPECT_TRUE(prepared);
              EXPECT_EQ(cpu.pool.node_of(worker), node);
              if (stage >= 2) {
                EXPECT_EQ(done[stage - 2], total[stage - 2]);
              }
              ++hits[2 * stage + static_cast<std::size_t>(node)][static_cast<std::size_t>(index)];
              ++done[stage];
            });
        for (std::size_t s = 0; s < 4; ++s) EXPECT_EQ(done[s], total[s]);
        for (std::size_t i = 0; i < 2 * n.size(); ++i) {
          const auto node = static_cast<int>(i % 2);
          if (node >= cpu.pool.n_nodes()) continue;
          for (std::int64_t task = 0; task < count(i / 2, node); ++task)
            EXPECT_EQ(hits[i][static_cast<std::size_t>(task)], repeat);
        }
      }
    }
  }
}

}  // namespace
}  // namespace kt::operators
