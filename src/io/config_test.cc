#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "io/files.h"
#include "io/gguf_config.h"
#include "io/gguf_export.h"
#include "io/gguf_source.h"
#include "io/gguf_writer.h"
#include "io/hf_config.h"
#include "io/listing_source.h"
#include "io/names.h"
#include "io/test_files.h"

namespace kt::io {
namespace {

using testing::message_of;
using testing::TemporaryFolder;

const char* const kModels[] = {
    "DeepSeek-V2",  "DeepSeek-V2-Lite",  "DeepSeek-V3",    "Kimi-K2-Instruct", "Llama-3.1-8B",
    "Mixtral-8x7B", "Moonlight-16B-A3B", "Qwen2-57B-A14B", "Qwen3-235B-A22B",  "Qwen3-30B-A3B"};

std::string data_path(const std::string& name) {
  return std::string(KT_SOURCE_DIR) + "/tests/data/" + name;
}

HfConfig load(const std::string& model) {
  const std::string path = data_path("configs/" + model + ".json");
  return parse_hf_config(read_text_file(path, 1 << 20), "", path);
}

ModelConfig parse(const std::string& text) {
  return parse_hf_config(text, "", "config.json").model;
}

TEST(HfConfig, ReadsDeepSeekV3) {
  const HfConfig c = load("DeepSeek-V3");
  EXPECT_EQ(c.model.architecture, "deepseek_v3");
  EXPECT_EQ(c.model.n_layers, 61);
  EXPECT_EQ(c.model.n_mtp_layers, 1);
  EXPECT_EQ(c.model.moe.n_experts, 256);
  EXPECT_EQ(c.model.moe.n_groups, 8);
  EXPECT_EQ(c.model.moe.n_groups_used, 4);
  EXPECT_TRUE(c.model.moe.group_top2);
  EXPECT_TRUE(c.model.moe.correction_bias);
  EXPECT_EQ(c.model.moe.score, RouterScore::kSigmoid);
  EXPECT_EQ(c.model.rope.kind, RopeKind::kYarn);
  EXPECT_EQ(c.model.rope.mscale_all_dim, 1.0);
  EXPECT_EQ(c.model.mla.q_lora_rank, 1536);
  EXPECT_EQ(c.quant.method, QuantMethod::kFp8);
  EXPECT_EQ(c.quant.block_k, 128);
  EXPECT_FALSE(c.model.sparse_layer(2));
  EXPECT_TRUE(c.model.sparse_layer(3));
}

TEST(HfConfig, ReadsTheOthers) {
  const ModelConfig v2 = load("DeepSeek-V2").model;
  EXPECT_EQ(v2.moe.n_groups_used, 3);
  EXPECT_FALSE(v2.moe.group_top2);
  EXPECT_EQ(v2.moe.weight_scale, 16.0);
  const ModelConfig lite = load("DeepSeek-V2-Lite").model;
  EXPECT_EQ(lite.mla.q_lora_rank, 0);
  EXPECT_EQ(lite.moe.n_groups, 1);
  EXPECT_EQ(lite.moe.d_ff_shared, 2 * 1408);
  const ModelConfig llama = load("Llama-3.1-8B").model;
  EXPECT_EQ(llama.rope.kind, RopeKind::kLlama3);
  EXPECT_EQ(llama.rope.factor, 8.0);
  EXPECT_EQ(llama.n_kv_heads, 8);
  const ModelConfig qwen2 = load("Qwen2-57B-A14B").model;
  EXPECT_TRUE(qwen2.attention_bias);
  EXPECT_FALSE(qwen2.attention_out_bias);
  EXPECT_TRUE(qwen2.moe.shared_gate);
  EXPECT_EQ(qwen2.moe.d_ff_shared, 20480);
  const ModelConfig qwen3 = load("Qwen3-235B-A22B").model;
  EXPECT_EQ(qwen3.head_dim, 128);
  EXPECT_TRUE(qwen3.moe.normalize_weights);
  EXPECT_EQ(load("Moonlight-16B-A3B").model.rope.kind, RopeKind::kDefault);
  EXPECT_EQ(load("Kimi-K2-Instruct").model.architecture, "kimi_k2");
  EXPECT_TRUE(load("Mixtral-8x7B").model.moe.normalize_weights);
}

const std::string kSmall =
    R"("hidden_size":64,"num_hidden_layers":4,"num_attention_heads":4,"vocab_size":100,
  "intermediate_size":128,"max_position_embeddings":512)";

TEST(HfConfig, NewSpellingsMeanTheSame) {
  const ModelConfig old_style =
      parse(R"({"model_type":"llama",)" + kSmall +
            R"(,"rope_theta":5000.0,"rope_scaling":{"type":"linear","factor":2.0}})");
  const ModelConfig new_style =
      parse(R"({"model_type":"llama",)" + kSmall +
            R"(,"rope_parameters":{"rope_theta":5000.0,"rope_type":"linear","factor":2.0}})");
  EXPECT_EQ(old_style.rope.theta, new_style.rope.theta);
  EXPECT_EQ(old_style.rope.kind, RopeKind::kLinear);
  EXPECT_EQ(new_style.rope.kind, RopeKind::kLinear);
  EXPECT_EQ(new_style.rope.factor, 2.0);
  EXPECT_EQ(
      parse(R"({"model_type":"llama",)" + kSmall + R"(,"rope_parameters":{"rope_type":"default"}})")
          .rope.kind,
      RopeKind::kDefault);
}

TEST(HfConfig, SlidingWindows) {
  EXPECT_EQ(
      parse(R"({"model_type":"mistral",)" + kSmall + R"(,"sliding_window":100})").sliding_window,
      100);
  EXPECT_EQ(
      parse(R"({"model_type":"mistral",)" + kSmall + R"(,"sliding_window":null})").sliding_window,
      0);
  EXPECT_EQ(
      parse(R"({"model_type":"qwen2",)" + kSmall + R"(,"sliding_window":100})").sliding_window, 0);
  const ModelConfig qwen =
      parse(R"({"model_type":"qwen2",)" + kSmall +
            R"(,"sliding_window":100,"use_sliding_window":true,"max_window_layers":2})");
  EXPECT_EQ(qwen.sliding_window, 100);
  EXPECT_EQ(qwen.full_attention_layers, 2);
}

TEST(HfConfig, GenerationConfigAddsEndTokens) {
  const std::string text =
      R"({"model_type":"llama",)" + kSmall + R"(,"eos_token_id":2,"bos_token_id":1})";
  const ModelConfig c = parse_hf_config(text, R"({"eos_token_id":[2,7]})", "config.json").model;
  EXPECT_EQ(c.bos_token, 1);
  EXPECT_EQ(c.eos_tokens, (std::vector<std::int64_t>{2, 7}));
}

TEST(HfConfig, GenerationConfigAdvisesSampling) {
  const std::string text = R"({"model_type":"llama",)" + kSmall + "}";
  const auto advice = [&](const char* generation) {
    return parse_hf_config(text, generation, "config.json").model.sampling;
  };
  EXPECT_FALSE(advice("{}").temperature.has_value());
  const SamplingAdvice all = advice(
      R"({"do_sample":true,"temperature":0.6,"top_k":-1,"top_p":0.95,"min_p":0,"typical_p":null,
          "repetition_penalty":1.05})");
  EXPECT_EQ(all.temperature, 0.6);
  EXPECT_EQ(all.top_k, 0);
  EXPECT_EQ(all.top_p, 0.95);
  EXPECT_EQ(all.min_p, 0.0);
  EXPECT_FALSE(all.typical_p.has_value());
  EXPECT_EQ(all.repetition_penalty, 1.05);
  EXPECT_EQ(advice(R"({"do_sample":false,"temperature":0.6})").temperature, 0.0);
  for (const char* wrong : {R"({"temperature":-1})", R"({"top_p":1.5})", R"({"top_p":"x"})",
                            R"({"repetition_penalty":0})"}) {
    const std::string message = message_of([&] { advice(wrong); }, ErrorCode::kBadFile);
    EXPECT_NE(message.find("generation_config.json"), std::string::npos) << message;
  }
}

