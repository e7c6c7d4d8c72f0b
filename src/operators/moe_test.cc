// Router and experts against plain loops in double.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/test_random.h"
#include "operators/builder.h"
#include "operators/test_source.h"

namespace kt::operators {
namespace {

io::ModelConfig moe_config() {
  io::ModelConfig c;
  c.architecture = "deepseek_v3";
  c.d_model = 64;
  c.moe.n_experts = 12;
  c.moe.n_active = 3;
  c.moe.d_ff = 192;
  c.moe.n_groups = 4;
  c.moe.n_groups_used = 2;
  c.moe.score = io::RouterScore::kSigmoid;
  c.moe.group_top2 = true;
  c.moe.correction_bias = true;
  c.moe.normalize_weights = true;
  c.moe.weight_scale = 2.5;
  return c;
}

struct Rig {
  explicit Rig(backend::ActPolicy act = backend::ActPolicy::kF32)
      : cpu(2, {}, detect_caps(), act) {}
  backend::Cpu cpu;
  tensor::Arena arena;
  Batch batch;
  Step step{batch, cpu, arena, {}};
};

struct Choice {
  std::vector<std::int64_t> ids;
  std::vector<double> weights;
};

// DeepSeek-V3's router, one row.
Choice route_naive(const io::MoeConfig& m, const std::vector<double>& logits,
                   const std::vector<float>& bias) {
  std::vector<double> score, choice;
  for (std::size_t e = 0; e < logits.size(); ++e) {
    score.push_back(1.0 / (1.0 + std::exp(-logits[e])));
    choice.push_back(score.back() + static_cast<double>(bias[e]));
  }
  const std::int64_t size = m.n_experts / m.n_groups;
  std::vector<std::pair<double, std::int64_t>> groups;
  for (std::int64_t g = 0; g < m.n_groups; ++g) {
    std::vector<double> part(choice.begin() + g * size, choice.begin() + (g + 1) * size);
    std::sort(part.rbegin(), part.rend());
    groups.emplace_back(-(part[0] + part[1]), g);
  }
  std::sort(groups.begin(), groups.end());
  std::vector<std::pair<double, std::int64_t>> open;
  for (std::int64_t i = 0; i < m.n_groups_used; ++i) {
    for (std::int64_t e = groups[static_cast<std::size_t>(i)].second * size, end = e + size;
         e < end; ++e) {
      open.emplace_back(-choice[static_cast<std::size_t>(e)], e);
    }
  }
  std::sort(open.begin(), open.end());
  Choice c;
  double sum = 0;
  for (std::int64_t i = 0; i < m.n_active; ++i) {
    c.ids.push_back(open[static_cast<std::size_t>(i)].second);
    sum += score[static_cast<std::size_t>(c.ids.back())];
  }
  for (const std::int64_t id : c.ids) {
    c.weights.push_back(score[static_cast<std::size_t>(id)] / sum * m.weight_scale);
  }
  return c;
}

TEST(Gate, GroupLimitedSigmoidRouting) {
  const io::ModelConfig c = moe_config();
  TestSource source(c);
  const auto w = source.add("gate.weight", {c.moe.n_experts, c.d_model}, 0.3f);
  const auto bias = source.add("gate.e_score_correction_bias", {c.moe.n_experts}, 0.4f);
  Rig rig;
  const Placement placement;
  auto gate = Builder("", placement, nullptr).gate("gate", c);
  Loader loader(source, rig.cpu, {});
  gate->load(loader);
  const std::int64_t n = 50;
  const auto x = gaussian(n * c.d_model, 3);
  Activation input(rig.step, {x.data(), n, c.d_model, c.d_model});
  const Routing routing = gate->run(rig.step, input);
  for (std::int64_t r = 0; r < n; ++r) {
    std::vector<double> logits;
    for (std::int64_t e = 0; e < c.moe.n_experts; ++e) {
      logits.push_back(std::inner_product(x.begin() + r * c.d_model,
                                          x.begin() + (r + 1) * c.d_model,
                                          w.begin() + e * c.d_model, 0.0));
    }
    const Choice want = route_naive(c.moe, logits, bias);
    for (std::int64_t i = 0; i < c.moe.n_active; ++i) {
      EXPECT_EQ(routing.ids[r * 3 + i], want.ids[static_cast<std::size_t>(i)]);
      EXPECT_NEAR(routing.weights[r * 3 + i], want.weights[static_cast<std::size_t>(i)], 1e-5);
    }
  }
}

TEST(Gate, TiesGoToTheLowerId) {
  io::ModelConfig c = moe_config();
  c.moe.correction_bias = false;
  c.moe.n_groups = c.moe.n_groups_used = 1;
  c.moe.score = io::RouterScore::kSoftmax;
  TestSource source(c);
  source.add("gate.weight", {c.moe.n_experts, c.d_model}, 0.0f);
  Rig rig;
  const Placement placement;
  auto gate = Builder("", placement, nullptr).gate("gate", c);
  Loader loader(source, rig.cpu, {});
  gate->load(loader);
  const auto x = gaussian(c.d_model, 3);
  Activation input(rig.step, {x.data(), 1, c.d_model, c.d_model});
  const Routing routing = gate->run(rig.step, input);
  EXPECT_EQ(std::vector<std::int32_t>(routing.ids, routing.ids + 3),
            (std::vector<std::int32_t>{0, 1, 2}));
  EXPECT_NEAR(routing.weights[0], 2.5 / 3.0, 1e-6);
}

class ExpertsTest : public testing::Test {
 protected:
  ExpertsTest() : config(moe_config()), source(config) {
    for (std::int64_t e = 0; e < config.moe.n_experts; ++e) {
      const std::string at = "experts." + std::to_string(e);
      source.add(at + ".gate_proj.weight", {config.moe.d_ff, config.d_model}, 0.2f);
      source.add(at + ".up_proj.weight", {config.moe.d_ff, config.d_model}, 0.2f);
      source.add(at + ".down_proj.weight", {config.d_model, config.moe.d_ff}, 0.2f);
    }
    experts = Builder("", placement, nullptr)
                  .experts("experts", {config, {"gate_proj", "up_proj", "down_proj"}});
    Loader loader(source, rig.cpu, {});
    experts->load(loader);
    loader.check_all_used();
  }

