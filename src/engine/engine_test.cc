// The generate loop over a toy model whose logits depend on the whole cached sequence, so that a
// wrong position, page, prefix or chunk shows in the tokens.
#include "engine/engine.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "engine/test_engine.h"

namespace kt::engine {
namespace {

TEST_F(EngineTest, ChunksOneGoAndDecodeAgree) {
  const auto want = make(512, 512)->generate(request(200, 20)).tokens;
  ASSERT_EQ(want.size(), 20u);
  for (const std::int64_t chunk : {1, 7, 32, 64, 199, 200, 201}) {
    EXPECT_EQ(make(512, chunk)->generate(request(200, 20)).tokens, want) << chunk;
    EXPECT_LE(model_.largest_batch, chunk);
  }
  Request by_row = request(200, 20);
  by_row.prompt_by_decode = true;
  EXPECT_EQ(make()->generate(by_row).tokens, want);
  EXPECT_EQ(model_.largest_batch, 1);
}

TEST_F(EngineTest, PromptLogitsComeOncePerRowInOrder) {
  const auto collect = [this](std::int64_t chunk, bool by_row) {
    auto engine = make(512, chunk);
    Request r = request(100, 0);
    r.prompt_by_decode = by_row;
    std::vector<std::vector<float>> rows;
    r.on_prompt_logits = [&](std::int64_t row, std::span<const float> logits) {
      EXPECT_EQ(row, static_cast<std::int64_t>(rows.size()));
      rows.emplace_back(logits.begin(), logits.end());
    };
    engine->generate(request(100, 5));  // cached, and must not be used
    const Result result = engine->generate(r);
    EXPECT_EQ(result.n_cached, 0);
    EXPECT_EQ(result.reason, FinishReason::kMaxTokens);
    EXPECT_TRUE(result.tokens.empty());
    return rows;
  };
  const auto want = collect(512, false);
  ASSERT_EQ(want.size(), 100u);
  EXPECT_EQ(collect(13, false), want);
  EXPECT_EQ(collect(32, true), want);
}

TEST_F(EngineTest, PrefillIsReported) {
  auto engine = make(512, 32);
  Request r = request(70, 1);
  std::vector<std::int64_t> done;
  r.on_prefill = [&](std::int64_t n, std::int64_t total) {
    done.push_back(n);
    EXPECT_EQ(total, 70);
  };
  engine->generate(r);
  EXPECT_EQ(done, (std::vector<std::int64_t>{32, 64, 70}));
}

TEST_F(EngineTest, TheNextTurnSkipsWhatIsCached) {
  auto engine = make();
  const Result first = engine->generate(request(100, 10));
  Request turn = request(100, 10);
  turn.prompt.insert(turn.prompt.end(), first.tokens.begin(), first.tokens.end());
  turn.prompt.push_back(5);
  model_.n_rows = 0;
  const Result second = engine->generate(turn);
  EXPECT_EQ(second.n_cached, 109);  // the last generated token was never run
  EXPECT_EQ(model_.n_rows, 111 - 109 + 9);
  EXPECT_EQ(second.tokens, alone(turn));
}

TEST_F(EngineTest, AnEqualPromptStillRunsItsLastToken) {
  auto engine = make();
  const Result first = engine->generate(request(100, 10));
  const Result second = engine->generate(request(100, 10));
  EXPECT_EQ(second.n_cached, 99);
  EXPECT_EQ(second.tokens, first.tokens);
  Request fresh = request(100, 10);
  fresh.reuse_prefix = false;
  EXPECT_EQ(engine->generate(fresh).n_cached, 0);
}

TEST_F(EngineTest, APromptThatDivergesReusesTheCommonPart) {
  auto engine = make();
  engine->generate(request(100, 10));
  Request other = request(100, 10);
  other.prompt[40] = (other.prompt[40] + 1) % kVocab;
  const Result result = engine->generate(other);
  EXPECT_EQ(result.n_cached, 40);
  EXPECT_EQ(result.tokens, alone(other));
}

TEST_F(EngineTest, TheLongestCommonPrefixIsTaken) {
  auto engine = make(512, 32, 1024);
  Request near = request(100, 1), far = request(100, 1);
  near.prompt[80] = (near.prompt[80] + 1) % kVocab;
  far.prompt[20] = (far.prompt[20] + 1) % kVocab;
  near.reuse_prefix = far.reuse_prefix = false;
  engine->generate(near);
  engine->generate(far);
  EXPECT_EQ(engine->generate(request(100, 1)).n_cached, 80);
}

TEST_F(EngineTest, ADivergingPromptLeavesTheOtherWhole) {
  auto engine = make(512, 32, 1024);
  Request branch = request(300, 3);
  branch.prompt[150] = (branch.prompt[150] + 1) % kVocab;
  const Result first = engine->generate(request(300, 3));
  const Result other = engine->generate(branch);
  EXPECT_EQ(other.n_cached, 150);
  EXPECT_EQ(other.tokens, alone(branch));
  const Result again = engine->generate(request(300, 3));
  EXPECT_EQ(again.n_cached, 299);
  EXPECT_EQ(again.tokens, first.tokens);
  EXPECT_EQ(engine->generate(branch).tokens, other.tokens);
}

TEST_F(EngineTest, WithoutAFreePageTheOldSequenceGivesUpItsOwn) {
  auto engine = make(256, 32);  // four pages, all of them used by the first prompt
  engine->generate(request(200, 2));
  Request branch = request(200, 2);
  branch.prompt[150] = (branch.prompt[150] + 1) % kVocab;
  const Result result = engine->generate(branch);
  EXPECT_EQ(result.n_cached, 150);
  EXPECT_EQ(result.tokens, alone(branch));
}

TEST_F(EngineTest, OldSequencesGiveWayLeastRecentlyUsedFirst) {
  auto engine = make(192, 32, 512);  // room for eight pages
  const auto own = [](std::int64_t n_prompt, std::int32_t salt) {
    Request r = request(n_prompt, 2, salt);
    r.prompt[0] = salt;  // nothing in common
    return r;
  };
  for (const std::int32_t salt : {1, 2, 3, 4}) engine->generate(own(100, salt));
  // Sequence 1 becomes the most recent.
  EXPECT_EQ(engine->generate(own(100, 1)).n_cached, 99);
  EXPECT_EQ(engine->generate(own(180, 9)).reason, FinishReason::kMaxTokens);  // evicts 2 and 3
  EXPECT_EQ(engine->generate(own(100, 4)).n_cached, 99);
  EXPECT_EQ(engine->generate(own(100, 1)).n_cached, 99);
  EXPECT_EQ(engine->generate(own(100, 3)).n_cached, 0);
}

TEST_F(EngineTest, ManyRequestsAtOnceEqualEachAlone) {
  std::vector<Request> requests;
  for (std::int32_t i = 0; i < 5; ++i) requests.push_back(request(20 + 37 * i, 10 + i, i));
  requests[2].prompt_by_decode = true;
  std::vector<std::vector<std::int32_t>> want;
  for (const Request& r : requests) want.push_back(alone(r));
  auto engine = make(512, 32, 2048);
  std::vector<Engine::RequestId> ids;
  for (const Request& r : requests) ids.push_back(engine->submit(r));
  while (engine->step()) {
  }
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto result = engine->take_result(ids[i]);
    ASSERT_NE(result, nullptr);
    EXPECT_EQ(result->tokens, want[i]) << i;
    EXPECT_EQ(engine->take_result(ids[i]), nullptr);  // handed out once
  }
}

TEST_F(EngineTest, RequestsWaitForPagesAndAllEnd) {
  auto engine = make(512, 32, 512);  // two of these prompts do not fit together
  std::vector<Engine::RequestId> ids;
  std::vector<Request> requests;
  for (std::int32_t i = 0; i < 4; ++i) requests.push_back(request(300, 5, i));
  for (const Request& r : requests) ids.push_back(engine->submit(r));
  int n_steps = 0;
  while (engine->step()) ASSERT_LT(++n_steps, 1000);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto result = engine->take_result(ids[i]);
    ASSERT_NE(result, nullptr);
    EXPECT_EQ(result->reason, FinishReason::kMaxTokens);
    EXPECT_EQ(result->tokens, alone(requests[i])) << i;
  }
}