TEST(HfConfig, ErrorsNameTheKey) {
  auto refuse = [](const std::string& text, ErrorCode code, const char* part) {
    const std::string message = message_of([&] { parse(text); }, code);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  const std::string head = R"({"model_type":"llama",)" + kSmall;
  refuse(R"({"model_type":"gpt2"})", ErrorCode::kUnsupported, "qwen3_moe");
  refuse(R"({"model_type":"llama","num_hidden_layers":4})", ErrorCode::kBadFile, "hidden_size");
  refuse(head + R"(,"num_key_value_heads":"x"})", ErrorCode::kBadFile, "num_key_value_heads");
  refuse(head + R"(,"num_key_value_heads":3})", ErrorCode::kBadFile, "key/value");
  refuse(head + R"(,"rope_scaling":{"type":"longrope"}})", ErrorCode::kUnsupported, "longrope");
  refuse(head + R"(,"quantization_config":{"quant_method":"hqq"}})", ErrorCode::kUnsupported,
         "hqq");
  refuse(head + R"(,"hidden_act":"gelu"})", ErrorCode::kUnsupported, "gelu");
  refuse(head + R"(,"rms_norm_eps":-1})", ErrorCode::kBadFile, "epsilon");
  refuse(head + R"(,"rope_theta":1e999})", ErrorCode::kBadFile, "JSON");
  refuse("[1]", ErrorCode::kBadFile, "object");
  refuse("{", ErrorCode::kBadFile, "JSON");
  refuse(R"({"a":)" + std::string(100000, '['), ErrorCode::kBadFile, "levels");
  refuse(R"({"model_type":"llama","num_hidden_layers":18446744073709551615})", ErrorCode::kBadFile,
         "num_hidden_layers");
}

TEST(HfConfig, DamagedTextIsRefusedWithoutCrash) {
  const std::string text = read_text_file(data_path("configs/DeepSeek-V3.json"), 1 << 20);
  const auto* begin = reinterpret_cast<const std::byte*>(text.data());
  const int refused =
      testing::feed_damaged({begin, begin + text.size()}, 3000, [](const auto& input) {
        parse_hf_config({reinterpret_cast<const char*>(input.data()), input.size()}, "", "damaged");
      });
  EXPECT_GT(refused, static_cast<int>(text.size()) / 2);
}

TEST(HfConfig, QuantisationMethods) {
  auto quant = [&](const std::string& body) {
    return parse_hf_config(
               R"({"model_type":"llama",)" + kSmall + R"(,"quantization_config":{)" + body + "}}",
               "", "config.json")
        .quant;
  };
  const QuantConfig gptq =
      quant(R"("quant_method":"gptq","bits":4,"group_size":64,"desc_act":true)");
  EXPECT_EQ(gptq.method, QuantMethod::kGptq);
  EXPECT_EQ(gptq.group_size, 64);
  EXPECT_TRUE(gptq.act_order);
  EXPECT_TRUE(gptq.plus_one_zeros);
  EXPECT_FALSE(quant(R"("quant_method":"gptq","checkpoint_format":"gptq_v2")").plus_one_zeros);
  const QuantConfig packed = quant(R"("quant_method":"compressed-tensors","format":"pack-quantized",
    "config_groups":{"group_0":{"weights":{"num_bits":4,"type":"int","symmetric":true,"strategy":"group",
    "group_size":32}}})");
  EXPECT_EQ(packed.method, QuantMethod::kCompressedTensors);
  EXPECT_EQ(packed.group_size, 32);
  EXPECT_EQ(quant(R"("quant_method":"mxfp4")").method, QuantMethod::kMxfp4);
}

// Writes a header with the exported metadata and the listed tensors as holes, and reads the
// configuration back.
ModelConfig through_gguf(const ModelConfig& config, const std::vector<TensorInfo>& stored) {
  const TemporaryFolder folder;
  GgufWriter out(folder / "m.gguf");
  export_config(config, 0, out);
  // One value stands for tensors whose shape does not matter to the reader.
  for (const TensorInfo& info : stored) {
    const bool embedding = info.stored_name == "token_embd.weight";
    out.add_tensor(info.stored_name, tensor::Format::kF32,
                   embedding ? tensor::Shape{config.vocab_size, 1} : tensor::Shape{1});
  }
  const auto factors = export_rope_factors(config);
  if (!factors.empty()) {
    out.add_tensor("rope_freqs.weight", tensor::Format::kF32,
                   {static_cast<std::int64_t>(factors.size())});
  }
  out.begin_data();
  const std::vector<std::byte> zeros(static_cast<std::size_t>(config.vocab_size) * sizeof(float));
  for (const TensorInfo& info : stored) {
    const bool embedding = info.stored_name == "token_embd.weight";
    out.append(std::span(zeros).first(embedding ? zeros.size() : sizeof(float)));
  }
  if (!factors.empty()) out.append(std::as_bytes(std::span(factors)));
  out.finish();
  return config_from_gguf(GgufModel::open(folder / "m.gguf"));
}

TEST(GgufConfig, SamplingAdviceSurvives) {
  ModelConfig config = load("Qwen3-235B-A22B").model;
  config.vocab_size = 8;
  config.sampling = {
      .temperature = 0.5, .top_k = 20, .top_p = 0.75, .min_p = 0.0, .repetition_penalty = 1.5};
  TensorInfo embedding;
  embedding.stored_name = "token_embd.weight";
  const SamplingAdvice read = through_gguf(config, {embedding}).sampling;
  EXPECT_EQ(read.temperature, 0.5);
  EXPECT_EQ(read.top_k, 20);
  EXPECT_EQ(read.top_p, 0.75);
  EXPECT_EQ(read.min_p, 0.0);
  EXPECT_FALSE(read.typical_p.has_value());
  EXPECT_EQ(read.repetition_penalty, 1.5);
  config.sampling.top_p = 2.0;
  message_of([&] { through_gguf(config, {embedding}); }, ErrorCode::kBadFile);
}

class PublishedModel : public ::testing::TestWithParam<const char*> {
 protected:
  std::vector<TensorInfo> list(const std::string& suffix) const {
    const std::string path = data_path(std::string("tensor_lists/") + GetParam() + suffix);
    return parse_tensor_list(read_text_file(path, 1 << 20), path);
  }
};

TEST_P(PublishedModel, GgufNamesMeanTheCheckpointsTensors) {
  const ModelConfig config = load(GetParam()).model;
  std::map<std::string, tensor::Shape> wanted;
  for (const TensorInfo& info : without_ignored(config, list(".txt")))
    wanted[info.name] = info.shape;
  std::size_t n_split = 0;
  for (const TensorInfo& info : canonical_list(config, list(".gguf.txt"), "list")) {
    if (info.name.ends_with(".k_b_proj.weight") || info.name.ends_with(".v_b_proj.weight")) {
      ++n_split;
      continue;
    }
    const auto found = wanted.find(info.name);
    ASSERT_NE(found, wanted.end()) << info.stored_name << " is left over as " << info.name;
    EXPECT_EQ(found->second, info.shape) << info.name;
    wanted.erase(found);
  }
  std::erase_if(wanted,
                [&](const auto& item) { return item.first.ends_with(".kv_b_proj.weight"); });
  EXPECT_TRUE(wanted.empty()) << wanted.size() << " missing, e.g. " << wanted.begin()->first;
  EXPECT_EQ(n_split,
            config.mla.kv_lora_rank > 0 ? 2 * static_cast<std::size_t>(config.n_layers) : 0u);
}

TEST_P(PublishedModel, NamesGoBothWays) {
  const ModelConfig config = load(GetParam()).model;
  std::map<std::string, tensor::Shape> stored;
  for (const TensorInfo& info : list(".gguf.txt")) stored[info.name] = info.shape;
  for (const TensorInfo& info : list(".txt")) {
    const auto name = gguf_name(config, info.name);
    ASSERT_TRUE(name.has_value()) << info.name;
    const auto back = canonical_name(config, name->name);
    ASSERT_TRUE(back.has_value()) << name->name;
    EXPECT_EQ(name->expert >= 0 ? back->of_expert(name->expert) : back->before, info.name);
    EXPECT_TRUE(info.name.ends_with("kv_b_proj.weight") || stored.contains(name->name))
        << name->name;
  }
  EXPECT_FALSE(canonical_name(config, "blk.0.something.weight").has_value());
  EXPECT_FALSE(canonical_name(config, "blk.x.attn_norm.weight").has_value());
}

TEST_P(PublishedModel, ConfigurationSurvivesGguf) {
  const ModelConfig config = load(GetParam()).model;
  const ModelConfig back = through_gguf(config, list(".gguf.txt"));
  EXPECT_EQ(back.architecture, config.architecture);
  EXPECT_EQ(back.n_layers, config.n_layers);
  EXPECT_EQ(back.d_model, config.d_model);
  EXPECT_EQ(back.d_ff, config.d_ff);
  EXPECT_EQ(back.n_heads, config.n_heads);
  EXPECT_EQ(back.n_kv_heads, config.n_kv_heads);
  EXPECT_EQ(back.head_dim, config.head_dim);
  EXPECT_EQ(back.vocab_size, config.vocab_size);
  EXPECT_EQ(back.max_context, config.max_context);
  EXPECT_FLOAT_EQ(static_cast<float>(back.norm_eps), static_cast<float>(config.norm_eps));
  EXPECT_EQ(back.tied_embeddings, config.tied_embeddings);
  EXPECT_EQ(back.attention_bias, config.attention_bias);
  EXPECT_EQ(back.rope.theta, config.rope.theta);
  EXPECT_EQ(back.rope.kind,
            config.rope.kind == RopeKind::kLlama3 ? RopeKind::kDefault : config.rope.kind);
  if (config.rope.kind == RopeKind::kYarn) {
    EXPECT_EQ(back.rope.factor, config.rope.factor);
    EXPECT_EQ(back.rope.original_context, config.rope.original_context);
    EXPECT_EQ(back.rope.mscale_all_dim, config.rope.mscale_all_dim);
    EXPECT_EQ(back.rope.mscale, config.rope.mscale);
    EXPECT_EQ(back.rope.beta_fast, config.rope.beta_fast);
  }
  EXPECT_EQ(back.mla.q_lora_rank, config.mla.q_lora_rank);
  EXPECT_EQ(back.mla.kv_lora_rank, config.mla.kv_lora_rank);
  EXPECT_EQ(back.mla.qk_nope_dim, config.mla.qk_nope_dim);
  EXPECT_EQ(back.mla.qk_rope_dim, config.mla.qk_rope_dim);
  EXPECT_EQ(back.mla.v_head_dim, config.mla.v_head_dim);
  EXPECT_EQ(back.moe.n_experts, config.moe.n_experts);
  EXPECT_EQ(back.moe.n_active, config.moe.n_active);
  EXPECT_EQ(back.moe.d_ff, config.moe.d_ff);
  EXPECT_EQ(back.moe.n_shared, config.moe.n_shared);
  EXPECT_EQ(back.moe.d_ff_shared, config.moe.d_ff_shared);
  EXPECT_EQ(back.moe.n_dense_layers, config.moe.n_dense_layers);
  EXPECT_EQ(back.moe.score, config.moe.score);
  EXPECT_EQ(back.moe.normalize_weights, config.moe.normalize_weights);
  EXPECT_FLOAT_EQ(static_cast<float>(back.moe.weight_scale),
                  static_cast<float>(config.moe.weight_scale));
  EXPECT_EQ(back.moe.n_groups, config.moe.n_groups);
  EXPECT_EQ(back.moe.n_groups_used, config.moe.n_groups_used);
  EXPECT_EQ(back.moe.group_top2, config.moe.group_top2);
  EXPECT_EQ(back.moe.correction_bias, config.moe.correction_bias);
  EXPECT_EQ(back.moe.shared_gate, config.moe.shared_gate);
}

INSTANTIATE_TEST_SUITE_P(All, PublishedModel, ::testing::ValuesIn(kModels), [](const auto& model) {
  std::string name = model.param;
  std::replace_if(name.begin(), name.end(), [](char c) { return c == '-' || c == '.'; }, '_');
  return name;
});

TEST(Names, RowPermutationsAreInverse) {
  for (std::int64_t row = 0; row < 24; ++row) {
    EXPECT_EQ(paired_row(unpaired_row(row, 8), 8), row);
    EXPECT_EQ(unpaired_row(paired_row(row, 8), 8), row);
  }
  EXPECT_EQ(unpaired_row(9, 8), 8 + 4);
}

TEST(Names, OldAndFusedExpertNames) {
  ModelConfig mixtral;
  mixtral.architecture = "mixtral";
  EXPECT_EQ(canonical_name(mixtral, "blk.2.ffn_gate.5.weight")->before,
            "model.layers.2.block_sparse_moe.experts.5.w1.weight");
  ModelConfig qwen;
  qwen.architecture = "qwen3_moe";
  qwen.n_layers = 1;
  qwen.moe.n_experts = 2;
  const auto pair = canonical_tensors(qwen, "blk.0.ffn_gate_up_exps.weight", tensor::Format::kF32,
                                      {2, 6, 4}, "m");
  ASSERT_EQ(pair.size(), 4u);
  EXPECT_EQ(pair[3].name, "model.layers.0.mlp.experts.1.up_proj.weight");
  EXPECT_EQ(pair[3].shape, (tensor::Shape{3, 4}));
  message_of(
      [&] {
        canonical_tensors(qwen, "blk.0.ffn_up_exps.weight", tensor::Format::kF32, {3, 6, 4}, "m");
      },
      ErrorCode::kBadFile);
}

TEST(ListingSource, ParsesPatternsAndHasNoData) {
  const auto list = parse_tensor_list("# comment\na.{1..2}.b.{0..1}.c 3 4\nd 5\n", "list");
  ASSERT_EQ(list.size(), 5u);
  EXPECT_EQ(list[2].name, "a.2.b.0.c");
  EXPECT_EQ(list[4].shape, (tensor::Shape{5}));
  const auto source = make_listing_source({}, list);
  EXPECT_NE(source->find("d"), nullptr);
  message_of([&] { source->read_rows(list[0], 0, 1, nullptr); }, ErrorCode::kUnsupported);
  message_of([&] { make_listing_source({}, {list[0], list[0]}); }, ErrorCode::kBadFile);
  message_of([&] { parse_tensor_list("a.{1} 3", "list"); }, ErrorCode::kBadFile);
  message_of([&] { parse_tensor_list("a.{0..99999999} 3", "list"); }, ErrorCode::kBadFile);
}

}  // namespace
}  // namespace kt::io
