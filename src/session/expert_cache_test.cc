// Experts of the CPU that are in the memory of a stand-in GPU too (backend/gpu/test_fixtures): the
// same values as without them, whatever is where and whatever moves; which ones; what fails; plans.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "backend/gpu/test_fixtures/fake_gpu.h"
#include "base/shared_object.h"
#include "session/dummy_source.h"
#include "session/session.h"

namespace kt::session {
namespace {

const std::string kConfigs = KT_SOURCE_DIR "/tests/data/golden_configs/";
const char* const kPlugin = KT_FAKE_GPU_FOLDER "/libfake_gpu_whole.so";

struct Arrangement {
  int n_on_gpu = 0;  // of a layer's 8 experts; the others, and all else, as names say
  std::string cache = "auto";
  std::string config = "qwen3_moe";
  std::string type = "Q8_0";
  const char* graphs = "on";
  std::string stream = "off";
  bool router_on_cpu = false;
  std::int64_t defer = 0;
  std::int64_t chunk = 16;  // steps of few rows
  int nodes = 0;
  std::string isa = "";
  std::string profile = "";
  std::string save = "";
};

class ExpertCacheSession : public ::testing::Test {
 protected:
  ExpertCacheSession()
      : object_(SharedObject::open(kPlugin, SharedObject::Unload::kNever, &problem_)),
        settings_(*static_cast<backend::FakeGpuSettings*>(object_->symbol("fake_gpu_settings"))) {
    settings_.late = true;
  }
  ~ExpertCacheSession() override {
    settings_.failing = nullptr;
    settings_.late = false;
  }

  static std::unique_ptr<Session> open(const Arrangement& setup) {
    Options options;
    options.n_threads = 2;
    options.gpu_plugin = kPlugin;
    options.chunk_size = setup.chunk;
    options.expert_cache = setup.cache;
    options.stream_experts = setup.stream;
    options.gpu_graphs = setup.graphs;
    options.defer_experts = setup.defer;
    options.emulate_nodes = setup.nodes;
    options.isa = setup.isa;
    options.expert_profile = setup.profile;
    options.save_expert_profile = setup.save;
    options.rules = ::testing::TempDir() + "/expert_cache.yaml";
    options.device = "cuda:0";
    std::ofstream rules(options.rules);
    rules << R"(
- match: {name: '^model\.layers\..*\.experts$'}
  replace:
    class: ktransformers.operators.experts.KTransformersExperts
    kwargs: {generate_device: cpu, generate_op: KExpertsCPU, gpu_experts: )"
          << setup.n_on_gpu << R"(}
  recursive: false
- match: {name: '^model\.embed_tokens$'}
  replace: {class: default, kwargs: {generate_device: cpu, prefill_device: cpu}}
)";
    if (setup.router_on_cpu) {
      rules << R"(
- match: {name: '^model\.layers\..*\.mlp\.gate$'}
  replace: {class: ktransformers.operators.gate.KMoEGate, kwargs: {generate_device: cpu, prefill_device: cpu}}
)";
    }
    rules.close();
    return Session::open_dummy(options, kConfigs + setup.config + ".json", setup.type, 0);
  }

  static engine::Request request(std::vector<std::int32_t> prompt) {
    engine::Request request;
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0.0f;
    request.max_tokens = 0;
    request.ignore_stop_tokens = true;
    request.reuse_prefix = false;
    return request;
  }
  static std::vector<float> logits_of(Session& session, engine::Request prompt) {
    std::vector<float> all;
    prompt.on_prompt_logits = [&](std::int64_t, std::span<const float> logits) {
      all.insert(all.end(), logits.begin(), logits.end());
    };
    session.engine().generate(prompt);
    return all;
  }
  // Other tokens all the time: other experts.
  static engine::Request changing(bool one_by_one) {
    std::vector<std::int32_t> tokens;
    for (std::int32_t i = 0; i < 110; ++i) tokens.push_back(i * 7 % 200);
    engine::Request prompt = request(tokens);
    prompt.prompt_by_decode = one_by_one;
    return prompt;
  }
  // One token after the other, the same all the time: the same experts.
  static engine::Request constant(std::int32_t token) {
    engine::Request prompt = request(std::vector<std::int32_t>(60, token));
    prompt.prompt_by_decode = true;
    return prompt;
  }
  // Share of the routed rows, from now on, whose expert was there.
  static double hits(Session& session, const engine::Request& prompt) {
    const operators::ExpertUse before = session.engine().expert_use();
    session.engine().generate(prompt);
    const operators::ExpertUse& after = session.engine().expert_use();
    const auto here = static_cast<double>(after.n_cached - before.n_cached);
    return here / (here + static_cast<double>(after.n_rows - before.n_rows));
  }