TEST_F(EngineTest, RepliesThatOutgrowTheCacheWaitAgain) {
  auto engine = make(512, 32, 512);
  std::vector<Engine::RequestId> ids;
  std::vector<Request> requests;
  for (std::int32_t i = 0; i < 5; ++i) requests.push_back(request(60 + 40 * i, 200, i));
  for (const Request& r : requests) ids.push_back(engine->submit(r));
  int n_steps = 0;
  while (engine->step()) ASSERT_LT(++n_steps, 3000);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto result = engine->take_result(ids[i]);
    ASSERT_NE(result, nullptr);
    EXPECT_EQ(result->reason, FinishReason::kMaxTokens) << i;
    EXPECT_EQ(result->tokens, alone(requests[i])) << i;
  }
}

// Rows of a prompt come anew when their request had to wait, and no reply ends for them.
TEST_F(EngineTest, RequestsWithLogitsOfTheirPromptsWaitAgainToo) {
  auto engine = make(512, 32, 512);
  std::vector<Engine::RequestId> ids;
  std::vector<Request> requests;
  std::vector<std::vector<int>> n_told(5);
  for (std::int32_t i = 0; i < 5; ++i) {
    requests.push_back(request(60 + 40 * i, 200, i));
    if (i == 0) continue;
    auto& told = n_told[static_cast<std::size_t>(i)];
    told.resize(requests.back().prompt.size());
    requests.back().on_prompt_logits = [&told](std::int64_t row, std::span<const float>) {
      ++told.at(static_cast<std::size_t>(row));
    };
  }
  for (const Request& r : requests) ids.push_back(engine->submit(r));
  while (engine->step()) {
  }
  int most = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const auto result = engine->take_result(ids[i]);
    ASSERT_NE(result, nullptr);
    EXPECT_EQ(result->reason, FinishReason::kMaxTokens) << i;
    Request plain = requests[i];
    plain.on_prompt_logits = nullptr;
    EXPECT_EQ(result->tokens, alone(plain)) << i;
    for (const int n : n_told[i]) EXPECT_GE(n, 1) << i;
    for (const int n : n_told[i]) most = std::max(most, n);
  }
  EXPECT_GT(most, 1);
}

