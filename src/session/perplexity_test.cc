// Perplexity over toy models whose probabilities are known.
#include "session/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

namespace kt::session {
namespace {

constexpr std::int64_t kVocab = 17;

// Logits of the next token depend on this one and its position only.
class Bigrams : public operators::Model {
 public:
  explicit Bigrams(float scale) : Model({"", "Bigrams", "", "cpu"}), scale_(scale) {}
  std::vector<tensor::KvLayerSpec> state_spec() const override { return {{{{"k", 1, 1}}}}; }
  std::int64_t vocab_size() const override { return kVocab; }
  float logit(std::int32_t token, std::int64_t position, std::int64_t next) const {
    return scale_ * static_cast<float>((token * 31 + next * 7 + position * 3) % 11);
  }
  void do_run(operators::Step& step, tensor::MatrixF logits) noexcept override {
    for (std::size_t r = 0; r < step.batch.tokens.size() && on_token; ++r) {
      on_token(step.batch.tokens[r], step.batch.positions[r]);
    }
    for (std::size_t i = 0; i < step.batch.logit_rows.size(); ++i) {
      const auto row = static_cast<std::size_t>(step.batch.logit_rows[i]);
      for (std::int64_t t = 0; t < kVocab; ++t) {
        logits.row(static_cast<std::int64_t>(i))[t] =
            logit(step.batch.tokens[row], step.batch.positions[row], t);
      }
    }
  }

  std::function<void(std::int32_t token, std::int32_t position)> on_token;

 private:
  float scale_;
};

struct Rig {
  explicit Rig(float scale) : model(scale), engine(model, cpu, options()) {}
  static engine::EngineOptions options() {
    engine::EngineOptions o;
    o.context = 64;
    o.chunk_size = 16;
    return o;
  }
  Bigrams model;
  backend::Cpu cpu{1, {}, 0, backend::ActPolicy::kF32};
  engine::Engine engine;
};

std::vector<std::int32_t> text(std::size_t n) {
  std::vector<std::int32_t> tokens;
  for (std::size_t i = 0; i < n; ++i) tokens.push_back(static_cast<std::int32_t>(i * i % kVocab));
  return tokens;
}

TEST(Perplexity, AUniformModelHasTheVocabularysSize) {
  Rig rig(0.0f);
  PerplexityOptions options;
  options.window = 32;
  const PerplexityResult result = perplexity(rig.engine, text(100), options);
  EXPECT_NEAR(result.perplexity, static_cast<double>(kVocab), 1e-5);
  EXPECT_NEAR(result.standard_error, 0.0, 1e-4);
  EXPECT_EQ(result.n_scored, 3 * 15);  // the rest of 4 tokens is left out
}

TEST(Perplexity, ScoresTheSecondHalfOfEachWindow) {
  for (const std::int32_t bos : {-1, 3}) {
    Rig rig(0.3f);
    const auto tokens = text(70);
    PerplexityOptions options;
    options.window = 20;
    options.bos = bos;
    std::vector<std::int64_t> done;
    double last = 0.0;
    options.on_window = [&](std::int64_t n, std::int64_t total, double so_far) {
      done.push_back(n);
      last = so_far;
      EXPECT_EQ(total, 3);
    };
    const PerplexityResult result = perplexity(rig.engine, tokens, options);
    std::vector<double> losses;
    for (std::int64_t w = 0; w < 3; ++w) {
      for (std::int64_t i = 10; i < 19; ++i) {
        const std::int32_t token = tokens[static_cast<std::size_t>(w * 20 + i)];
        double sum = 0.0;
        for (std::int64_t t = 0; t < kVocab; ++t)
          sum += std::exp(static_cast<double>(rig.model.logit(token, i, t)));
        const auto next = tokens[static_cast<std::size_t>(w * 20 + i + 1)];
        losses.push_back(std::log(sum) - static_cast<double>(rig.model.logit(token, i, next)));
      }
    }
    double mean = 0.0, variance = 0.0;
    for (const double l : losses) mean += l / static_cast<double>(losses.size());
    for (const double l : losses)
      variance += (l - mean) * (l - mean) / static_cast<double>(losses.size());
    EXPECT_EQ(result.n_scored, static_cast<std::int64_t>(losses.size()));
    EXPECT_NEAR(result.perplexity, std::exp(mean), 1e-5);
    EXPECT_NEAR(result.standard_error,
                std::exp(mean) * std::sqrt(variance / (static_cast<double>(losses.size()) - 1)),
                1e-4);
    EXPECT_EQ(done, (std::vector<std::int64_t>{1, 2, 3}));
    EXPECT_DOUBLE_EQ(last, result.perplexity);
  }
}

TEST(Perplexity, BosReplacesTheFirstTokenOfAWindow) {
  Rig rig(0.3f);
  std::vector<std::int32_t> first;
  rig.model.on_token = [&](std::int32_t token, std::int32_t position) {
    if (position == 0) first.push_back(token);
  };
  PerplexityOptions options;
  options.window = 20;
  perplexity(rig.engine, text(40), options);
  EXPECT_EQ(first, (std::vector<std::int32_t>{0, 400 % kVocab}));
  first.clear();
  options.bos = 5;
  perplexity(rig.engine, text(40), options);
  EXPECT_EQ(first, (std::vector<std::int32_t>{5, 5}));
}

TEST(Perplexity, WindowsThatDoNotFitAreRefused) {
  Rig rig(0.0f);
  const auto code = [&](std::int64_t window, std::size_t n) {
    PerplexityOptions options;
    options.window = window;
    try {
      perplexity(rig.engine, text(n), options);
    } catch (const Error& e) {
      return e.code();
    }
    return ErrorCode::kInternal;
  };
  EXPECT_EQ(code(65, 1000), ErrorCode::kUsage);
  EXPECT_EQ(code(0, 1000), ErrorCode::kUsage);
  EXPECT_EQ(code(-8, 1000), ErrorCode::kUsage);
  EXPECT_EQ(code(64, 63), ErrorCode::kUsage);
  EXPECT_EQ(code(64, 0), ErrorCode::kUsage);
  PerplexityOptions whole;
  whole.window = 64;
  EXPECT_NO_THROW(perplexity(rig.engine, text(64), whole));
}

TEST(Perplexity, CancelEndsIt) {
  Rig rig(0.0f);
  PerplexityOptions options;
  options.window = 32;
  std::int64_t windows = 0;
  options.on_window = [&](std::int64_t n, std::int64_t, double) {
    windows = n;
    rig.engine.cancel();
  };
  try {
    perplexity(rig.engine, text(320), options);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kCancelled);
    EXPECT_EQ(windows, 1);
  }
}

}  // namespace
}  // namespace kt::session
