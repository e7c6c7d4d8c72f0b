// Every filter of the sampler on small distributions whose answer is known, and hostile parameters.
#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "base/error.h"

namespace kt::engine {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Every filter off, temperature 1.
SamplingParams plain() {
  SamplingParams p;
  p.temperature = 1.0f;
  p.top_k = 0;
  p.top_p = 1.0f;
  p.min_p = 0.0f;
  p.seed = 7;
  return p;
}

std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

std::vector<int> counts(const SamplingParams& params, const std::vector<float>& logits, int n,
                        std::vector<std::int32_t> history = {}) {
  Sampler sampler(params, static_cast<std::int64_t>(logits.size()));
  std::vector<int> seen(logits.size());
  for (int i = 0; i < n; ++i) ++seen[static_cast<std::size_t>(sampler.sample(logits, history).id)];
  return seen;
}

std::set<std::int32_t> support(const SamplingParams& params, const std::vector<float>& logits,
                               std::vector<std::int32_t> history = {}) {
  const std::vector<int> seen = counts(params, logits, 2000, std::move(history));
  std::set<std::int32_t> ids;
  for (std::size_t i = 0; i < seen.size(); ++i) {
    if (seen[i] != 0) ids.insert(static_cast<std::int32_t>(i));
  }
  return ids;
}

std::int32_t greedy(SamplingParams params, const std::vector<float>& logits,
                    std::vector<std::int32_t> history = {}) {
  params.temperature = 0.0f;
  return Sampler(params, static_cast<std::int64_t>(logits.size())).sample(logits, history).id;
}

using Ids = std::set<std::int32_t>;

TEST(Sampler, GreedyTakesTheLargestAndTheLowestIdOnTies) {
  EXPECT_EQ(greedy(plain(), {1, 5, 2}), 1);
  EXPECT_EQ(greedy(plain(), {1, 5, 5, 5}), 1);
  EXPECT_EQ(greedy(plain(), {-kInf, -3, -kInf}), 1);
}

TEST(Sampler, LogprobIsOfTheUnmodifiedLogits) {
  SamplingParams p = plain();
  p.temperature = 0.0f;
  p.logit_bias[2] = 100.0f;
  const std::vector<float> logits = logits_of({0.5, 0.3, 0.2});
  const SampledToken token = Sampler(p, 3).sample(logits, {});
  EXPECT_EQ(token.id, 2);
  EXPECT_NEAR(token.logprob, std::log(0.2), 1e-6);
}

TEST(Sampler, DrawsFollowTheDistribution) {
  const std::vector<int> seen = counts(plain(), logits_of({0.5, 0.3, 0.2}), 20000);
  EXPECT_NEAR(seen[0], 10000, 400);  // over 5 standard deviations
  EXPECT_NEAR(seen[1], 6000, 400);
  EXPECT_NEAR(seen[2], 4000, 400);
}

TEST(Sampler, TemperatureSharpensAndFlattens) {
  SamplingParams p = plain();
  p.temperature = 0.5f;  // probabilities squared: 0.8, 0.2
  EXPECT_NEAR(counts(p, logits_of({2.0 / 3, 1.0 / 3}), 20000)[0], 16000, 400);
  p.temperature = 100.0f;
  EXPECT_NEAR(counts(p, logits_of({2.0 / 3, 1.0 / 3}), 20000)[0], 10000, 500);
  p.temperature = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(support(p, {1, 2, 3}), Ids{2});
}

TEST(Sampler, TopK) {
  SamplingParams p = plain();
  p.top_k = 2;
  EXPECT_EQ(support(p, logits_of({0.1, 0.4, 0.2, 0.3})), (Ids{1, 3}));
  p.top_k = 1;
  EXPECT_EQ(support(p, {3, 3, 3}), Ids{0});
  p.top_k = 1000;
  EXPECT_EQ(support(p, {3, 3, 3}), (Ids{0, 1, 2}));
}

TEST(Sampler, TopP) {
  SamplingParams p = plain();
  p.top_p = 0.65f;  // 0.4 + 0.3 reaches it
  EXPECT_EQ(support(p, logits_of({0.1, 0.4, 0.2, 0.3})), (Ids{1, 3}));
  p.top_p = 0.0f;  // one always stays
  EXPECT_EQ(support(p, logits_of({0.1, 0.4, 0.2, 0.3})), Ids{1});
}

TEST(Sampler, MinP) {
  SamplingParams p = plain();
  p.min_p = 0.6f;  // at least 0.24
  EXPECT_EQ(support(p, logits_of({0.1, 0.4, 0.2, 0.3})), (Ids{1, 3}));
  p.min_p = 1.0f;
  EXPECT_EQ(support(p, logits_of({0.1, 0.4, 0.2, 0.3})), Ids{1});
}

TEST(Sampler, TypicalKeepsTokensOfAverageSurprise) {
  // Entropy 1.20 nats; surprises 0.69, 1.39, 2.30 …: the second is nearest, then the first.
  const std::vector<float> logits = logits_of({0.5, 0.25, 0.1, 0.1, 0.05});
  SamplingParams p = plain();
  p.typical_p = 0.2f;
  EXPECT_EQ(support(p, logits), Ids{1});
  p.typical_p = 0.5f;
  EXPECT_EQ(support(p, logits), (Ids{0, 1}));
}

TEST(Sampler, FiltersApplyInOrder) {
  // top_k 2 renormalises to 4/7, 3/7; top_p 0.5 then keeps one, which it would not without top_k.
  SamplingParams p = plain();
  p.top_p = 0.5f;
  EXPECT_EQ(support(p, logits_of({0.1, 0.4, 0.2, 0.3})), (Ids{1, 3}));
  p.top_k = 2;
  EXPECT_EQ(support(p, logits_of({0.1, 0.4, 0.2, 0.3})), Ids{1});
}

TEST(Sampler, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogits) {
  SamplingParams p = plain();
  p.repetition_penalty = 2.0f;
  EXPECT_EQ(greedy(p, {4, 3}, {0}), 1);        // 2 < 3
  EXPECT_EQ(greedy(p, {-1, -1.5}, {0}), 1);    // -2 < -1.5
  EXPECT_EQ(greedy(p, {4, 1}, {0, 0, 0}), 0);  // once per token, not per occurrence
}

TEST(Sampler, FrequencyCountsOccurrencesAndPresenceDoesNot) {
  SamplingParams p = plain();
  p.frequency_penalty = 1.0f;
  EXPECT_EQ(greedy(p, {4, 2.5}, {0}), 0);
  EXPECT_EQ(greedy(p, {4, 2.5}, {0, 0}), 1);
  p.frequency_penalty = 0.0f;
  p.presence_penalty = 1.0f;
  EXPECT_EQ(greedy(p, {4, 2.5}, {0, 0}), 0);
  p.presence_penalty = 2.0f;
  EXPECT_EQ(greedy(p, {4, 2.5}, {0}), 1);
}

TEST(Sampler, PenaltiesLookBackRepeatLastN) {
  SamplingParams p = plain();
  p.presence_penalty = 10.0f;
  p.repeat_last_n = 2;
  EXPECT_EQ(greedy(p, {4, 3, 2}, {0, 1, 1}), 0);
  p.repeat_last_n = 3;
  EXPECT_EQ(greedy(p, {4, 3, 2}, {0, 1, 1}), 2);
  p.repeat_last_n = -1;
  EXPECT_EQ(greedy(p, {4, 3, 2}, {0, 1, 1}), 2);
  p.repeat_last_n = 0;
  EXPECT_EQ(greedy(p, {4, 3, 2}, {0, 1, 1}), 0);
}

TEST(Sampler, LogitBiasForbidsAndForces) {
  SamplingParams p = plain();
  p.logit_bias = {{0, -kInf}};
  EXPECT_EQ(support(p, {9, 0, 0}), (Ids{1, 2}));
  p.logit_bias = {{2, kInf}};
  EXPECT_EQ(support(p, {9, 0, 0}), Ids{2});
}

TEST(Sampler, SameSeedSameTokens) {
  std::vector<float> logits(500);
  for (std::size_t i = 0; i < logits.size(); ++i)
    logits[i] = static_cast<float>((i * 37) % 101) * 0.05f;
  const auto run = [&](std::uint64_t seed) {
    SamplingParams p;
    p.seed = seed;
    Sampler sampler(p, 500);
    EXPECT_NE(sampler.seed(), 0u);
    std::vector<std::int32_t> ids;
    for (int i = 0; i < 50; ++i) ids.push_back(sampler.sample(logits, ids).id);
    return ids;
  };
  EXPECT_EQ(run(1), run(1));
  EXPECT_NE(run(1), run(2));
  EXPECT_NE(run(0), run(0));  // entropy
}

TEST(Sampler, NothingFiniteGivesNoToken) {
  for (const float temperature : {0.0f, 1.0f}) {
    SamplingParams p = plain();
    p.temperature = temperature;
    EXPECT_EQ(Sampler(p, 2).sample(std::vector<float>{kNan, 1.0f}, {}).id, -1);
    EXPECT_EQ(Sampler(p, 2).sample(std::vector<float>{-kInf, -kInf}, {}).id, -1);
    p.logit_bias = {{0, -kInf}, {1, -kInf}};
    EXPECT_EQ(Sampler(p, 2).sample(std::vector<float>{1.0f, 2.0f}, {}).id, -1);
  }
}

TEST(Sampler, ExtremeLogitsStayInTheVocabulary) {
  const float most = std::numeric_limits<float>::max();
  SamplingParams p = plain();
  p.repetition_penalty = 1e-30f;
  p.temperature = 1e-30f;
  EXPECT_EQ(support(p, {most, -most, 0}, {0}), Ids{0});
  EXPECT_EQ(support(p, {kInf, 1, 2}), Ids{0});
}

TEST(SamplingParams, RefusesWhatIsOutOfRangeByName) {
  const auto refused = [](auto change, const std::string& field) {
    SamplingParams p;
    change(p);
    try {
      p.validate(10);
      ADD_FAILURE() << field << " was accepted";
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      EXPECT_EQ(e.path(), field);
    }
  };
  for (const float bad : {-0.1f, 1e9f, kNan, kInf}) {
    refused([&](auto& p) { p.temperature = bad; }, "temperature");
    refused([&](auto& p) { p.top_p = bad; }, "top_p");
    refused([&](auto& p) { p.min_p = bad; }, "min_p");
    refused([&](auto& p) { p.typical_p = bad; }, "typical_p");
    refused([&](auto& p) { p.repetition_penalty = bad; }, "repetition_penalty");
  }
  refused([](auto& p) { p.repetition_penalty = 0.0f; }, "repetition_penalty");
  refused([](auto& p) { p.top_k = -1; }, "top_k");
  refused([](auto& p) { p.repeat_last_n = -2; }, "repeat_last_n");
  refused([](auto& p) { p.frequency_penalty = kNan; }, "frequency_penalty");
  refused([](auto& p) { p.presence_penalty = -1e6f; }, "presence_penalty");
  refused([](auto& p) { p.logit_bias[10] = 1.0f; }, "logit_bias");
  refused([](auto& p) { p.logit_bias[-1] = 1.0f; }, "logit_bias");
  refused([](auto& p) { p.logit_bias[1] = kNan; }, "logit_bias");
  EXPECT_NO_THROW(SamplingParams{}.validate(10));
}

TEST(Sampler, TheMaskComesBeforeAllElse) {
  const std::vector<std::uint32_t> mask = {0b0110};
  SampleOptions options;
  options.mask = mask;
  SamplingParams p = plain();
  p.logit_bias[3] = kInf;
  p.repetition_penalty = 1.5f;
  const std::vector<std::int32_t> history = {0, 1, 2, 3};
  const std::vector<float> logits = {5, 1, 2, 4};
  Sampler sampler(p, 4);
  for (int i = 0; i < 200; ++i) {
    const std::int32_t id = sampler.sample(logits, history, options).id;
    EXPECT_TRUE(id == 1 || id == 2);
  }
  p.temperature = 0.0f;
  EXPECT_EQ(Sampler(p, 4).sample(logits, history, options).id, 2);
  const std::vector<std::uint32_t> none = {0};
  options.mask = none;
  EXPECT_EQ(Sampler(p, 4).sample(logits, history, options).id, -1);
  // Ids beyond the mask may not come.
  const std::vector<float> long_logits(40, 1.0f);
  const std::vector<std::uint32_t> high = {0x80000000u};
  options.mask = high;
  EXPECT_EQ(Sampler(plain(), 40).sample(long_logits, {}, options).id, 31);
}

TEST(Sampler, TopLogprobsAreOfTheUnmodifiedLogits) {
  SamplingParams p = plain();
  p.temperature = 0.0f;
  p.logit_bias[3] = 100.0f;
  SampleOptions options;
  options.n_top = 3;
  const SampledToken token = Sampler(p, 4).sample(logits_of({0.2, 0.5, 0.2, 0.1}), {}, options);
  EXPECT_EQ(token.id, 3);
  ASSERT_EQ(token.top.size(), 3u);
  EXPECT_EQ(token.top[0].id, 1);
  EXPECT_EQ(token.top[1].id, 0);  // the lowest id on ties
  EXPECT_EQ(token.top[2].id, 2);
  EXPECT_NEAR(token.top[0].logprob, std::log(0.5), 1e-6);
  EXPECT_NEAR(token.logprob, std::log(0.1), 1e-6);
  options.n_top = 20;
  EXPECT_EQ(Sampler(p, 4).sample(logits_of({0.2, 0.5, 0.2, 0.1}), {}, options).top.size(), 4u);
  EXPECT_TRUE(Sampler(p, 4).sample(logits_of({0.2, 0.5, 0.2, 0.1}), {}).top.empty());
}

}  // namespace
}  // namespace kt::engine