  std::vector<double> apply(std::int64_t e, const float* x) {
    const auto matrix = [&](const char* part) {
      const io::TensorInfo* info =
          source.find("experts." + std::to_string(e) + "." + part + ".weight");
      std::vector<float> w(static_cast<std::size_t>(info->shape.count()));
      source.read_rows(*info, 0, info->shape.n_rows(), reinterpret_cast<std::byte*>(w.data()));
      return w;
    };
    const auto gate = matrix("gate_proj"), up = matrix("up_proj"), down = matrix("down_proj");
    std::vector<double> h, y;
    for (std::int64_t f = 0; f < config.moe.d_ff; ++f) {
      const double g =
          std::inner_product(x, x + config.d_model, gate.begin() + f * config.d_model, 0.0);
      const double u =
          std::inner_product(x, x + config.d_model, up.begin() + f * config.d_model, 0.0);
      h.push_back(g / (1.0 + std::exp(-g)) * u);
    }
    for (std::int64_t d = 0; d < config.d_model; ++d) {
      y.push_back(std::inner_product(h.begin(), h.end(), down.begin() + d * config.moe.d_ff, 0.0));
    }
    return y;
  }

  io::ModelConfig config;
  TestSource source;
  Rig rig;
  const Placement placement;
  std::unique_ptr<Experts> experts;
};

TEST_F(ExpertsTest, WeightedSumOfChosenExperts) {
  for (const std::int64_t n : {1, 2, 70}) {  // 70 rows of few experts fill more than one panel
    const auto x = gaussian(n * config.d_model, 5);
    std::vector<std::int32_t> ids;
    std::vector<float> weights;
    for (std::int64_t r = 0; r < n; ++r) {
      ids.insert(ids.end(), {7, static_cast<std::int32_t>(r % 2), 11});
      weights.insert(weights.end(), {0.5f, 1.5f, -0.25f});
    }
    std::vector<float> out(x.size(), 1.0f);
    Activation input(rig.step, {x.data(), n, config.d_model, config.d_model});
    ExpertUse use;
    rig.step.expert_use = &use;
    Routing routing{3, ids.data(), weights.data()};
    Experts::Ticket ticket = experts->submit(rig.step, input, routing);
    EXPECT_EQ(use.n_rows, static_cast<std::uint64_t>(3 * n));
    EXPECT_EQ(use.n_reads, n == 1 ? 3u : 4u);
    Activation sum = Activation::on(rig.step, {out.data(), n, config.d_model, config.d_model});
    experts->collect(rig.step, ticket, sum);
    for (std::int64_t r = 0; r < n; r += 23) {
      std::vector<double> want(static_cast<std::size_t>(config.d_model), 1.0);
      for (int i = 0; i < 3; ++i) {
        const auto y =
            apply(ids[static_cast<std::size_t>(r * 3 + i)], x.data() + r * config.d_model);
        for (std::size_t d = 0; d < want.size(); ++d) {
          want[d] += static_cast<double>(weights[static_cast<std::size_t>(r * 3 + i)]) * y[d];
        }
      }
      for (std::size_t d = 0; d < want.size(); ++d) {
        EXPECT_NEAR(out[static_cast<std::size_t>(r * config.d_model) + d], want[d], 2e-4);
      }
    }
  }
}

// Batches on tile kernels (or their slow twins), with experts of 1, 15, 16, 17 and many rows,
// against the same weights on kernels for few rows.
TEST_F(ExpertsTest, TileKernelsAgreeWithVectorKernels) {
  struct Try {
    const char* backend;
    backend::ActPolicy act;
    double error;
  };
  // Weights and activations of three products rounded to bf16; int8 with one scale per row.
  constexpr Try kTries[] = {{"AMXBF16", backend::ActPolicy::kQ16, 0.006},
                            {"AMXInt8", backend::ActPolicy::kQ16, 0.006},
                            {"AMXInt8", backend::ActPolicy::kQ8, 0.03},
                            {"AMXInt4", backend::ActPolicy::kQ8, 0.03}};
  for (const auto& [backend, act, most] : kTries) {
    rig.cpu.act = act;
    const auto load = [&, name = backend](bool tiles) {
      Placement chosen;
      Placement::Entry entry;
      entry.op = "KExpertsCPU";
      entry.kwargs["backend"] = name;
      chosen.entries["experts"] = entry;
      auto of = Builder("", chosen, nullptr)
                    .experts("experts", {config, {"gate_proj", "up_proj", "down_proj"}});
      rig.cpu.batch_kernels = tiles ? backend::BatchKernels::kAll : backend::BatchKernels::kNone;
      Loader loader(source, rig.cpu, {});
      of->load(loader);
      return of;
    };
    const auto plain = load(false), tiled = load(true);
    const std::int64_t n = 90;
    const auto x = gaussian(n * config.d_model, 8);
    std::vector<std::int32_t> ids;
    const std::vector<float> weights(static_cast<std::size_t>(3 * n), 0.5f);
    for (std::int32_t r = 0; r < n; ++r) {
      ids.push_back(r == 0 ? 0 : r < 16 ? 1 : r < 32 ? 2 : r < 49 ? 3 : 4);
      ids.push_back(5 + r % 2);
      ids.push_back(11);
    }
    const auto run = [&](Experts& of) {
      Activation input(rig.step, {x.data(), n, config.d_model, config.d_model});
      std::vector<float> out(x.size(), 0.0f);
      Routing routing{3, ids.data(), const_cast<float*>(weights.data())};
      Experts::Ticket ticket = of.submit(rig.step, input, routing);
      Activation sum = Activation::on(rig.step, {out.data(), n, config.d_model, config.d_model});
      of.collect(rig.step, ticket, sum);
      return out;
    };
    const auto got = run(*tiled), want = run(*plain);
    double error = 0, size = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      error += std::pow(static_cast<double>(got[i]) - static_cast<double>(want[i]), 2);
      size += std::pow(static_cast<double>(want[i]), 2);
    }
    EXPECT_LT(std::sqrt(error / size), most) << backend;
    EXPECT_GT(error, 0.0) << "the tile kernels did not run";
  }
}

TEST_F(ExpertsTest, ARowDoesNotDependOnItsBatch) {
  const std::int64_t n = 9;
  const auto x = gaussian(n * config.d_model, 6);
  const std::vector<std::int32_t> ids = {1, 2, 3, 3, 4, 1, 0, 1, 2, 5, 6, 7, 1, 3,
                                         5, 2, 4, 6, 3, 2, 1, 9, 8, 7, 0, 1, 11};
  const std::vector<float> weights(ids.size(), 0.7f);
  const auto run = [&](std::int64_t first, std::int64_t count) {
    Activation input(rig.step,
                     {x.data() + first * config.d_model, count, config.d_model, config.d_model});
    std::vector<float> out(static_cast<std::size_t>(count * config.d_model), 0.0f);
    Routing routing{3, const_cast<std::int32_t*>(ids.data()) + first * 3,
                    const_cast<float*>(weights.data()) + first * 3};
    Experts::Ticket ticket = experts->submit(rig.step, input, routing);
    Activation sum = Activation::on(rig.step, {out.data(), count, config.d_model, config.d_model});
    experts->collect(rig.step, ticket, sum);
    return out;
  };
  const auto together = run(0, n);
  for (std::int64_t r = 0; r < n; ++r) {
    const auto alone = run(r, 1);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin() + r * config.d_model));
  }
}

