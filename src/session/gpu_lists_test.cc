// Tokens chosen from short lists of logits that stay on a GPU, which is a stand-in, are those that
// whole rows give: in launched and replayed steps, with every way to choose, beside a NaN, when the
// row must be fetched, and when that fails.
#include <gtest/gtest.h>

#include <algorithm>

#include "backend/gpu/test_fixtures/fake_gpu.h"
#include "base/shared_object.h"
#include "session/session.h"

namespace kt::session {
namespace {

constexpr const char* kConfig = KT_SOURCE_DIR "/tests/data/golden_configs/qwen3_moe.json";
const char* const kPlugin = KT_FAKE_GPU_FOLDER "/libfake_gpu_whole.so";
constexpr std::int32_t kVocabulary = 263;

using Tokens = std::vector<engine::SampledToken>;

// Lets ids of one residue come, after the first tokens.
class Residue : public engine::TokenConstraint {
 public:
  State fill(std::span<std::uint32_t> mask) noexcept override {
    std::fill(mask.begin(), mask.end(), 0u);
    for (std::uint32_t id = 0; id < kVocabulary; ++id) {
      if (id % 5 == 2) mask[id / 32] |= 1u << id % 32;
    }
    return n_ < 3 ? State::kFree : State::kBound;
  }
  State accept(std::int32_t) noexcept override {
    ++n_;
    return State::kFree;
  }
  std::string error() const override { return {}; }

 private:
  int n_ = 0;
};

class GpuLists : public ::testing::Test {
 protected:
  GpuLists()
      : object_(SharedObject::open(kPlugin, SharedObject::Unload::kNever, &problem_)),
        settings_(*static_cast<backend::FakeGpuSettings*>(object_->symbol("fake_gpu_settings"))) {}
  ~GpuLists() override {
    settings_.failing = nullptr;
    settings_.listed = kernels::cuda::kListed;
    settings_.nan_row = -1;
  }

  // Lists have at most so many entries; 0: there are none.
  std::unique_ptr<Session> open(std::int32_t listed, const char* graphs = "on",
                                const char* speculate = "none") {
    Options options;
    options.speculate = speculate;
    options.n_threads = 2;
    options.gpu_plugin = kPlugin;
    options.gpu_graphs = graphs;
    settings_.listed = listed == 0 ? 0 : kernels::cuda::kListed;  // as the check at the start wants
    auto session = Session::open_dummy(options, kConfig, "Q8_0", 0);
    settings_.listed = listed;
    return session;
  }

  static engine::Request request(const engine::SamplingParams& sampling, int i = 0) {
    engine::Request request;
    for (int j = 0; j < 4 + 3 * i; ++j) request.prompt.push_back(1 + (j * 7 + i) % 200);
    request.sampling = sampling;
    request.sampling.seed = static_cast<std::uint64_t>(11 + i);
    request.max_tokens = 10;
    request.ignore_stop_tokens = true;
    request.reuse_prefix = false;
    request.n_top_logprobs = 3;
    return request;
  }

  // Greedy, the usual filters and each alone, penalties, biases, a constraint: in steps together.
  static std::vector<engine::Request> requests() {
    std::vector<engine::Request> all;
    const auto add = [&](auto&& change) {
      engine::SamplingParams sampling;
      change(sampling);
      all.push_back(request(sampling, static_cast<int>(all.size())));
    };
    const auto only = [](engine::SamplingParams& s) {
      s.temperature = 0.3f;
      s.top_k = 0;
      s.top_p = 1.0f;
      s.min_p = 0.0f;
    };
    using Params = engine::SamplingParams;
    add([](Params&) {});
    add([](Params& s) { s.temperature = 0.0f; });
    add([&](Params& s) { only(s); });
    add([&](Params& s) { only(s), s.top_p = 0.5f; });
    add([&](Params& s) { only(s), s.min_p = 0.2f; });
    add([&](Params& s) { only(s), s.top_k = 5; });
    add([&](Params& s) { only(s), s.typical_p = 0.8f; });
    add([](Params& s) { s.repetition_penalty = 1.3f, s.frequency_penalty = 0.2f; });
    add([](Params& s) { s.temperature = 0.0f, s.presence_penalty = 1.0f; });
    add([](Params& s) { s.logit_bias = {{5, -100.0f}, {17, 3.0f}, {200, -1.0f}}; });
    all.push_back(all[0]);
    all.back().constraint = std::make_shared<Residue>();
    all.push_back(all[1]);
    all.back().constraint = std::make_shared<Residue>();
    all.push_back(all[0]);
    all.back().logprobs = false;
    all.back().n_top_logprobs = 0;
    return all;
  }

  static std::vector<Tokens> run(engine::Engine& engine, std::vector<engine::Request> requests) {
    std::vector<Tokens> tokens(requests.size());
    std::vector<engine::Engine::RequestId> ids;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      requests[i].on_token = [&tokens, i](const engine::SampledToken& t) {
        tokens[i].push_back(t);
        return true;
      };
      ids.push_back(engine.submit(requests[i]));
    }
    while (engine.step()) {
    }
    for (const auto id : ids) EXPECT_EQ(engine.take_result(id)->error, "");
    return tokens;
  }

  static void expect_same(const std::vector<Tokens>& got, const std::vector<Tokens>& want) {
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i].size(), want[i].size()) << i;
      for (std::size_t j = 0; j < got[i].size(); ++j) {
        const engine::SampledToken &a = got[i][j], &b = want[i][j];
        ASSERT_EQ(a.id, b.id) << "request " << i << ", token " << j;
        EXPECT_NEAR(a.logprob, b.logprob, 1e-5);
        ASSERT_EQ(a.top.size(), b.top.size());
        for (std::size_t k = 0; k < a.top.size(); ++k) EXPECT_EQ(a.top[k].id, b.top[k].id);
      }
    }
  }

  std::string problem_;
  std::unique_ptr<SharedObject> object_;  // the same that sessions open
  backend::FakeGpuSettings& settings_;
};

