// The generate loop with guessed tokens (engine/prompt_lookup.h): the same tokens as without.
#include <gtest/gtest.h>

#include <new>
#include <stdexcept>

#include "engine/test_engine.h"

namespace kt::engine {
namespace {

class PromptLookupTest : public EngineTest {
 protected:
  std::unique_ptr<Engine> make_guessing(std::int64_t context = 512, std::int64_t kv_tokens = 0) {
    EngineOptions options;
    options.prompt_lookup = true;
    return make(context, 32, kv_tokens, options);
  }
  // Three tokens in any order: guesses are there, and right by chance.
  static Request drawn(std::int32_t seed) {
    Request r = request(40, 150, seed);
    r.sampling.temperature = 1.0f;
    r.sampling.seed = static_cast<std::uint64_t>(seed) + 1;
    for (const std::int32_t id : {5, 6, 7}) r.sampling.logit_bias[id] = 50.0f;
    r.n_top_logprobs = 2;
    return r;
  }
};

TEST_F(PromptLookupTest, GivesTheSameTokens) {
  auto engine = make_guessing(512, 4096);
  std::int64_t n_drafted = 0, n_accepted = 0;
  std::vector<Engine::RequestId> ids;
  for (std::int32_t i = 0; i < 6; ++i) ids.push_back(engine->submit(drawn(i)));
  while (engine->step()) {
  }
  for (std::int32_t i = 0; i < 6; ++i) {
    const auto result = engine->take_result(ids[static_cast<std::size_t>(i)]);
    EXPECT_EQ(result->tokens, alone(drawn(i))) << i;
    EXPECT_EQ(result->n_decoded, 149);
    n_drafted += result->n_drafted;
    n_accepted += result->n_accepted;
  }
  EXPECT_GT(n_accepted, 0);
  EXPECT_GT(n_drafted, n_accepted);
}

TEST_F(PromptLookupTest, AnExceptionInTheMidstOfAGuessEndsItsRequestAlone) {
  for (const int n_tokens : {60, 61, 62, 63, 64, 65}) {
    auto engine = make_guessing(512, 4096);
    Request bad = drawn(1);
    bad.on_token = [n = n_tokens](const SampledToken&) mutable {
      if (--n == 0) throw std::runtime_error("lost");
      return true;
    };
    const auto first = engine->submit(drawn(0)), lost = engine->submit(bad);
    const auto last = engine->submit(drawn(2));
    while (engine->step()) {
    }
    EXPECT_EQ(engine->take_result(first)->tokens, alone(drawn(0)));
    EXPECT_EQ(engine->take_result(lost)->tokens.size(), static_cast<std::size_t>(n_tokens));
    EXPECT_EQ(engine->take_result(last)->tokens, alone(drawn(2)));
    EXPECT_EQ(engine->generate(drawn(1)).tokens, alone(drawn(1)));
  }
}

// What was guessed for a step that threw is forgotten: beside a prompt nothing is guessed.
TEST_F(PromptLookupTest, AStepThatThrowsEndsNobody) {
  model_.period = 10;
  auto engine = make_guessing(512, 4096);
  std::vector<Request> requests;
  std::vector<Engine::RequestId> ids;
  for (std::int32_t i = 0; i < 8; ++i) {
    requests.push_back(request(40 + i, 200, i));
    ids.push_back(engine->submit(requests.back()));
    for (int step = 0; step < 5; ++step) engine->step();
    model_.no_memory = true;
    EXPECT_THROW(engine->step(), std::bad_alloc);
    model_.no_memory = false;
  }
  while (engine->step()) {
  }
  std::int64_t n_drafted = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto result = engine->take_result(ids[i]);
    EXPECT_EQ(result->tokens, alone(requests[i])) << i;
    n_drafted += result->n_drafted;
  }
  EXPECT_GT(n_drafted, 0);
}

TEST_F(PromptLookupTest, WhatRepeatsTakesFewerSteps) {
  model_.period = 10;
  Request r = request(40, 200);
  const auto want = alone(r);
  auto engine = make_guessing();
  const auto id = engine->submit(r);
  std::int64_t n_steps = 0;
  while (engine->step()) ++n_steps;
  const auto result = engine->take_result(id);
  EXPECT_EQ(result->tokens, want);
  EXPECT_EQ(result->reason, FinishReason::kMaxTokens);
  EXPECT_LT(n_steps, 200);
  EXPECT_EQ(n_steps, 2 + 199 - result->n_accepted);
}

TEST_F(PromptLookupTest, EndsWhereItWouldEndWithout) {
  model_.period = 10;
  const auto both = [this](const Request& r, std::int64_t context = 512) {
    const Result without = make(context)->generate(r);
    const Result with = make_guessing(context)->generate(r);
    EXPECT_EQ(with.tokens, without.tokens);
    EXPECT_EQ(with.reason, without.reason);
    return with;
  };
  EXPECT_EQ(both(request(40, 1000), 100).reason, FinishReason::kContextFull);
  Request stopping = request(40, 1000);
  for (int n = 30; n < 50; ++n) {
    stopping.on_token = [n, left = n](const SampledToken&) mutable { return --left > 0; };
    EXPECT_EQ(both(stopping).reason, FinishReason::kCallback) << n;
  }
  Request stop = request(40, 200);
  stop.sampling.logit_bias[90] = 0.0f;
  stop.stop_tokens = {9};
  EXPECT_EQ(both(stop).reason, FinishReason::kStopToken);
  // The next turn finds the cache as it should be.
  auto engine = make_guessing(1024);
  Request turn = request(40, 100);
  const Result first = engine->generate(turn);
  turn.prompt.insert(turn.prompt.end(), first.tokens.begin(), first.tokens.end());
  model_.period = 0;  // depends on all that is cached
  const Result second = engine->generate(turn);
  EXPECT_EQ(second.n_cached, 139);
  EXPECT_EQ(second.tokens, alone(turn));
}

TEST_F(PromptLookupTest, AGuessThatGivesNoNumbersIsNoError) {
  // 7 is followed by 8, but the guess is 20, which makes NaN.
  model_.period = 10;
  model_.poison = 20;
  Request r = request(4, 20);
  r.prompt = {6, 7, 20, 6};
  const auto want = alone(r);
  auto engine = make_guessing();
  const Result result = engine->generate(r);
  EXPECT_EQ(result.tokens, want);
  EXPECT_GT(result.n_drafted, 0);
}

}  // namespace
}  // namespace kt::engine
