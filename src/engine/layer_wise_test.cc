// Layer-wise prefill on a small model: the same results as prefill by chunks, and the operators
// that the placement names for each phase.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "engine/engine.h"
#include "models/model.h"
#include "operators/test_source.h"

namespace kt::engine {
namespace {

using operators::Placement;

io::ModelConfig small_config() {
  io::ModelConfig c;
  c.architecture = "llama";
  c.n_layers = 3;
  c.d_model = 64;
  c.d_ff = 128;
  c.n_heads = 4;
  c.n_kv_heads = 2;
  c.head_dim = 16;
  c.vocab_size = 97;
  c.max_context = 512;
  return c;
}

class LayerWiseTest : public testing::Test {
 protected:
  LayerWiseTest() : source_(small_config()) {
    const auto model = models::build_model(source_.config(), {});
    operators::walk(*model, [&](operators::Module& m) {
      for (const operators::WeightSpec& spec : m.weights()) {
        const bool vector = spec.shape.rank() == 1;
        source_.add(spec.name, spec.shape,
                    vector ? 1.0f : 1.5f / std::sqrt(static_cast<float>(spec.shape.n_cols())));
      }
    });
  }

  // Every linear of the layers with these operators.
  static Placement placement(const std::string& generate, const std::string& prefill,
                             std::int64_t threshold) {
    Placement p;
    p.layer_wise_threshold = threshold;
    const auto model = models::build_model(small_config(), {});
    operators::walk(*model, [&](operators::Module& m) {
      if (m.kind() != "Linear" || m.path() == "lm_head") return;
      Placement::Entry& entry = p.entries[m.path()];
      entry.op = generate;
      entry.prefill_op = prefill;
      entry.prefill_device = "cpu";
      if (prefill == "KLinearMarlin") entry.prefill_device = "cuda:0";
    });
    p.devices = {1, true};
    return p;
  }

  struct Outcome {
    std::vector<std::int32_t> tokens;
    std::vector<std::vector<float>> logits;  // of prompt rows, when asked for
  };

  static Request request(std::int64_t n_prompt, std::int64_t max_tokens) {
    Request r;
    for (std::int64_t i = 0; i < n_prompt; ++i) {
      r.prompt.push_back(static_cast<std::int32_t>((i * 7 + i * i % 5) % 97));
    }
    r.sampling.temperature = 0.0f;
    r.max_tokens = max_tokens;
    return r;
  }

  // A fresh engine per call; `use` runs on it.
  template <class F>
  void with_engine(const Placement& placement, F&& use) {
    const auto model = models::build_model(source_.config(), placement);
    operators::Loader loader(source_, cpu_, {});
    models::load_model(*model, loader);
    EngineOptions options;
    options.context = 256;
    options.chunk_size = 32;
    options.kv_format = tensor::Format::kF32;
    options.layer_wise_threshold = placement.layer_wise_threshold;
    options.make_loader = [this] {
      ++n_loaders_;
      if (cancel_at_loader_) *cancel_at_loader_ = true;
      return operators::Loader(source_, cpu_, {});
    };
    options.before_step = [this](operators::GpuSteps, std::int64_t n) { prepared_.push_back(n); };
    Engine engine(*model, cpu_, options);
    n_loaders_ = 0;
    prepared_.clear();
    trace_.clear();
    engine.set_trace(&trace_);
    use(engine);
  }

  Outcome run(const Placement& placement, std::int64_t n_prompt, std::int64_t n_tokens,
              bool every_row) {
    Outcome out;
    with_engine(placement, [&](Engine& engine) {
      Request r = request(n_prompt, n_tokens);
      if (every_row) {
        r.on_prompt_logits = [&](std::int64_t row, std::span<const float> logits) {
          EXPECT_EQ(row, static_cast<std::int64_t>(out.logits.size()));
          out.logits.emplace_back(logits.begin(), logits.end());
        };
      }
      out.tokens = engine.generate(std::move(r)).tokens;
    });
    return out;
  }

  // Operators that had a zone of this path: of prompt chunks (several rows) or of decode steps.
  std::set<std::string> ran(const std::string& path, bool prompt) const {
    std::set<std::string> ops;
    for (const operators::Trace::Zone& z : trace_.zones()) {
      if (z.module->path() == path && (z.n_rows > 1) == prompt) ops.emplace(z.module->op());
    }
    return ops;
  }