TEST_F(GpuLists, TokensAreThoseOfWholeRows) {
  auto session = open(0);
  const std::vector<Tokens> want = run(session->engine(), requests());
  EXPECT_GT(session->engine().choices().n, 100u);
  EXPECT_EQ(session->engine().choices().n_from_lists, 0u);
  const std::pair<std::int32_t, const char*> cases[] = {{40, "off"}, {128, "on"}, {3, "on"}};
  for (const auto& [listed, graphs] : cases) {
    session = nullptr;  // it holds all memory of the GPU
    session = open(listed, graphs);
    expect_same(run(session->engine(), requests()), want);
    expect_same(run(session->engine(), requests()), want);  // with all shapes known
    const engine::Engine::Choices& choices = session->engine().choices();
    EXPECT_GT(choices.n_from_lists, choices.n / 6) << listed;
    EXPECT_LT(choices.n_from_lists, choices.n) << listed;
  }
}

TEST_F(GpuLists, UsualRequestsFetchNoRow) {
  const auto session = open(128);
  engine::SamplingParams greedy;
  greedy.temperature = 0.0f;
  run(session->engine(), {request({}), request(greedy, 1)});
  const engine::Engine::Choices& choices = session->engine().choices();
  EXPECT_EQ(choices.n, 20u);
  EXPECT_EQ(choices.n_from_lists, 20u);
}

TEST_F(GpuLists, GuessedTokensAndAskedForPromptLogitsBesideLists) {
  std::vector<std::vector<Tokens>> tokens;
  std::vector<float> logits[2];
  for (const std::int32_t listed : {0, 40}) {
    const auto session = open(listed, "on", "prompt-lookup");
    engine::SamplingParams greedy;
    greedy.temperature = 0.0f;
    engine::Request repeated = request(greedy, 3);
    for (std::size_t j = 0; j < repeated.prompt.size(); ++j)
      repeated.prompt[j] = static_cast<std::int32_t>(j % 3);
    engine::Request scored = request({}, 2);
    auto& to = logits[listed == 0 ? 0 : 1];
    scored.on_prompt_logits = [&](std::int64_t, std::span<const float> row) {
      to.insert(to.end(), row.begin(), row.end());
    };
    tokens.push_back(run(session->engine(), {request({}), scored, request({}, 1), repeated}));
  }
  expect_same(tokens[1], tokens[0]);
  EXPECT_EQ(logits[1].size(), 10u * kVocabulary);
  EXPECT_EQ(logits[1], logits[0]);
}

TEST_F(GpuLists, ANaNEndsItsRequestAndNoOther) {
  const std::vector<Tokens> alone = run(open(40)->engine(), {request({})});
  for (const char* graphs : {"off", "on"}) {
    const auto session = open(40, graphs);
    engine::Engine& engine = session->engine();
    Tokens tokens;
    engine::Request first = request({});
    first.on_token = [&](const engine::SampledToken& t) {
      tokens.push_back(t);
      return true;
    };
    const auto id = engine.submit(first), other = engine.submit(request({}, 1));
    for (int i = 0; i < 5; ++i) engine.step();
    settings_.nan_row = 1;
    engine.step();
    settings_.nan_row = -1;
    while (engine.step()) {
    }
    const auto failed = engine.take_result(other);
    ASSERT_NE(failed, nullptr);
    EXPECT_NE(failed->error.find("NaN or infinite logit at position"), std::string::npos)
        << failed->error;
    EXPECT_NE(failed->error.find("first in model"), std::string::npos) << failed->error;
    EXPECT_EQ(engine.take_result(id)->error, "");
    expect_same({tokens}, alone);
  }
}

TEST_F(GpuLists, RowsThatCannotBeFetchedEndTheirRequestOnly) {
  const auto session = open(3);
  engine::Engine& engine = session->engine();
  engine::SamplingParams greedy, wide;
  greedy.temperature = 0.0f;
  wide.top_k = 0;
  wide.typical_p = 0.9f;  // never from a list
  const std::vector<Tokens> want = run(engine, {request(greedy)});
  engine::Request first = request(greedy);
  Tokens tokens;
  first.on_token = [&](const engine::SampledToken& t) {
    tokens.push_back(t);
    settings_.failing = tokens.size() == 6 ? "copy" : nullptr;  // behind the step's own copies
    return true;
  };
  const auto id = engine.submit(first), other = engine.submit(request(wide, 1));
  while (engine.step()) {
  }
  EXPECT_EQ(engine.take_result(id)->error, "");
  expect_same({tokens}, want);
  const auto failed = engine.take_result(other);
  EXPECT_NE(failed->error.find("the device failed"), std::string::npos) << failed->error;
  EXPECT_EQ(failed->tokens.size(), 5u);
}

TEST_F(GpuLists, AListThatFailsIsAnErrorAndTheNextRequestWorks) {
  for (const char* graphs : {"off", "on"}) {
    const auto session = open(128, graphs);
    const std::vector<Tokens> want = run(session->engine(), {request({})});
    settings_.failing = "list_rows";
    engine::Request other = request({});
    other.prompt.resize(90, 3);  // a step that is launched
    EXPECT_THROW(session->engine().generate(other), Error);
    settings_.failing = nullptr;
    expect_same(run(session->engine(), {request({})}), want);
  }
}

}  // namespace
}  // namespace kt::session