TEST_F(EngineTest, APrefixIsTakenFromARequestThatRuns) {
  auto engine = make(512, 32, 2048);
  const Request first = request(200, 100);
  const Engine::RequestId running = engine->submit(first);
  for (int i = 0; i < 20; ++i) engine->step();
  ASSERT_EQ(engine->take_result(running), nullptr);
  const Result second = engine->generate(request(200, 100));
  EXPECT_EQ(second.n_cached, 200 / tensor::kKvPageLen * tensor::kKvPageLen);
  EXPECT_EQ(second.tokens, alone(first));
  while (engine->step()) {
  }
  EXPECT_EQ(engine->take_result(running)->tokens, second.tokens);
}

TEST_F(EngineTest, StopTokensEndAndAreNotReported) {
  const std::vector<std::int32_t> all = alone(request(50, 20));
  Request r = request(50, 20);
  r.stop_tokens = {all[6]};
  const auto first = std::find(all.begin(), all.end(), all[6]);
  const Result result = make()->generate(r);
  EXPECT_EQ(result.reason, FinishReason::kStopToken);
  EXPECT_EQ(result.tokens, std::vector<std::int32_t>(all.begin(), first));
  EXPECT_EQ(result.stop_token.id, all[6]);
  r.ignore_stop_tokens = true;
  EXPECT_EQ(make()->generate(r).tokens, all);
}

TEST_F(EngineTest, TheCallbackStops) {
  Request r = request(50, 20);
  int n = 0;
  r.on_token = [&](const SampledToken& token) {
    EXPECT_LE(token.logprob, 0.0f);
    return ++n < 3;
  };
  const Result result = make()->generate(r);
  EXPECT_EQ(result.reason, FinishReason::kCallback);
  EXPECT_EQ(result.tokens.size(), 3u);
}

