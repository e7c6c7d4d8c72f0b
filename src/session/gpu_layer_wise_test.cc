// Layer-wise prefill whose operators are on a GPU, which is a stand-in (backend/gpu/test_fixtures).
#include <gtest/gtest.h>

#include <fstream>

#include "backend/gpu/test_fixtures/fake_gpu.h"
#include "base/shared_object.h"
#include "session/session.h"

namespace kt::session {
namespace {

const char* const kPlugin = KT_FAKE_GPU_FOLDER "/libfake_gpu_whole.so";

constexpr const char* kLayerWise = R"(
- match: {name: '^model$'}
  replace:
    class: ktransformers.operators.models.KQwen2MoeModel
    kwargs: {per_layer_prefill_intput_threshold: 40}
)";
constexpr const char* kExpertsOnCpu = R"(
- match: {name: '^model\.layers\..*\.experts$'}
  replace:
    class: ktransformers.operators.experts.KTransformersExperts
    kwargs: {generate_device: cpu, generate_op: KExpertsCPU, prefill_device: PREFILL}
  recursive: false
- match: {name: '^model\.embed_tokens$'}
  replace: {class: default, kwargs: {generate_device: cpu, prefill_device: cpu}}
)";
constexpr const char* kOutputs = R"(
- match: {name: '^model\.layers\..*\.o_proj$'}
  replace:
    class: ktransformers.operators.linear.KTransformersLinear
    kwargs: {generate_device: GENERATE, prefill_device: PREFILL}
)";

std::string with(std::string text, const std::string& what, const std::string& value) {
  return text.replace(text.find(what), what.size(), value);
}

class GpuLayerWise : public testing::Test {
 protected:
  GpuLayerWise()
      : object_(SharedObject::open(kPlugin, SharedObject::Unload::kNever, &problem_)),
        settings_(*static_cast<backend::FakeGpuSettings*>(object_->symbol("fake_gpu_settings"))) {}
  ~GpuLayerWise() override { settings_.failing = nullptr; }

  static std::unique_ptr<Session> open(const std::string& rules, const std::string& stream = "auto",
                                       const std::string& type = "Q8_0", std::int64_t context = 0) {
    Options options;
    options.context = context;
    options.rules = testing::TempDir() + "/gpu_layer_wise.yaml";
    std::ofstream(options.rules) << rules;
    options.device = "cuda:0";
    options.chunk_size = 48;
    options.n_threads = 2;
    options.stream_experts = stream;
    options.gpu_plugin = kPlugin;
    return Session::open_dummy(options, KT_SOURCE_DIR "/tests/data/golden_configs/qwen3_moe.json",
                               type, 0);
  }
  static std::string experts(const std::string& prefill, const std::string& op = "") {
    return with(kExpertsOnCpu, "PREFILL", prefill + (op.empty() ? "" : ", prefill_op: " + op));
  }

  struct Outcome {
    std::vector<float> logits;
    std::vector<std::int32_t> tokens;
    bool operator==(const Outcome&) const = default;
  };
  static Outcome run(Session& session, std::int32_t n_prompt) {
    Outcome out;
    engine::Request request;
    for (std::int32_t i = 0; i < n_prompt; ++i) request.prompt.push_back(i * 7 % 200);
    request.sampling.temperature = 0.0f;
    request.ignore_stop_tokens = true;
    request.reuse_prefix = false;
    request.max_tokens = 6;
    request.on_prompt_logits = [&](std::int64_t, std::span<const float> logits) {
      out.logits.insert(out.logits.end(), logits.begin(), logits.end());
    };
    out.tokens = session.engine().generate(request).tokens;
    return out;
  }

  std::string problem_;
  std::unique_ptr<SharedObject> object_;
  backend::FakeGpuSettings& settings_;
};

TEST_F(GpuLayerWise, LongPromptsHaveTheirExpertsOnTheGpu) {
  for (const char* stream : {"off", "auto"}) {
    const std::string all =
        with(kExpertsOnCpu, "cpu, generate_op: KExpertsCPU", "'cuda:0', generate_op: KExpertsGPU");
    const Outcome gpu = run(*open(with(all, "PREFILL", "'cuda:0'"), stream), 110);
    const Outcome first = run(*open(experts("'cuda:0'", "KExpertsGPU") + kLayerWise, stream), 110);
    EXPECT_EQ(first.logits, gpu.logits);
    auto session = open(experts("'cuda:0'", "KExpertsGPU") + kLayerWise, stream);
    EXPECT_EQ(run(*session, 110), first);
    const Outcome few = run(*session, 30);
    session = nullptr;
    EXPECT_EQ(run(*open(experts("cpu"), stream), 30), few);
  }
}

TEST_F(GpuLayerWise, OperatorsOfOneGpuChangePlaces) {
  const std::string outputs = with(kOutputs, "GENERATE", "'cuda:0', generate_op: KLinearGPU");
  const std::string marlin = with(kOutputs, "GENERATE", "'cuda:0', generate_op: KLinearMarlin");
  const Outcome wanted =
      run(*open(experts("cpu") + with(marlin, "PREFILL", "'cuda:0'"), "off"), 110);
  auto session = open(
      experts("cpu") + with(outputs, "PREFILL", "'cuda:0', prefill_op: KLinearMarlin") + kLayerWise,
      "off");
  const Outcome first = run(*session, 110);
  EXPECT_EQ(first.logits, wanted.logits);
  EXPECT_EQ(run(*session, 110), first);
  const Outcome few = run(*session, 30);
  session = nullptr;
  EXPECT_EQ(run(*open(experts("cpu") + with(outputs, "PREFILL", "'cuda:0'"), "off"), 30), few);
}

TEST_F(GpuLayerWise, FromTheGpuToTheCpuAndBack) {
  const std::string outputs = with(kOutputs, "GENERATE", "'cuda:0', generate_op: KLinearGPU");
  const std::string cpu = with(kOutputs, "GENERATE", "cpu, generate_op: KLinearCPUInfer");
  const Outcome wanted = run(*open(experts("cpu") + with(cpu, "PREFILL", "cpu"), "off"), 110);
  auto session = open(
      experts("cpu") + with(outputs, "PREFILL", "cpu, prefill_op: KLinearCPUInfer") + kLayerWise,
      "off");
  EXPECT_EQ(run(*session, 110).logits, wanted.logits);
  EXPECT_EQ(run(*session, 110).logits, wanted.logits);
}

TEST_F(GpuLayerWise, NothingIsKeptForPromptsThatAreNeverLongEnough) {
  const std::string rules = experts("'cuda:0'", "KExpertsGPU");
  const auto reserved = [&](const std::string& more, std::int64_t context) {
    return open(rules + more, "off", "Q8_0", context)->load_report().gpus;
  };
  EXPECT_EQ(reserved(kLayerWise, 40), reserved("", 40));
  EXPECT_NE(reserved(kLayerWise, 41), reserved("", 41));
}

TEST_F(GpuLayerWise, WhatFailsOnTheWayEndsTheRequest) {
  // "auto": the experts come packed from host memory.
  for (const auto& [stream, call] :
       {std::pair{"off", "moe"}, {"off", "pack"}, {"auto", "pack_n16"}}) {
    auto session = open(experts("'cuda:0'", "KExpertsGPU") + kLayerWise, stream);
    const Outcome wanted = run(*session, 110);
    settings_.failing = call;
    EXPECT_THROW(run(*session, 110), Error) << call;
    settings_.failing = nullptr;
    EXPECT_EQ(run(*session, 110), wanted) << call;
  }
}

}  // namespace
}  // namespace kt::session