  std::string problem_;
  std::unique_ptr<SharedObject> object_;  // the same that sessions open
  backend::FakeGpuSettings& settings_;
};

void expect_close(const std::vector<float>& a, const std::vector<float>& b) {
  ASSERT_EQ(a.size(), b.size());
  double difference = 0.0, square = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    square += double{a[i]} * a[i];
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  }
  EXPECT_LT(difference, 1e-3 * square);
  EXPECT_GT(difference, 0.0);
}

TEST_F(ExpertCacheSession, AgreesWithTheCpuAlone) {
  for (Arrangement model : {Arrangement{.type = "BF16"}, Arrangement{.type = "Q4_K_M"},
                            Arrangement{.config = "qwen2_moe"},
                            Arrangement{.config = "deepseek_v3", .type = "MXFP4_MOE"}}) {
    SCOPED_TRACE(model.config + " " + model.type);
    auto session = open(model);
    const std::vector<float> wanted = logits_of(*session, changing(false));
    EXPECT_EQ(session->engine().expert_use().n_cached, 0u);
    session = nullptr;  // it holds all memory of the GPU
    model.n_on_gpu = 3;
    session = open(model);
    EXPECT_NE(session->load_report().gpus.find("cuda:0: 3 of "), std::string::npos);
    expect_close(logits_of(*session, changing(false)), wanted);  // some rows a step
    expect_close(logits_of(*session, changing(true)), wanted);   // one
    EXPECT_GT(session->engine().expert_use().n_cached, 100u);
  }
}

TEST_F(ExpertCacheSession, AllOfThemMayBeThereAndNotMore) {
  const std::vector<float> wanted = logits_of(*open(Arrangement{}), changing(true));
  const auto session = open(Arrangement{.n_on_gpu = 8});
  expect_close(logits_of(*session, changing(true)), wanted);
  EXPECT_EQ(session->engine().expert_use().n_rows, 0u);
  EXPECT_THROW(open(Arrangement{.n_on_gpu = 9}), Error);
}

TEST_F(ExpertCacheSession, PromptsUseItBesideWhatIsStreamed) {
  const std::vector<float> wanted = logits_of(*open(Arrangement{.chunk = 48}), changing(false));
  for (const char* stream : {"off", "on", "auto"}) {
    SCOPED_TRACE(stream);
    const auto session = open(Arrangement{.n_on_gpu = 3, .stream = stream, .chunk = 48});
    expect_close(logits_of(*session, changing(false)), wanted);
    EXPECT_GT(session->engine().expert_use().n_cached, 100u);
  }
}

TEST_F(ExpertCacheSession, ReplayedStepsEqualLaunchedOnes) {
  for (const std::int64_t defer : {0, 2}) {
    for (const bool router_on_cpu : {false, true}) {
      SCOPED_TRACE(fmt::format("defer {} router {}", defer, router_on_cpu));
      Arrangement setup{
          .n_on_gpu = 3, .cache = "fixed", .router_on_cpu = router_on_cpu, .defer = defer};
      engine::Request prompt = changing(false);
      prompt.max_tokens = 20;
      setup.graphs = "off";
      const std::vector<std::int32_t> wanted = open(setup)->engine().generate(prompt).tokens;
      setup.graphs = "on";
      const auto session = open(setup);
      EXPECT_EQ(session->engine().generate(prompt).tokens, wanted);
      EXPECT_EQ(session->engine().generate(prompt).tokens, wanted);
    }
  }
}