TEST_F(EngineTest, AThrowingCallbackEndsItsRequestOnly) {
  auto engine = make();
  Request r = request(50, 20);
  r.on_token = [](const SampledToken&) -> bool { throw std::runtime_error("callback"); };
  EXPECT_THROW(engine->generate(r), std::runtime_error);
  EXPECT_FALSE(engine->step());
  EXPECT_EQ(engine->generate(request(50, 20)).tokens, alone(request(50, 20)));
}

// Whatever of a request throws: those beside it in the batch read their own rows.
TEST_F(EngineTest, AnExceptionEndsItsRequestAlone) {
  const auto lose = [] { throw std::runtime_error("lost"); };
  const Request before = request(50, 20), after = request(70, 20, 2);
  for (const char where : {'t', 'p', 'l'}) {
    auto engine = make(512, 256, 2048);
    Request bad = request(60, 20, 1);
    if (where == 't') {
      bad.on_token = [&, n = 0](const SampledToken&) mutable {
        if (++n == 5) lose();
        return true;
      };
    } else if (where == 'p') {
      bad.on_prefill = [&](std::int64_t, std::int64_t) { lose(); };
    } else {
      bad.on_prompt_logits = [&](std::int64_t row, std::span<const float>) {
        if (row == 40) lose();
      };
    }
    const auto first = engine->submit(before), lost = engine->submit(bad);
    const auto last = engine->submit(after);
    while (engine->step()) {
    }
    const auto result = engine->take_result(lost);
    EXPECT_EQ(result->reason, FinishReason::kError);
    EXPECT_EQ(result->error, "lost");
    EXPECT_THROW(std::rethrow_exception(result->exception), std::runtime_error);
    EXPECT_EQ(result->tokens.size(), where == 't' ? 5u : 0u);
    EXPECT_EQ(engine->take_result(first)->tokens, alone(before));
    EXPECT_EQ(engine->take_result(last)->tokens, alone(after));
    const Result again = engine->generate(request(60, 20, 1));
    EXPECT_EQ(again.n_cached, where == 'l' ? 0 : 59);  // what was computed is good
    EXPECT_EQ(again.tokens, alone(request(60, 20, 1)));
  }
}

TEST_F(EngineTest, CancelEndsWhatRunsAndNothingLater) {
  auto engine = make();
  Request r = request(50, 100);
  int n = 0;
  r.on_token = [&](const SampledToken&) {
    if (++n == 4) engine->cancel();
    return true;
  };
  const Result result = engine->generate(r);
  EXPECT_EQ(result.reason, FinishReason::kCancelled);
  EXPECT_EQ(result.tokens.size(), 4u);
  EXPECT_EQ(engine->generate(request(50, 5)).reason, FinishReason::kMaxTokens);
  Request last = request(50, 5);
  n = 0;
  last.on_token = [&](const SampledToken&) {
    if (++n == 5) engine->cancel();  // too late for this request
    return true;
  };
  EXPECT_EQ(engine->generate(last).reason, FinishReason::kMaxTokens);
  EXPECT_EQ(engine->generate(request(50, 5)).reason, FinishReason::kMaxTokens);
}

TEST_F(EngineTest, CancelReachesALongPrompt) {
  auto engine = make(512, 16);
  Request r = request(400, 5);
  r.on_prefill = [&](std::int64_t done, std::int64_t) {
    if (done == 32) engine->cancel();
  };
  EXPECT_EQ(engine->generate(r).reason, FinishReason::kCancelled);
  const Result after = engine->generate(request(400, 5));
  EXPECT_EQ(after.n_cached, 32);  // what was read stays read
  EXPECT_EQ(after.tokens, alone(request(400, 5)));
}

TEST_F(EngineTest, ACancelledRequestEndsAlone) {
  auto engine = make(512, 16);
  const auto cancelled = std::make_shared<std::atomic<bool>>(false);
  Request ends = request(400, 5);
  ends.cancelled = cancelled;
  ends.on_prefill = [&](std::int64_t done, std::int64_t) { *cancelled = done == 32; };
  const Engine::RequestId first = engine->submit(ends);
  const Engine::RequestId second = engine->submit(request(50, 20));
  while (engine->step()) {
  }
  EXPECT_EQ(engine->take_result(first)->reason, FinishReason::kCancelled);
  EXPECT_EQ(engine->take_result(second)->tokens, alone(request(50, 20)));
}

