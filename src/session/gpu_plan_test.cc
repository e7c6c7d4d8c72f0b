// Plans for GPUs by rules, beside what sessions then do there.
#include <gtest/gtest.h>

#include <fstream>

#include "operators/gpu_attention.h"
#include "session/dummy_source.h"
#include "session/placing.h"

namespace kt::session {
namespace {

constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

// A configuration of the goldens with other numbers.
io::ModelConfig config(const std::string& name,
                       const std::vector<std::pair<std::string, std::string>>& changes) {
  std::ifstream in(KT_SOURCE_DIR "/tests/data/golden_configs/" + name + ".json");
  std::string text(std::istreambuf_iterator<char>(in), {});
  for (const auto& [key, value] : changes) {
    const std::size_t at = text.find("\"" + key + "\": ") + key.size() + 4;
    text.replace(at, text.find(',', at) - at, value);
  }
  const std::string path = testing::TempDir() + "/kt_gpu_plan_config.json";
  std::ofstream(path) << text;
  return read_dummy_config(path, 0);
}

std::string rule_file(const std::string& text) {
  const std::string path = testing::TempDir() + "/kt_gpu_plan.yaml";
  std::ofstream(path) << text;
  return path;
}

Place machine(std::uint64_t gpu_bytes) {
  Place here;
  here.machine.ram = 64 * kGiB;
  here.machine.gpus = {{gpu_bytes, 1e12, 1e14}};
  here.packing = {detect_caps(), backend::ActPolicy::kQ16, 16, true};
  here.devices = {1, false};
  return here;
}

placement::Plan planned(const io::ModelConfig& config, const RunOptions& options,
                        std::uint64_t gpu_bytes = 8 * kGiB) {
  const auto source = make_dummy_source(config, file_type("Q8_0"), {});
  return place(*source, machine(gpu_bytes), options, {});
}

const placement::ModuleCost& module(const placement::Plan& plan, const std::string& path) {
  for (const placement::ModuleCost& m : plan.modules) {
    if (m.path == path) return m;
  }
  throw std::out_of_range(path);
}

std::string on(const std::string& name, const std::string& device, const std::string& more = "") {
  return "- match: {name: '" + name +
         "'}\n  replace: {class: default, kwargs: {generate_device: " + device +
         ", prefill_device: " + device + more + "}}\n";
}

const std::string kExperts =
    "- match: {name: '^model\\.layers\\..*\\.experts$'}\n  replace:\n"
    "    class: ktransformers.operators.experts.KTransformersExperts\n"
    "    kwargs: {generate_device: cpu, generate_op: KExpertsCPU, gpu_experts: 5}\n"
    "  recursive: false\n";

TEST(GpuRulesPlan, TheCacheIsWhereItsAttentionIsNotItsLinears) {
  const io::ModelConfig c = config(
      "llama",
      {{"head_dim", "64"}, {"num_key_value_heads", "8"}, {"max_position_embeddings", "262144"}});
  RunOptions options;
  options.context = 262144;
  options.rules = KT_SOURCE_DIR "/rules/Internlm2_5-7b-Chat-1m.yaml";
  const placement::Plan plan = planned(c, options, kGiB);  // of which the cache would take half
  EXPECT_EQ(plan.devices[0].kv, plan.kv_bytes);
  EXPECT_EQ(plan.kv_bytes, std::uint64_t{262144} * 2 * 8 * 64 * 2 * 2);
  EXPECT_EQ(plan.devices[1].kv, 0u);
  EXPECT_EQ(module(plan, "model.layers.0.self_attn.o_proj").device, "cuda:0");

  RunOptions other;
  other.context = 4096;
  other.rules = rule_file(on("\\.o_proj$", "cpu") + on("\\.layers\\.", "cuda:0"));
  EXPECT_EQ(planned(c, other).devices[1].kv, std::uint64_t{4096} * 2 * 8 * 64 * 2 * 2);
}

TEST(GpuRulesPlan, ExpertsGoToTheGpuOfTheirBlockNotOfTheAttention) {
  const io::ModelConfig c = config("qwen3_moe", {});
  RunOptions options;
  options.rules = rule_file(kExperts + on("\\.self_attn", "cpu") + on("\\.mlp", "cuda:0"));
  const placement::Plan plan = planned(c, options);
  const placement::ModuleCost& experts = module(plan, "model.layers.1.mlp.experts");
  EXPECT_EQ(experts.streams_to, 0);
  EXPECT_EQ(experts.n_on_gpu, 5);
  const auto part = static_cast<std::size_t>(placement::Part::kExperts);
  EXPECT_EQ(plan.devices[1].parts[part], 2 * placement::expert_bytes_on_gpu(experts, 8, 5));
  EXPECT_EQ(plan.devices[1].kv, 0u);

  options.rules = rule_file(kExperts + on("\\.self_attn", "cuda:0") + on("\\.mlp", "cpu"));
  const placement::Plan apart = planned(c, options);  // nothing to exchange, nothing to stream
  EXPECT_EQ(apart.devices[1].parts[part], 0u);
  EXPECT_EQ(module(apart, "model.layers.1.mlp.experts").streams_to, std::nullopt);
  EXPECT_GT(plan.devices[1].workspace, apart.devices[1].workspace + (std::uint64_t{48} << 20));
  EXPECT_EQ(plan.devices[0].workspace,
            apart.devices[0].workspace + operators::GpuProgram::kAllBytes);
}

TEST(GpuRulesPlan, AGpuThatOnlyABlockIsOnHasItsWorkspace) {
  RunOptions options;
  options.rules = rule_file(kExperts + on("\\.mlp$", "cuda:0"));  // its router is on the CPU
  const placement::Plan plan = planned(config("qwen3_moe", {}), options);
  EXPECT_EQ(module(plan, "model.layers.0.mlp.gate").device, "cpu");
  EXPECT_GT(plan.devices[1].workspace, std::uint64_t{64} << 20);
}

TEST(GpuRulesPlan, TheEmbeddingIsInHostMemoryWhateverRulesSay) {
  RunOptions options;
  options.rules = rule_file(on(".*", "cuda:0"));
  const placement::Plan plan = planned(config("llama", {}), options);
  const auto part = static_cast<std::size_t>(placement::Part::kEmbedding);
  EXPECT_EQ(module(plan, "model.embed_tokens").device, "cpu");
  EXPECT_GT(plan.devices[0].parts[part], 0u);
  EXPECT_EQ(plan.devices[1].parts[part], 0u);
  EXPECT_EQ(module(plan, "lm_head").device, "cuda:0");
}

TEST(GpuRulesPlan, AbsurdSizesOverflowNothing) {
  io::ModelConfig c = config("deepseek_v3", {});
  c.max_context = std::int64_t{1} << 40;
  c.n_heads = 1 << 16;
  c.mla.v_head_dim = 1 << 16;
  EXPECT_EQ(operators::gpu_expand_bytes(c), std::size_t{128} << 20);
  EXPECT_EQ(operators::gpu_attention_bytes(c, 1 << 16, c.max_context),
            (std::size_t{1} << 60) + (std::size_t{128} << 20));
  c.max_context = 2;
  c.n_heads = 4;
  const std::int64_t values = c.mla.qk_nope_dim + c.mla.qk_rope_dim + (1 << 16);
  EXPECT_EQ(operators::gpu_expand_bytes(c), static_cast<std::size_t>(2 * 4 * values * 2));
}

TEST(GpuRulesPlan, SlotsThatNobodyGetsAreAWarning) {
  const auto source = make_dummy_source(config("qwen3_moe", {}), file_type("Q8_0"), {});
  RunOptions options;
  options.rules = rule_file(kExperts + on("\\.mlp$", "cuda:0"));
  std::string said;
  const auto say = [&](const std::string& warning) { said += warning; };
  place(*source, machine(8 * kGiB), options, say);
  EXPECT_EQ(said, "");
  options.expert_cache = "off";
  place(*source, machine(8 * kGiB), options, say);
  EXPECT_NE(said.find("has no effect, the expert cache is off"), std::string::npos) << said;
}

TEST(GpuRulesPlan, NumericsThatGpusDoNotHaveAreRefusedWhereOneIsUsed) {
  const io::ModelConfig c = config("llama", {});
  RunOptions options;
  options.kv = "f32";
  EXPECT_THROW(planned(c, options), Error);
  options.rules = rule_file(on(".*", "cpu"));
  EXPECT_EQ(planned(c, options).devices[1].workspace, 0u);
}

}  // namespace
}  // namespace kt::session