  std::int64_t n_zones(const std::string& path) const {
    const auto& zones = trace_.zones();
    return std::count_if(zones.begin(), zones.end(),
                         [&](const auto& z) { return z.module->path() == path; });
  }

  operators::TestSource source_;
  backend::Cpu cpu_{1, {}, detect_caps(), backend::ActPolicy::kF32};
  operators::Trace trace_{1 << 16};
  int n_loaders_ = 0;
  std::vector<std::int64_t> prepared_;  // rows, each time
  std::shared_ptr<std::atomic<bool>> cancel_at_loader_;
};

TEST_F(LayerWiseTest, ACancelledPromptEndsBetweenLayers) {
  with_engine(placement("KLinearTorch", "KLinearCPUInfer", 40), [&](Engine& engine) {
    cancel_at_loader_ = std::make_shared<std::atomic<bool>>(false);
    Request r = request(100, 5);
    r.cancelled = cancel_at_loader_;
    EXPECT_EQ(engine.generate(r).reason, FinishReason::kCancelled);
    EXPECT_EQ(n_zones("model.layers.0.mlp.gate_proj"), 0);
    cancel_at_loader_ = nullptr;
    EXPECT_EQ(engine.generate(request(100, 5)).tokens.size(), 5u);
  });
}

TEST_F(LayerWiseTest, EqualsPrefillByChunks) {
  const Outcome want = run(placement("KLinearTorch", "", 0), 100, 12, true);
  EXPECT_EQ(n_loaders_, 0);
  ASSERT_EQ(want.logits.size(), 100u);
  // Without prefill operators, and with one that is another name for the same.
  for (const char* prefill : {"", "KLinearCPUInfer"}) {
    const Outcome got = run(placement("KLinearTorch", prefill, 40), 100, 12, true);
    EXPECT_EQ(n_loaders_, 1);
    EXPECT_EQ(got.tokens, want.tokens);
    EXPECT_EQ(got.logits, want.logits);
  }
  EXPECT_EQ(run(placement("KLinearTorch", "KLinearCPUInfer", 40), 100, 12, false).tokens,
            want.tokens);
}

TEST_F(LayerWiseTest, PromptAndGenerationRunTheirOwnOperators) {
  using Ops = std::set<std::string>;
  with_engine(placement("KLinearCPUInfer", "KLinearTorch", 40), [&](Engine& engine) {
    engine.generate(request(100, 5));
    ASSERT_EQ(trace_.n_dropped(), 0);
    for (int i = 0; i < 3; ++i) {
      const std::string layer = "model.layers." + std::to_string(i);
      EXPECT_EQ(ran(layer + ".self_attn.q_proj", true), Ops{"KLinearTorch"});
      EXPECT_EQ(ran(layer + ".self_attn.q_proj", false), Ops{"KLinearCPUInfer"});
      EXPECT_EQ(ran(layer + ".mlp.down_proj", true), Ops{"KLinearTorch"});
      EXPECT_EQ(ran(layer + ".mlp.down_proj", false), Ops{"KLinearCPUInfer"});
      EXPECT_EQ(n_zones(layer + ".mlp.down_proj"), n_zones(layer + ".mlp.gate_proj"))
          << "one zone a run, alone as among siblings";
    }
  });
}

TEST_F(LayerWiseTest, RehearsesALayerOfEveryKind) {
  Placement p = placement("KLinearCPUInfer", "KLinearTorch", 40);
  for (auto& [path, entry] : p.entries) {
    if (path.starts_with("model.layers.1.")) entry.prefill_op = "KLinearCPUInfer";
  }
  with_engine(p, [&](Engine& engine) {
    engine.rehearse();
    const auto ops = [&](int i) {
      return ran(fmt::format("model.layers.{}.mlp.down_proj", i), true);
    };
    using Ops = std::set<std::string>;
    EXPECT_EQ(ops(0), (Ops{"KLinearCPUInfer", "KLinearTorch"}));
    EXPECT_EQ(ops(1), Ops{"KLinearCPUInfer"});
    EXPECT_EQ(ops(2), Ops{"KLinearCPUInfer"}) << "as layer 0";
  });
}

TEST_F(LayerWiseTest, AnotherFormatForThePromptShows) {
  const Outcome plain = run(placement("KLinearTorch", "", 0), 100, 0, true);
  const Outcome coarse = run(placement("KLinearTorch", "KLinearMarlin", 40), 100, 0, true);
  EXPECT_NE(plain.logits, coarse.logits) << "the prompt ran with 4-bit weights";
  // At the threshold the prompt runs as usual, so do the next ones.
  EXPECT_EQ(run(placement("KLinearTorch", "KLinearMarlin", 100), 100, 0, true).logits,
            plain.logits);
}

TEST_F(LayerWiseTest, OnlyTheNewRowsCount) {
  with_engine(placement("KLinearCPUInfer", "KLinearTorch", 40), [&](Engine& engine) {
    EXPECT_EQ(engine.generate(request(100, 1)).n_cached, 0);
    EXPECT_EQ(n_loaders_, 1);
    const Result again = engine.generate(request(120, 4));  // 100 rows are cached
    EXPECT_GE(again.n_cached, 99);
    EXPECT_EQ(n_loaders_, 1);
    EXPECT_EQ(again.tokens.size(), 4u);
  });
}

TEST_F(LayerWiseTest, IsPreparedOnceForAllLayersAndChunks) {
  with_engine(placement("KLinearCPUInfer", "KLinearTorch", 40), [&](Engine& engine) {
    engine.generate(request(100, 3));
    EXPECT_EQ(prepared_, (std::vector<std::int64_t>{100, 1, 1}));
  });
}

TEST_F(LayerWiseTest, OthersGoOnAfterwardsWithTheSameTokens) {
  const auto want = run(placement("KLinearTorch", "", 0), 20, 30, false).tokens;
  with_engine(placement("KLinearTorch", "KLinearMarlin", 40), [&](Engine& engine) {
    const auto first = engine.submit(request(20, 30));
    for (int i = 0; i < 5; ++i) engine.step();
    const auto second = engine.submit(request(90, 3));
    while (engine.step()) {
    }
    EXPECT_EQ(engine.take_result(first)->tokens, want);
    const auto result = engine.take_result(second);
    EXPECT_EQ(result->tokens.size(), 3u);
    EXPECT_GT(result->prefill_seconds, 0.0);
    EXPECT_EQ(n_loaders_, 1);
  });
}

TEST_F(LayerWiseTest, AnExceptionEndsItsRequestAlone) {
  const auto want = run(placement("KLinearTorch", "", 0), 20, 30, false).tokens;
  with_engine(placement("KLinearTorch", "KLinearCPUInfer", 40), [&](Engine& engine) {
    const auto first = engine.submit(request(20, 30));
    engine.step();
    Request bad = request(90, 3);
    bad.on_prefill = [](std::int64_t, std::int64_t) { throw std::runtime_error("lost"); };
    const auto lost = engine.submit(bad);
    while (engine.step()) {
    }
    EXPECT_EQ(engine.take_result(lost)->error, "lost");
    EXPECT_EQ(engine.take_result(first)->tokens, want);
    EXPECT_EQ(engine.generate(request(90, 3)).tokens.size(), 3u);
  });
}

// Weights that cannot be read again end every request, with the reason, and the engine.
TEST_F(LayerWiseTest, LostWeightsEndEverything) {
  const Placement p = placement("KLinearCPUInfer", "KLinearTorch", 40);
  const auto model = models::build_model(source_.config(), p);
  operators::Loader loader(source_, cpu_, {});
  models::load_model(*model, loader);
  EngineOptions options;
  options.context = 256;
  options.kv_format = tensor::Format::kF32;
  options.layer_wise_threshold = 40;
  const operators::TestSource empty(source_.config());
  options.make_loader = [&] { return operators::Loader(empty, cpu_, {}); };
  Engine engine(*model, cpu_, options);
  const auto running = engine.submit(request(20, 100));
  engine.step();
  const auto lost = engine.submit(request(90, 3));
  while (engine.step()) {
  }
  for (const auto id : {running, lost}) {
    const auto result = engine.take_result(id);
    ASSERT_NE(result, nullptr);
    EXPECT_EQ(result->reason, FinishReason::kError);
    EXPECT_NE(result->error.find("q_proj.weight' [64, 64] is missing"), std::string::npos)
        << result->error;
  }
  EXPECT_THROW(engine.submit(request(5, 1)), Error);
}

}  // namespace
}  // namespace kt::engine