TEST_F(ExpertCacheSession, WhereTheRouterIsDoesNotMatter) {
  const std::vector<float> wanted = logits_of(*open(Arrangement{}), changing(true));
  const auto session = open(Arrangement{.n_on_gpu = 3, .router_on_cpu = true});
  expect_close(logits_of(*session, changing(true)), wanted);
}

TEST_F(ExpertCacheSession, ExpertsThatAreUsedMoreTakeThePlaceOfOthers) {
  for (const char* graphs : {"on", "off"}) {
    std::vector<std::vector<float>> wanted;
    {
      const auto session = open(Arrangement{});
      for (const std::int32_t token : {7, 120})
        wanted.push_back(logits_of(*session, constant(token)));
    }
    const auto fixed = [&](std::int32_t token) {
      const auto session = open(Arrangement{.n_on_gpu = 3, .cache = "fixed", .graphs = graphs});
      hits(*session, constant(token));
      return hits(*session, constant(token));
    };
    const double fixed_7 = fixed(7), fixed_120 = fixed(120);
    const auto session = open(Arrangement{.n_on_gpu = 3, .graphs = graphs});
    hits(*session, constant(7));
    EXPECT_GT(hits(*session, constant(7)), std::max(0.8, fixed_7));
    expect_close(logits_of(*session, constant(7)), wanted[0]);
    const double at_first = hits(*session, constant(120));
    for (int i = 0; i < 6; ++i) hits(*session, constant(120));
    EXPECT_GT(hits(*session, constant(120)), std::max({0.8, at_first, fixed_120}));
    expect_close(logits_of(*session, constant(120)), wanted[1]);
    expect_close(logits_of(*session, constant(7)), wanted[0]);
  }
}

TEST_F(ExpertCacheSession, BeginsWithTheExpertsOfAProfile) {
  const std::string path = ::testing::TempDir() + "/uses.json";
  const auto hits_of_one_run = [&](const Arrangement& setup) {
    return hits(*open(setup), constant(120));
  };
  // Counted on the CPU alone: three of a row's experts are two of three uses or more.
  hits_of_one_run({.save = path});
  const double first = hits_of_one_run({.n_on_gpu = 3, .cache = "fixed"});
  EXPECT_GT(hits_of_one_run({.n_on_gpu = 3, .cache = "fixed", .profile = path}),
            std::max(0.8, first));
  EXPECT_GT(hits_of_one_run({.n_on_gpu = 3, .profile = path}), std::max(0.8, first));
  std::ofstream(path)
      << R"({"format": "kt-expert-uses", "uses": {"model.layers.0.mlp.experts": [1,1,1,1,1,1,1,1]}})";
  EXPECT_THROW(open({.n_on_gpu = 3, .profile = path}), Error) << "a layer is missing";
  EXPECT_NO_THROW(open({.n_on_gpu = 0, .profile = path}));
}

TEST_F(ExpertCacheSession, ExpertsOfDeferredRanksCountToo) {
  const auto session = open(Arrangement{.n_on_gpu = 3, .defer = 2});
  for (int i = 0; i < 3; ++i) hits(*session, constant(120));
  EXPECT_GT(hits(*session, constant(120)), 0.8);
}