// Weights whose products are made several at once where the CPU can: experts of 1, 2, 3 and 4 rows,
// and of as many as their neighbours or not; on more threads than there are tasks, and on two
// nodes.
TEST_F(ExpertsTest, ProductsSideBySideDoNotDependOnBatchOrThreads) {
  Placement int8;
  int8.default_entry.op = "KExpertsCPU";
  int8.default_entry.kwargs["backend"] = "AMXInt8";
  const std::int64_t n = 4, k = 3;
  const auto x = gaussian(n * config.d_model, 6);
  std::vector<std::int32_t> ids = {1, 2, 3, 1, 2, 4, 1, 3, 5, 1, 7, 8};
  std::vector<float> weights(ids.size(), 0.7f);
  const auto outputs = [&](backend::Cpu& cpu, std::int64_t at_once) {
    auto of = Builder("", int8, nullptr)
                  .experts("experts", {config, {"gate_proj", "up_proj", "down_proj"}});
    Loader loader(source, cpu, {});
    of->load(loader);
    tensor::Arena arena;
    const Batch batch;
    Step step{batch, cpu, arena, {}};
    std::vector<float> out(x.size(), 0.0f);
    for (std::int64_t r = 0; r < n; r += at_once) {
      const std::int64_t at = r * config.d_model;
      Activation input(step, {x.data() + at, at_once, config.d_model, config.d_model});
      Routing routing{k, ids.data() + r * k, weights.data() + r * k};
      Experts::Ticket ticket = of->submit(step, input, routing);
      Activation sum =
          Activation::on(step, {out.data() + at, at_once, config.d_model, config.d_model});
      of->collect(step, ticket, sum);
    }
    return out;
  };
  for (const auto act : {backend::ActPolicy::kQ8, backend::ActPolicy::kQ16}) {
    backend::Cpu one(1, {}, detect_caps(), act), many(40, {}, detect_caps(), act);
    backend::Cpu nodes({.workers = {{0, 2, {}}, {0, 1, {}}}}, detect_caps(), act);
    const auto want = outputs(one, 1);
    for (backend::Cpu* cpu : {&one, &many, &nodes}) {
      for (const std::int64_t at_once : {1, 2, 4})
        EXPECT_EQ(outputs(*cpu, at_once), want) << cpu->pool.size() << ", " << at_once;
    }
  }
}