TEST_F(EngineTest, TheContextFills) {
  auto engine = make(64, 32);
  const Result result = engine->generate(request(60, -1));
  EXPECT_EQ(result.reason, FinishReason::kContextFull);
  EXPECT_EQ(result.tokens.size(), 4u);
  EXPECT_EQ(engine->generate(request(63, -1)).tokens.size(), 1u);
  EXPECT_EQ(engine->generate(request(64, 0)).reason, FinishReason::kMaxTokens);
}

TEST_F(EngineTest, BadRequestsAreRefused) {
  auto engine = make(64, 32);
  const auto code = [&](const Request& r) {
    try {
      engine->submit(r);
    } catch (const Error& e) {
      return e.code();
    }
    ADD_FAILURE() << "accepted";
    return ErrorCode::kInternal;
  };
  EXPECT_EQ(code(request(0, 1)), ErrorCode::kUsage);
  EXPECT_EQ(code(request(64, 1)), ErrorCode::kTooLong);
  EXPECT_EQ(code(request(65, 0)), ErrorCode::kTooLong);
  try {
    engine->submit(request(70, 1));
  } catch (const Error& e) {
    const std::string text = e.what();
    EXPECT_NE(text.find("70 tokens"), std::string::npos) << text;
    EXPECT_NE(text.find("64"), std::string::npos) << text;
  }
  for (const std::int32_t id :
       {-1, static_cast<std::int32_t>(kVocab), std::numeric_limits<std::int32_t>::max()}) {
    Request r = request(10, 1);
    r.prompt[5] = id;
    EXPECT_EQ(code(r), ErrorCode::kUsage);
  }
  Request r = request(10, 1);
  r.sampling.top_k = -4;
  EXPECT_EQ(code(r), ErrorCode::kUsage);
  EXPECT_FALSE(engine->step());  // none of them was queued
}

TEST_F(EngineTest, NonFiniteLogitsEndTheRequestAndAreNotReused) {
  for (const bool infinite : {false, true}) {
    model_.poison = infinite ? -1 : 90;
    model_.infinite = infinite ? 90 : -1;
    auto engine = make();
    Request bad = request(50, 5);
    bad.prompt.back() = 90;
    const Engine::RequestId bad_id = engine->submit(bad);
    Request fine = request(40, 5, 3);
    std::replace(fine.prompt.begin(), fine.prompt.end(), 90, 1);
    const Engine::RequestId fine_id = engine->submit(fine);
    while (engine->step()) {
    }
    const auto result = engine->take_result(bad_id);
    EXPECT_EQ(result->reason, FinishReason::kError);
    EXPECT_NE(result->error.find("position 49"), std::string::npos) << result->error;
    EXPECT_EQ(engine->take_result(fine_id)->tokens.size(), 5u);
    model_.poison = model_.infinite = -1;
    EXPECT_EQ(engine->generate(bad).n_cached, 0);
    model_.poison = 90;
    EXPECT_THROW(make()->generate(bad), Error);
  }
}

// Allows every third token; complete after `length` tokens, or failed.
class ThirdTokens : public TokenConstraint {
 public:
  explicit ThirdTokens(int length, State at_end = State::kComplete)
      : length_(length), at_end_(at_end) {}
  State fill(std::span<std::uint32_t> mask) noexcept override {
    if (n_free > 0) return State::kFree;
    if (length_ == 0 && at_end_ == State::kFailed) return at_end_;
    for (std::size_t id = 0; id < mask.size() * 32; ++id) {
      const std::uint32_t bit = 1u << (id % 32);
      mask[id / 32] = id % 3 == 0 && !nothing ? mask[id / 32] | bit : mask[id / 32] & ~bit;
    }
    return State::kBound;
  }
  State accept(std::int32_t) noexcept override {
    if (n_free > 0) return --n_free, State::kFree;
    return --length_ == 0 && at_end_ == State::kComplete ? at_end_ : State::kBound;
  }
  std::string error() const override { return "the toy grammar failed"; }
  int n_free = 0;
  bool nothing = false;