TEST_F(ExpertCacheSession, WhatFailsEndsItsRequestsAndIsMadeGoodLater) {
  const std::size_t held = settings_.n_held;
  std::vector<float> wanted;
  {
    const auto session = open(Arrangement{});
    wanted = logits_of(*session, constant(7));
  }
  for (const char* call : {"copy", "pack_n16", "event_record", "stream_wait_event", "event_done",
                           "event_synchronize", "gather_rows"}) {
    SCOPED_TRACE(call);
    const bool is_recorded = std::string_view(call) == "gather_rows";
    const auto session = open(Arrangement{.n_on_gpu = 3, .graphs = is_recorded ? "off" : "on"});
    engine::Request request = constant(7);
    int n_rows = 0;
    // Moves begin after some rows, and go on from then.
    request.on_prompt_logits = [&](std::int64_t, std::span<const float>) {
      if (++n_rows == 5) settings_.failing = call;
    };
    EXPECT_THROW(session->engine().generate(request), Error);
    settings_.failing = nullptr;
    expect_close(logits_of(*session, constant(7)), wanted);
    EXPECT_GT(hits(*session, constant(7)), 0.8);
  }
  EXPECT_EQ(settings_.n_held, held);
}

TEST_F(ExpertCacheSession, MemoryThatIsNotPinnedKeepsItAsItIs) {
  const std::vector<float> wanted = logits_of(*open(Arrangement{}), constant(7));
  settings_.failing = "host_register";
  const auto session = open(Arrangement{.n_on_gpu = 3});
  settings_.failing = nullptr;
  EXPECT_NE(session->load_report().gpus.find("always the same, as host memory is not pinned"),
            std::string::npos)
      << session->load_report().gpus;
  const double before = hits(*session, constant(7));
  expect_close(logits_of(*session, constant(7)), wanted);
  EXPECT_EQ(hits(*session, constant(7)), before);
}

TEST_F(ExpertCacheSession, ExpertsOfSeveralNodesArePutTogether) {
  const auto one = logits_of(*open(Arrangement{.n_on_gpu = 3, .cache = "fixed"}), changing(true));
  EXPECT_EQ(
      logits_of(*open(Arrangement{.n_on_gpu = 3, .cache = "fixed", .nodes = 2}), changing(true)),
      one);
}

TEST_F(ExpertCacheSession, FormatsThatGpusHaveNoExpertsForAreAnError) {
  EXPECT_THROW(open(Arrangement{.n_on_gpu = 3, .type = "Q2_K"}), Error);
  EXPECT_NO_THROW(open(Arrangement{.n_on_gpu = 3, .cache = "off", .type = "Q2_K"}));
  EXPECT_THROW(open(Arrangement{.n_on_gpu = 3, .isa = "ref"}), Error);  // packed otherwise
  EXPECT_THROW(open(Arrangement{.cache = "perhaps"}), Error);
}

class ExpertCachePlan : public ::testing::Test {
 protected:
  placement::Plan planned(std::vector<std::uint64_t> gpus, const std::string& cache,
                          std::int64_t chunk = 512, const std::string& stream = "auto") const {
    Place here;
    here.machine.ram = std::uint64_t{64} << 30;
    for (const std::uint64_t bytes : gpus) here.machine.gpus.push_back({bytes, 1e12, 1e14});
    here.packing = {detect_caps(), backend::ActPolicy::kQ16, 16, true};
    here.devices = {static_cast<int>(gpus.size()), false};
    RunOptions options;
    options.expert_cache = cache;
    options.stream_experts = stream;
    options.chunk_size = chunk;
    return place(*source_, here, options, {});
  }
  static std::vector<std::int64_t> slots(const placement::Plan& plan) {
    std::vector<std::int64_t> n;
    for (const placement::ModuleCost& m : plan.modules) {
      if (m.part == placement::Part::kExperts) n.push_back(m.n_on_gpu);
    }
    return n;
  }
  static std::size_t layers_on_gpus(const placement::Plan& plan) {
    return static_cast<std::size_t>(std::count_if(
        plan.modules.begin(), plan.modules.end(),
        [](const auto& m) { return m.part == placement::Part::kExperts && m.device != "cpu"; }));
  }
  std::unique_ptr<io::WeightSource> source_ = make_dummy_source(
      read_dummy_config(KT_SOURCE_DIR "/tests/data/configs/Qwen3-30B-A3B.json", 0),
      file_type("Q4_K_M"), {});
};

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