TEST_F(ExpertsTest, NegativeIdsAreLeftOut) {
  const auto x = gaussian(3 * config.d_model, 6);
  const auto run = [&](std::int64_t n_active, std::vector<std::int32_t> ids,
                       std::vector<float> weights) {
    Activation input(rig.step, {x.data(), 3, config.d_model, config.d_model});
    std::vector<float> out(x.size(), 0.0f);
    Routing routing{n_active, ids.data(), weights.data()};
    Experts::Ticket ticket = experts->submit(rig.step, input, routing);
    Activation sum = Activation::on(rig.step, {out.data(), 3, config.d_model, config.d_model});
    experts->collect(rig.step, ticket, sum);
    return out;
  };
  const auto few = run(1, {4, 7, 4}, {0.5f, 2.0f, 1.0f});
  EXPECT_EQ(run(3, {-1, 4, -1, 7, -1, -5, -1, -1, 4}, {9, 0.5f, 9, 2.0f, 9, 9, 9, 9, 1.0f}), few);
  EXPECT_EQ(run(1, {-1, -1, -1}, {1, 1, 1}), std::vector<float>(x.size(), 0.0f));
}

TEST_F(ExpertsTest, LimitsBoundGateAndUp) {
  io::ModelConfig limited = config;
  limited.moe.swiglu_limit = 1e-3;
  auto bounded = Builder("", placement, nullptr)
                     .experts("experts", {limited, {"gate_proj", "up_proj", "down_proj"}});
  Loader loader(source, rig.cpu, {});
  bounded->load(loader);
  const auto x = gaussian(config.d_model, 6);
  std::int32_t id = 3;
  float weight = 1.0f;
  Activation input(rig.step, {x.data(), 1, config.d_model, config.d_model});
  std::vector<float> out(x.size(), 0.0f);
  Routing routing{1, &id, &weight};
  Experts::Ticket ticket = bounded->submit(rig.step, input, routing);
  Activation sum = Activation::on(rig.step, {out.data(), 1, config.d_model, config.d_model});
  bounded->collect(rig.step, ticket, sum);
  // |silu(gate)| < 0.3 and |up| <= limit bound every product.
  const io::TensorInfo* info = source.find("experts.3.down_proj.weight");
  std::vector<float> down(static_cast<std::size_t>(info->shape.count()));
  source.read_rows(*info, 0, info->shape.n_rows(), reinterpret_cast<std::byte*>(down.data()));
  for (std::int64_t d = 0; d < config.d_model; ++d) {
    float most = 0.0f;
    for (std::int64_t f = 0; f < config.moe.d_ff; ++f)
      most += std::fabs(down[static_cast<std::size_t>(d * config.moe.d_ff + f)]);
    EXPECT_LE(std::fabs(out[static_cast<std::size_t>(d)]), 0.3f * 1e-3f * most);
  }
}

TEST_F(ExpertsTest, MissingTensorIsNamed) {
  io::ModelConfig larger = config;
  larger.moe.n_experts = 13;
  auto more = Builder("", placement, nullptr)
                  .experts("experts", {larger, {"gate_proj", "up_proj", "down_proj"}});
  Loader loader(source, rig.cpu, {});
  try {
    more->load(loader);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kMismatch);
    EXPECT_NE(std::string(e.what()).find("experts.12.gate_proj.weight"), std::string::npos);
  }
}

}  // namespace
}  // namespace kt::operators