 private:
  int length_;
  State at_end_;
};

TEST_F(EngineTest, AConstraintBindsGreedyAndSampledTokens) {
  for (const float temperature : {0.0f, 1.0f}) {
    Request r = request(20, 30);
    r.sampling.temperature = temperature;
    r.constraint = std::make_shared<ThirdTokens>(12);
    const Result result = make()->generate(r);
    EXPECT_EQ(result.reason, FinishReason::kStopToken);
    ASSERT_EQ(result.tokens.size(), 12u);
    for (const std::int32_t id : result.tokens) EXPECT_EQ(id % 3, 0);
  }
}

TEST_F(EngineTest, AConstraintMayBeginLater) {
  const std::vector<std::int32_t> free = alone(request(20, 5));
  Request r = request(20, 9);
  auto constraint = std::make_shared<ThirdTokens>(100);
  constraint->n_free = 5;
  r.constraint = constraint;
  const Result result = make()->generate(r);
  EXPECT_EQ(result.reason, FinishReason::kMaxTokens);
  ASSERT_EQ(result.tokens.size(), 9u);
  EXPECT_TRUE(std::equal(free.begin(), free.end(), result.tokens.begin()));
  for (std::size_t i = 5; i < 9; ++i) EXPECT_EQ(result.tokens[i] % 3, 0);
}

TEST_F(EngineTest, AConstraintThatFailsEndsItsRequestAlone) {
  auto engine = make();
  Request bad = request(20, 30);
  bad.constraint = std::make_shared<ThirdTokens>(3, TokenConstraint::State::kFailed);
  Request empty = request(20, 30, 2);
  auto nothing = std::make_shared<ThirdTokens>(3);
  nothing->nothing = true;
  empty.constraint = nothing;
  const auto bad_id = engine->submit(bad), empty_id = engine->submit(empty);
  const auto good_id = engine->submit(request(20, 10, 1));
  while (engine->step()) {
  }
  const auto failed = engine->take_result(bad_id);
  EXPECT_EQ(failed->reason, FinishReason::kError);
  EXPECT_EQ(failed->error, "the toy grammar failed");
  EXPECT_EQ(failed->tokens.size(), 3u);
  EXPECT_EQ(engine->take_result(empty_id)->reason, FinishReason::kError);
  EXPECT_EQ(engine->take_result(good_id)->tokens, alone(request(20, 10, 1)));
}

TEST_F(EngineTest, TopLogprobsComeWhenAskedFor) {
  Request r = request(20, 4);
  std::vector<SampledToken> seen;
  r.on_token = [&](const SampledToken& token) {
    seen.push_back(token);
    return true;
  };
  r.n_top_logprobs = 3;
  make()->generate(r);
  ASSERT_EQ(seen.size(), 4u);
  for (const SampledToken& token : seen) {
    ASSERT_EQ(token.top.size(), 3u);
    EXPECT_EQ(token.top[0].id, token.id);  // greedy
    EXPECT_EQ(token.top[0].logprob, token.logprob);
    EXPECT_GE(token.top[1].logprob, token.top[2].logprob);
  }
  r.n_top_logprobs = 21;
  EXPECT_THROW(make()->submit(r), Error);
}

// Tiles round otherwise: who gets them must not depend on others.
TEST_F(EngineTest, WithTileKernelsFewRowsStayFew) {
  for (const bool tiles : {false, true}) {
    model_.tiles = tiles;
    auto engine = make(512, 128, 16384);
    model_.most_few = model_.most_beside_chunk = 0;
    std::vector<Request> requests;
    std::vector<Engine::RequestId> ids;
    for (std::int32_t i = 0; i < 40; ++i) {
      requests.push_back(request(i < 35 ? 5 : 150, 30, i));
      requests.back().prompt[0] = i;
      ids.push_back(engine->submit(requests.back()));
    }
    while (engine->step()) {
    }
    EXPECT_EQ(model_.most_few < backend::kBatchRows, tiles);
    EXPECT_EQ(model_.most_beside_chunk == 0, tiles);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      EXPECT_EQ(engine->take_result(ids[i])->tokens, alone(requests[i])) << i;
    }
  }
}

