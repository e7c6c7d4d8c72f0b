// How a step's experts are divided between the CPU and a GPU.
#include "operators/expert_rates.h"

#include <gtest/gtest.h>

#include <numeric>

namespace kt::operators {
namespace {

// 1 ms an expert over the link; on the CPU 0.5 ms and 0.1 ms for each row.
constexpr ExpertRates kRates{0.5e-3, 0.1e-3, 0.0, 1e9, 0.0};
constexpr std::size_t kBytes = 1'000'000;

std::vector<ExpertLoad> loads_of(const std::vector<std::int64_t>& rows) {
  std::vector<ExpertLoad> loads;
  for (std::size_t i = 0; i < rows.size(); ++i)
    loads.push_back({static_cast<std::int32_t>(i), rows[i]});
  return loads;
}

TEST(ExpertRates, FewRowsStayOnTheCpuAndManyGoToTheGpu) {
  const auto streamed = [](std::int64_t rows) {
    return streamed_experts(kRates, loads_of(std::vector<std::int64_t>(16, rows)), kBytes, 0)
        .size();
  };
  EXPECT_LE(streamed(1), 7u);    // 0.6 ms there, 1 ms here
  EXPECT_GE(streamed(40), 13u);  // 4.5 ms there
  EXPECT_EQ(streamed(1000), 16u);
}

TEST(ExpertRates, TheGpuGetsTheExpertsWithMostRows) {
  const auto streamed = streamed_experts(kRates, loads_of({1, 90, 2, 70, 1, 80}), kBytes, 0);
  EXPECT_EQ(streamed, (std::vector<std::int32_t>{1, 3, 5}));
}

TEST(ExpertRates, WhatTheStepCostsTheCpuCountsOnceAnyExpertStays) {
  ExpertRates rates = kRates;
  rates.step_row = 1e-3;
  EXPECT_EQ(streamed_experts(rates, loads_of({40, 40, 1, 1}), kBytes, 100).size(), 4u);
  EXPECT_TRUE(streamed_experts(kRates, loads_of({1}), kBytes, 100).empty());
}

TEST(ExpertRates, WhatIsOnItsWayGoesFirst) {
  auto loads = loads_of({6, 6, 6, 6, 2, 2, 2, 2});
  loads[6].sent = loads[7].sent = true;
  const auto streamed = streamed_experts(kRates, loads, kBytes, 0);
  ASSERT_GE(streamed.size(), 2u);
  EXPECT_LT(streamed.size(), 8u);
  EXPECT_EQ(std::vector<std::int32_t>(streamed.end() - 2, streamed.end()),
            (std::vector<std::int32_t>{6, 7}));
}

TEST(ExpertRates, ASlowGpuIsSeen) {
  ExpertRates rates = kRates;
  rates.gpu_row = 1.0;
  EXPECT_TRUE(streamed_experts(rates, loads_of({100, 100}), kBytes, 0).empty());
}

}  // namespace
}  // namespace kt::operators
