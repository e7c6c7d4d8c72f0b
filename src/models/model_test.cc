// Trees of every golden configuration, and configurations that contradict themselves.
#include "models/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <sstream>

#include "io/hf_config.h"
#include "io/listing_source.h"
#include "io/names.h"

namespace kt::models {
namespace {

namespace fs = std::filesystem;
using Specs = std::map<std::string, tensor::Shape>;

fs::path data(const std::string& name) { return fs::path(KT_SOURCE_DIR) / "tests/data" / name; }

std::string read_text(const fs::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

io::ModelConfig config_at(const fs::path& path) { return io::read_hf_config(path.string()); }

io::ModelConfig golden(const std::string& name) {
  return config_at(data("golden_configs/" + name + ".json"));
}

// Names of the .json files of a folder.
std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(data(folder))) {
    if (entry.path().extension() == ".json") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  EXPECT_FALSE(names.empty()) << folder;
  return names;
}

Specs specs_of(const io::ModelConfig& config) {
  const auto model = build_model(config, {});
  Specs specs;
  operators::walk(*model, [&](operators::Module& module) {
    for (const operators::WeightSpec& spec : module.weights()) {
      EXPECT_TRUE(specs.emplace(spec.name, spec.shape).second) << spec.name << " is wanted twice";
      EXPECT_TRUE(spec.name.starts_with(module.path())) << spec.name << " in " << module.path();
    }
  });
  return specs;
}

TEST(BuildModel, EveryArchitectureHasAGoldenConfiguration) {
  std::set<std::string> seen;
  for (const std::string& name : names_in("golden_configs")) seen.insert(golden(name).architecture);
  for (const Architecture& a : architectures())
    EXPECT_TRUE(seen.contains(a.model_type)) << a.model_type;
}

TEST(BuildModel, GoldenConfigurationsBuild) {
  for (const std::string& name : names_in("golden_configs")) {
    SCOPED_TRACE(name);
    const io::ModelConfig c = golden(name);
    const auto model = build_model(c, {});
    EXPECT_EQ(model->vocab_size(), c.vocab_size);
    EXPECT_EQ(static_cast<std::int64_t>(model->state_spec().size()), c.n_layers);
    std::set<std::string> paths;
    operators::walk(*model, [&](operators::Module& m) {
      EXPECT_TRUE(paths.insert(m.path() + "/" + std::string(m.kind())).second) << m.path();
      for (const operators::Module* child : m.children()) {
        EXPECT_TRUE(child->path().starts_with(m.path())) << child->path() << " below " << m.path();
      }
    });
    const Specs specs = specs_of(c);
    EXPECT_EQ(specs.at("model.embed_tokens.weight"), (tensor::Shape{c.vocab_size, c.d_model}));
    EXPECT_EQ(specs.contains("lm_head.weight"), !c.tied_embeddings);
    for (const auto& [tensor, shape] : specs) {
      // Each tensor has a place in a GGUF file, and its name there leads back.
      const auto stored = io::gguf_name(c, tensor);
      ASSERT_TRUE(stored) << tensor;
      const auto back = io::canonical_name(c, stored->name);
      ASSERT_TRUE(back) << stored->name;
      const bool stacked = back->layout == io::NameLayout::kStacked;
      EXPECT_EQ(stacked ? back->of_expert(stored->expert) : back->before, tensor);
    }
  }
}

TEST(BuildModel, TensorsOfADeepseekLayer) {
  const io::ModelConfig c = golden("deepseek_v3");
  const Specs specs = specs_of(c);
  const auto shape = [&](const std::string& name) { return specs.at("model.layers." + name); };
  EXPECT_EQ(shape("0.mlp.gate_proj.weight"), (tensor::Shape{512, 256}));
  EXPECT_FALSE(specs.contains("model.layers.1.mlp.gate_proj.weight"));
  EXPECT_EQ(shape("1.mlp.experts.7.down_proj.weight"), (tensor::Shape{256, 256}));
  EXPECT_FALSE(specs.contains("model.layers.1.mlp.experts.8.down_proj.weight"));
  EXPECT_EQ(shape("1.mlp.shared_experts.up_proj.weight"), (tensor::Shape{512, 256}));
  EXPECT_EQ(shape("1.mlp.gate.e_score_correction_bias"), (tensor::Shape{8}));
  EXPECT_EQ(shape("1.self_attn.q_a_proj.weight"), (tensor::Shape{96, 256}));
  EXPECT_EQ(shape("1.self_attn.q_b_proj.weight"), (tensor::Shape{4 * 48, 96}));
  EXPECT_EQ(shape("1.self_attn.kv_a_proj_with_mqa.weight"), (tensor::Shape{80, 256}));
  EXPECT_EQ(shape("1.self_attn.kv_b_proj.weight"), (tensor::Shape{4 * 64, 64}));
  EXPECT_EQ(build_model(c, {})->state_spec()[0].streams[0].dim, 80);
}

TEST(BuildModel, TensorsOfOtherArchitectures) {
  EXPECT_EQ(specs_of(golden("deepseek_v2_lite")).count("model.layers.0.self_attn.q_proj.weight"),
            1u);
  EXPECT_EQ(
      specs_of(golden("mixtral")).count("model.layers.0.block_sparse_moe.experts.0.w3.weight"), 1u);
  EXPECT_EQ(specs_of(golden("qwen2_moe")).count("model.layers.1.mlp.shared_expert_gate.weight"),
            1u);
  EXPECT_EQ(specs_of(golden("qwen3")).count("model.layers.0.self_attn.q_norm.weight"), 1u);
  EXPECT_EQ(specs_of(golden("qwen2")).count("model.layers.0.self_attn.k_proj.bias"), 1u);
  EXPECT_EQ(specs_of(golden("qwen2")).count("model.layers.0.self_attn.o_proj.bias"), 0u);
}

TEST(BuildModel, UnknownArchitecturesListTheKnown) {
  io::ModelConfig c = golden("llama");
  c.architecture = "gpt_oss";
  try {
    build_model(c, {});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
    const std::string text = e.what();
    EXPECT_NE(text.find("'gpt_oss'"), std::string::npos) << text;
    for (const Architecture& a : architectures())
      EXPECT_NE(text.find(a.model_type), std::string::npos) << text;
  }
}

TEST(BuildModel, ContradictionsAreRefused) {
  const auto refused = [](const std::string& name,
                          const std::function<void(io::ModelConfig&)>& change) {
    io::ModelConfig c = golden(name);
    change(c);
    try {
      build_model(c, {});
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kMismatch) << e.what();
      EXPECT_NE(std::string(e.what()).find("'" + name + "'"), std::string::npos) << e.what();
      return true;
    }
    return false;
  };
  const std::map<std::string, std::function<void(io::ModelConfig&, std::int64_t)>> sizes = {
      {"layers", [](auto& c, auto v) { c.n_layers = v; }},
      {"d_model", [](auto& c, auto v) { c.d_model = v; }},
      {"vocab", [](auto& c, auto v) { c.vocab_size = v; }},
      {"heads", [](auto& c, auto v) { c.n_heads = v; }},
      {"context", [](auto& c, auto v) { c.max_context = v; }},
  };
  for (const char* name : {"llama", "mixtral", "deepseek_v3"}) {
    for (const auto& [what, set] : sizes) {
      for (const std::int64_t bad : {std::int64_t{0}, std::int64_t{-3}, std::int64_t{1} << 40}) {
        EXPECT_TRUE(refused(name, [&](auto& c) { set(c, bad); }))
            << name << " " << what << " " << bad;
      }
    }
    EXPECT_TRUE(refused(name, [](auto& c) { c.norm_eps = 0.0; }));
    EXPECT_TRUE(refused(name, [](auto& c) { c.norm_eps = std::nan(""); }));
    EXPECT_TRUE(refused(name, [](auto& c) { c.rope.theta = std::nan(""); }));
    EXPECT_TRUE(refused(name, [](auto& c) { c.rope.theta = 0.0; }));
    EXPECT_TRUE(refused(name, [](auto& c) { c.rope.factor = -1.0; }));
  }
  EXPECT_TRUE(refused("llama", [](auto& c) { c.n_kv_heads = 3; }));  // of 8 heads
  EXPECT_TRUE(refused("llama", [](auto& c) { c.n_kv_heads = 0; }));
  EXPECT_TRUE(refused("llama", [](auto& c) { c.head_dim = 33; }));
  EXPECT_TRUE(refused("llama", [](auto& c) { c.head_dim = 2048; }));
  EXPECT_TRUE(refused("llama", [](auto& c) { c.d_ff = 0; }));
  EXPECT_TRUE(refused("llama", [](auto& c) { c.moe.n_experts = 8; }));
  EXPECT_TRUE(refused("mistral", [](auto& c) { c.sliding_window = -1; }));
  EXPECT_TRUE(refused("qwen2", [](auto& c) { c.attention_bias = false; }));
  EXPECT_TRUE(refused("qwen2_moe", [](auto& c) { c.moe.shared_gate = false; }));
  EXPECT_TRUE(refused("mixtral", [](auto& c) { c.moe.n_active = 0; }));
  EXPECT_TRUE(refused("mixtral", [](auto& c) { c.moe.n_active = c.moe.n_experts + 1; }));
  EXPECT_TRUE(refused("qwen3_moe", [](auto& c) { c.moe.n_experts = 1 << 20; }));
  EXPECT_TRUE(refused("qwen3_moe", [](auto& c) { c.moe.d_ff = 33; }));
  EXPECT_TRUE(refused("deepseek_v2", [](auto& c) { c.moe.score = io::RouterScore::kSigmoid; }));
  EXPECT_TRUE(refused("deepseek_v3", [](auto& c) { c.moe.score = io::RouterScore::kSoftmax; }));
  EXPECT_TRUE(refused("kimi_k2", [](auto& c) { c.moe.score = io::RouterScore::kSoftmax; }));
  EXPECT_TRUE(refused("deepseek_v3", [](auto& c) { c.moe.n_groups = 3; }));
  EXPECT_TRUE(refused("deepseek_v3", [](auto& c) { c.moe.n_groups = 0; }));
  EXPECT_TRUE(refused("deepseek_v3", [](auto& c) { c.moe.n_groups = 8; }));  // one expert each
  EXPECT_TRUE(refused("deepseek_v3", [](auto& c) { c.moe.n_groups_used = 5; }));
  EXPECT_TRUE(
      refused("deepseek_v3", [](auto& c) { c.moe.n_groups_used = 1; }));  // two experts for three
  EXPECT_TRUE(refused("deepseek_v3", [](auto& c) { c.moe.layer_step = 0; }));
  EXPECT_TRUE(refused("deepseek_v3", [](auto& c) { c.mla.kv_lora_rank = 0; }));
  EXPECT_TRUE(refused("deepseek_v3", [](auto& c) { c.mla.q_lora_rank = -1; }));
  EXPECT_TRUE(refused("deepseek_v3", [](auto& c) { c.mla.qk_rope_dim = 15; }));
  EXPECT_TRUE(refused("deepseek_v3", [](auto& c) { c.mla.qk_nope_dim = 0; }));
  EXPECT_TRUE(refused("deepseek_v3", [](auto& c) { c.mla.v_head_dim = 4096; }));
}

// Compares a checkpoint's tensors with what the tree asks for: none missing, none left over, shapes
// equal.
void expect_tree_fits(const io::ModelConfig& c, const std::vector<io::TensorInfo>& tensors) {
  Specs wanted = specs_of(c);
  const auto source = io::make_listing_source(c, tensors);  // refuses a name that is there twice
  for (std::int64_t layer = 0; layer < c.n_layers && c.mla.kv_lora_rank > 0; ++layer) {
    // Files may hold the two halves of kv_b_proj apart; the attention reads either.
    const std::string at = "model.layers." + std::to_string(layer) + ".self_attn.";
    if (source->find(at + "kv_b_proj.weight") != nullptr) continue;
    wanted.erase(at + "kv_b_proj.weight");
    wanted.emplace(at + "k_b_proj.weight",
                   tensor::Shape{c.n_heads, c.mla.kv_lora_rank, c.mla.qk_nope_dim});
    wanted.emplace(at + "v_b_proj.weight",
                   tensor::Shape{c.n_heads, c.mla.v_head_dim, c.mla.kv_lora_rank});
  }
  int n_shown = 0;
  for (const auto& [name, shape] : wanted) {
    const io::TensorInfo* info = source->find(name);
    if (info != nullptr && info->shape == shape) continue;
    ADD_FAILURE() << name << " " << shape.to_string() << " is "
                  << (info == nullptr ? "missing" : info->shape.to_string());
    if (++n_shown == 5) return;
  }
  for (const io::TensorInfo& info : source->tensors()) {
    if (wanted.contains(info.name)) continue;
    ADD_FAILURE() << info.name << " is left over";
    if (++n_shown == 5) return;
  }
}

TEST(PublishedModels, TreesFitTheCheckpointsTensors) {
  for (const std::string& name : names_in("configs")) {
    SCOPED_TRACE(name);
    const io::ModelConfig c = config_at(data("configs/" + name + ".json"));
    const std::string path = data("tensor_lists/" + name + ".txt").string();
    const auto listed = io::parse_tensor_list(read_text(path), path);
    ASSERT_GT(listed.size(), 100u);
    expect_tree_fits(c, io::without_ignored(c, listed));
  }
}

TEST(PublishedModels, TreesFitTheGgufFilesTensors) {
  for (const std::string& name : names_in("configs")) {
    SCOPED_TRACE(name);
    const io::ModelConfig c = config_at(data("configs/" + name + ".json"));
    const std::string path = data("tensor_lists/" + name + ".gguf.txt").string();
    const auto listed = io::parse_tensor_list(read_text(path), path);
    ASSERT_GT(listed.size(), 100u);
    expect_tree_fits(c, io::canonical_list(c, listed, path));
  }
}

TEST(BuildModel, AnOperatorThatDoesNotExistIsRefused) {
  operators::Placement placement;
  placement.entries["model.layers.1.mlp.experts"] = {"KExpertsMarlin", "cuda", "rule"};
  try {
    build_model(golden("deepseek_v3"), placement);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUnsupported);
    EXPECT_EQ(e.path(), "model.layers.1.mlp.experts");
  }
  placement.entries["model.layers.1.mlp.experts"] = {"KExpertsCPU", "cpu", "rule"};
  EXPECT_NO_THROW(build_model(golden("deepseek_v3"), placement));
}

}  // namespace
}  // namespace kt::models