class PageStoreTest : public EngineTest {
 protected:
  void SetUp() override {
    std::random_device random;  // other test runs have folders of their own
    folder_ = testing::TempDir() + fmt::format("kt_engine_pages_{:x}", random());
    std::filesystem::remove_all(folder_);
    open_store();
  }
  void TearDown() override {
    store_.reset();
    std::filesystem::remove_all(folder_);
  }
  void open_store() {
    store_.reset();
    store_ = std::make_shared<io::PageStore>(folder_, std::uint64_t{1} << 20);
  }
  // Room for eight pages.
  std::unique_ptr<Engine> make_storing(const std::string& identity = "toy") {
    EngineOptions options;
    options.page_store = store_;
    options.kv_identity = identity;
    return make(512, 32, 512, options);
  }
  std::string folder_;
  std::shared_ptr<io::PageStore> store_;
};

TEST_F(PageStoreTest, WhatGaveWayComesBack) {
  auto engine = make_storing();
  const Request first = request(300, 5, 1);
  const auto want = engine->generate(first).tokens;
  engine->generate(request(400, 5, 2));  // needs seven of the eight pages
  model_.n_rows = 0;
  const Result again = engine->generate(first);
  EXPECT_EQ(again.n_cached, 256);  // whole pages
  EXPECT_EQ(model_.n_rows, 300 - 256 + 4);
  EXPECT_EQ(again.tokens, want);
  Request turn = request(300, 5, 2);
  turn.prompt.resize(257);
  EXPECT_EQ(engine->generate(turn).n_cached, 256);
  turn.prompt.resize(256);  // the last row runs in any case
  engine.reset();
  EXPECT_EQ(make_storing()->generate(turn).n_cached, 192);
}

TEST_F(PageStoreTest, WhatIsCachedOutlivesTheEngine) {
  const Request r = request(200, 100);
  const auto want = make_storing()->generate(r).tokens;
  open_store();
  EXPECT_EQ(store_->stats().n_pages, 4u);  // of 299 tokens
  auto engine = make_storing();
  const Result again = engine->generate(r);
  EXPECT_EQ(again.n_cached, 192);
  EXPECT_EQ(again.tokens, want);
  Request turn = r;
  turn.prompt.insert(turn.prompt.end(), want.begin(), want.end());
  EXPECT_EQ(make_storing()->generate(turn).n_cached, 256);
  EXPECT_EQ(make_storing("other weights")->generate(r).n_cached, 0);
  Request fresh = r;
  fresh.reuse_prefix = false;
  EXPECT_EQ(make_storing()->generate(fresh).n_cached, 0);
}

TEST_F(PageStoreTest, DamageCostsTimeOnly) {
  const Request r = request(200, 10);
  const auto want = make_storing()->generate(r).tokens;
  open_store();
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    if (entry.path().extension() == ".page") files.push_back(entry.path());
  }
  ASSERT_EQ(files.size(), 3u);
  for (const auto& file : files) {
    std::fstream f(file, std::ios::in | std::ios::out | std::ios::binary);
    f.seekp(100);
    f.put('\x7f');
  }
  const Result again = make_storing()->generate(r);
  EXPECT_EQ(again.n_cached, 0);
  EXPECT_EQ(again.tokens, want);
}

TEST_F(PageStoreTest, RequestsThatWaitAgainFindWhatTheyHad) {
  auto engine = make_storing();
  std::vector<Engine::RequestId> ids;
  for (std::int32_t i = 0; i < 3; ++i) ids.push_back(engine->submit(request(60, 180, i)));
  while (engine->step()) {
  }
  for (std::int32_t i = 0; i < 3; ++i) {
    const auto result = engine->take_result(ids[static_cast<std::size_t>(i)]);
    ASSERT_NE(result, nullptr);
    EXPECT_EQ(result->tokens, alone(request(60, 180, i))) << i;
  }
  EXPECT_GT(store_->stats().n_read, 0u);
}

}  // namespace
}  // namespace kt::engine