TEST_F(ExpertCachePlan, EveryLayerGetsAsMany) {
  const placement::Plan plan = planned({8 * kGiB}, "auto");
  const auto n = slots(plan);
  const auto [least, most] = std::minmax_element(n.begin(), n.end());
  EXPECT_GT(*least, 20);
  EXPECT_LE(*most, *least + 1);
  EXPECT_EQ(layers_on_gpus(plan), 0u);
  EXPECT_LE(plan.devices[1].used(), plan.devices[1].capacity);
  EXPECT_LT(plan.devices[1].free(), std::uint64_t{8} << 20);  // not even another expert
  EXPECT_GT(slots(planned({12 * kGiB}, "auto")).front(), *most);
  EXPECT_EQ(slots(planned({8 * kGiB}, "fixed")), n);
}

TEST_F(ExpertCachePlan, WholeLayersWhereAllFitOrWithoutIt) {
  const placement::Plan off = planned({8 * kGiB}, "off"), whole = planned({80 * kGiB}, "auto");
  EXPECT_GT(layers_on_gpus(off), 5u);
  EXPECT_EQ(slots(off), std::vector<std::int64_t>(48));
  EXPECT_EQ(layers_on_gpus(whole), 48u);
  EXPECT_EQ(slots(whole), std::vector<std::int64_t>(48));
}

TEST_F(ExpertCachePlan, TooLittleMemoryMeansNone) {
  const placement::Plan plan = planned({9 * kGiB / 4}, "auto");
  EXPECT_EQ(slots(plan), std::vector<std::int64_t>(48));
  EXPECT_EQ(layers_on_gpus(plan), 0u);
  EXPECT_LE(plan.devices[1].used(), plan.devices[1].capacity);
}

// Steps are small where nothing is streamed: room for large ones is not kept.
TEST_F(ExpertCachePlan, IsForTheStepsThatThereWillBe) {
  int n_with_some = 0;
  for (std::uint64_t bytes = 2 * kGiB; bytes < 4 * kGiB; bytes += kGiB / 8) {
    const auto open = slots(planned({bytes}, "auto", 0, "off"));
    EXPECT_EQ(open, slots(planned({bytes}, "auto", placement::kChunk, "off"))) << bytes;
    n_with_some += open.front() > 0 ? 1 : 0;
  }
  EXPECT_GT(n_with_some, 0);
}

TEST_F(ExpertCachePlan, CountsPinnedMemoryOfTheHost) {
  const std::uint64_t some = planned({8 * kGiB}, "auto").devices[0].workspace,
                      none = planned({80 * kGiB}, "auto").devices[0].workspace;
  EXPECT_GE(none, operators::GpuStep::kPinnedBytes);
  EXPECT_GE(some, none + operators::GpuProgram::kAllBytes) << "for steps that are replayed";
}

TEST_F(ExpertCachePlan, GpusOfUnequalSizeFillUpEach) {
  const placement::Plan plan = planned({6 * kGiB, 10 * kGiB}, "auto");
  EXPECT_GT(slots(plan).front(), 0);
  EXPECT_GT(slots(plan).back(), 0);
  for (const int gpu : {1, 2}) {
    EXPECT_LE(plan.devices[static_cast<std::size_t>(gpu)].used(),
              plan.devices[static_cast<std::size_t>(gpu)].capacity);
  }
}

TEST_F(ExpertCacheSession, WhatFailedInAnEmbeddingIsForgottenByTheNext) {
  const auto session = open({.n_on_gpu = 4, .cache = "fixed"});
  const std::vector<std::int32_t> tokens = {1, 2, 3};
  const std::vector<float> wanted = session->engine().embed(tokens, engine::Engine::Pooling::kMean);
  settings_.failing = "moe";
  EXPECT_THROW(session->engine().embed(tokens, engine::Engine::Pooling::kMean), Error);
  settings_.failing = nullptr;
  EXPECT_EQ(session->engine().embed(tokens, engine::Engine::Pooling::kMean), wanted);
}

}  // namespace
}  // namespace kt::session
