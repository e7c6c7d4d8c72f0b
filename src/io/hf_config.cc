#include "io/hf_config.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "io/config_check.h"
#include "io/files.h"
#include "io/json_util.h"
#include "io/quote.h"

namespace kt::io {
namespace {

constexpr std::int64_t kMaxSize = std::int64_t{1} << 22;
constexpr std::int64_t kMaxCount = 65536;
constexpr std::int64_t kMaxContext = std::int64_t{1} << 40;
constexpr std::int64_t kMaxToken = INT32_MAX;
constexpr std::size_t kMaxConfigBytes = std::size_t{16} << 20;
constexpr const char* kModelTypes[] = {"llama",       "mistral",   "qwen2",     "qwen3",
                                       "mixtral",     "qwen2_moe", "qwen3_moe", "deepseek_v2",
                                       "deepseek_v3", "kimi_k2"};

bool is_deepseek(const ModelConfig& config) {
  return config.architecture.starts_with("deepseek") || config.architecture == "kimi_k2";
}
bool is_v3(const ModelConfig& config) {
  return is_deepseek(config) && config.architecture != "deepseek_v2";
}

std::string read_model_type(const JsonFields& in) {
  const std::string type = in.string("model_type", "");
  std::string names;
  for (const char* known : kModelTypes) {
    if (type == known) return type;
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  fail(ErrorCode::kUnsupported, in.path(), "\"model_type\" is {}; known are: {}", quote(type),
       names);
}

void read_yarn(const JsonFields& in, RopeConfig* rope) {
  rope->beta_fast = in.number("beta_fast", 32.0);
  rope->beta_slow = in.number("beta_slow", 1.0);
  rope->attention_factor = in.number("attention_factor", 0.0);
  rope->mscale = in.number("mscale", 0.0);
  rope->mscale_all_dim = in.number("mscale_all_dim", 0.0);
  rope->truncate = in.boolean("truncate", true);
}

void read_rope(const JsonFields& in, ModelConfig* config) {
  RopeConfig& rope = config->rope;
  const auto parameters = in.object("rope_parameters");
  const auto scaling = parameters ? parameters : in.object("rope_scaling");
  rope.theta = in.number("rope_theta", 10000.0);
  if (parameters) rope.theta = parameters->number("rope_theta", rope.theta);
  if (in.number("partial_rotary_factor", 1.0) != 1.0 ||
      (scaling && scaling->number("partial_rotary_factor", 1.0) != 1.0)) {
    fail(ErrorCode::kUnsupported, in.path(),
         "\"partial_rotary_factor\" is not 1, which {} models of this build "
         "do not have",
         config->architecture);
  }
  if (is_v3(*config) && !in.boolean("rope_interleave", true)) {
    fail(ErrorCode::kUnsupported, in.path(),
         "\"rope_interleave\" is false, which no published model uses");
  }
  if (!scaling) return;
  const std::string type = scaling->string("rope_type", scaling->string("type", "default"));
  if (type == "default") return;
  if (type == "linear") {
    rope.kind = RopeKind::kLinear;
  } else if (type == "llama3") {
    rope.kind = RopeKind::kLlama3;
    rope.low_freq_factor = scaling->number("low_freq_factor", 1.0);
    rope.high_freq_factor = scaling->number("high_freq_factor", 4.0);
  } else if (type == "yarn") {
    rope.kind = RopeKind::kYarn;
    read_yarn(*scaling, &rope);
  } else {
    fail(ErrorCode::kUnsupported, in.path(),
         "rope type is {}; default, linear, llama3 and yarn are supported", quote(type));
  }
  rope.original_context =
      scaling->integer("original_max_position_embeddings", 1, kMaxContext,
                       in.integer("original_max_position_embeddings", 1, kMaxContext, 0));
  const bool derived = type == "yarn" && rope.original_context > 0;
  rope.factor = scaling->number("factor", derived ? static_cast<double>(config->max_context) /
                                                        static_cast<double>(rope.original_context)
                                                  : 1.0);
}

void read_mla(const JsonFields& in, ModelConfig* config) {
  MlaConfig& mla = config->mla;
  mla.q_lora_rank = in.integer("q_lora_rank", 1, kMaxSize, 0);
  mla.kv_lora_rank = in.integer("kv_lora_rank", 1, kMaxSize);
  mla.qk_nope_dim = in.integer("qk_nope_head_dim", 1, kMaxCount);
  mla.qk_rope_dim = in.integer("qk_rope_head_dim", 2, kMaxCount);
  mla.v_head_dim = in.integer("v_head_dim", 1, kMaxCount);
}

void read_layer_types(const JsonFields& in, ModelConfig* config) {
  const std::vector<std::string> types = in.strings("layer_types");
  std::int64_t n_full = 0;
  bool sliding = false;
  for (const std::string& type : types) {
    if (type == "sliding_attention") {
      sliding = true;
    } else if (type == "full_attention" && !sliding) {
      ++n_full;
    } else {
      fail(ErrorCode::kUnsupported, in.path(),
           "\"layer_types\" has {} where full_attention layers followed by "
           "sliding_attention layers are supported",
           quote(type));
    }
  }
  if (types.empty()) return;
  if (!sliding) config->sliding_window = 0;
  config->full_attention_layers = sliding ? n_full : 0;
}

void read_attention(const JsonFields& in, ModelConfig* config) {
  const std::string& arch = config->architecture;
  config->n_heads = in.integer("num_attention_heads", 1, kMaxCount);
  config->n_kv_heads = in.integer("num_key_value_heads", 1, kMaxCount, config->n_heads);
  if (is_deepseek(*config)) {
    config->n_kv_heads = config->n_heads;
    read_mla(in, config);
  } else {
    if (!in.has("head_dim") && config->d_model % config->n_heads != 0) {
      fail(ErrorCode::kBadFile, in.path(),
           "\"hidden_size\" is {}, a multiple of \"num_attention_heads\" ({}) is "
           "wanted",
           config->d_model, config->n_heads);
    }
    // Qwen3 configurations without the key mean 128, the default of their configuration class.
    const bool qwen3 = arch == "qwen3";
    config->head_dim =
        in.integer("head_dim", 2, kMaxCount, qwen3 ? 128 : config->d_model / config->n_heads);
  }
  if (arch == "qwen2") {
    config->attention_bias = true;
  } else if (arch == "qwen2_moe") {
    config->attention_bias = in.boolean("qkv_bias", true);
  } else if (arch != "mistral" && arch != "mixtral") {
    config->attention_bias = in.boolean("attention_bias", false);
    config->attention_out_bias = config->attention_bias;
  }
  config->mlp_bias = arch == "llama" && in.boolean("mlp_bias", false);
  const bool qwen = arch.starts_with("qwen");
  if (arch == "mistral" || arch == "mixtral" || (qwen && in.boolean("use_sliding_window", false))) {
    // A Mistral configuration that does not mention the window means its class default.
    const bool implied = arch == "mistral" && !in.mentions("sliding_window");
    config->sliding_window = in.integer("sliding_window", 0, kMaxContext, implied ? 4096 : 0);
    if (qwen) config->full_attention_layers = in.integer("max_window_layers", 0, kMaxCount, 28);
    if (config->full_attention_layers >= config->n_layers) {
      config->sliding_window = 0;
      config->full_attention_layers = 0;
    }
    read_layer_types(in, config);
  }
}

void read_deepseek_moe(const JsonFields& in, ModelConfig* config) {
  MoeConfig& moe = config->moe;
  if (!in.has("n_routed_experts")) return;
  moe.n_experts = in.integer("n_routed_experts", 1, kMaxCount);
  moe.n_active = in.integer("num_experts_per_tok", 1, kMaxCount);
  moe.d_ff = in.integer("moe_intermediate_size", 1, kMaxSize);
  moe.n_shared = in.integer("n_shared_experts", 0, 1024, 0);
  moe.d_ff_shared = moe.n_shared * moe.d_ff;
  moe.n_dense_layers = in.integer("first_k_dense_replace", 0, kMaxCount, 0);
  if (in.integer("moe_layer_freq", 1, kMaxCount, 1) != 1) {
    fail(ErrorCode::kUnsupported, in.path(),
         "\"moe_layer_freq\" is not 1, which no published model uses");
  }
  const bool v3 = is_v3(*config);
  const std::string scoring = in.string("scoring_func", v3 ? "sigmoid" : "softmax");
  const std::string method = in.string("topk_method", v3 ? "noaux_tc" : "greedy");
  if (scoring != "sigmoid" && scoring != "softmax") {
    fail(ErrorCode::kUnsupported, in.path(),
         "\"scoring_func\" is {}; sigmoid and softmax are supported", quote(scoring));
  }
  if (method != "noaux_tc" && method != "greedy" && method != "group_limited_greedy") {
    fail(ErrorCode::kUnsupported, in.path(),
         "\"topk_method\" is {}; greedy, group_limited_greedy and noaux_tc "
         "are supported",
         quote(method));
  }
  moe.score = scoring == "sigmoid" ? RouterScore::kSigmoid : RouterScore::kSoftmax;
  moe.correction_bias = method == "noaux_tc";
  moe.group_top2 = method == "noaux_tc";
  moe.normalize_weights = in.boolean("norm_topk_prob", v3);
  moe.weight_scale = in.number("routed_scaling_factor", 1.0);
  if (method != "greedy") {
    moe.n_groups = in.integer("n_group", 1, kMaxCount, 1);
    moe.n_groups_used = in.integer("topk_group", 1, kMaxCount, moe.n_groups);
  }
}

void read_moe(const JsonFields& in, ModelConfig* config) {
  const std::string& arch = config->architecture;
  MoeConfig& moe = config->moe;
  if (is_deepseek(*config)) return read_deepseek_moe(in, config);
  if (arch == "mixtral") {
    moe.n_experts = in.integer("num_local_experts", 1, kMaxCount);
    moe.n_active = in.integer("num_experts_per_tok", 1, kMaxCount, 2);
    moe.d_ff = config->d_ff;
    moe.normalize_weights = true;
  } else if (arch == "qwen2_moe" || arch == "qwen3_moe") {
    const char* count_key = in.has("num_experts") ? "num_experts" : "num_local_experts";
    moe.n_experts = in.integer(count_key, 1, kMaxCount);
    moe.n_active = in.integer("num_experts_per_tok", 1, kMaxCount);
    moe.d_ff = in.integer("moe_intermediate_size", 1, kMaxSize);
    moe.normalize_weights = in.boolean("norm_topk_prob", false);
    moe.layer_step = in.integer("decoder_sparse_step", 1, kMaxCount, 1);
    moe.dense_layers = in.integers("mlp_only_layers", 0, kMaxCount);
    if (arch == "qwen2_moe") {
      moe.n_shared = 1;
      moe.shared_gate = true;
      moe.d_ff_shared = in.integer("shared_expert_intermediate_size", 1, kMaxSize);
    }
  }
}

void check_activation(const JsonFields& in) {
  const std::string activation = in.string("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    fail(ErrorCode::kUnsupported, in.path(), "\"hidden_act\" is {}; silu is supported",
         quote(activation));
  }
}

void read_tokens(const JsonFields& in, ModelConfig* config) {
  const auto bos = in.integers("bos_token_id", 0, kMaxToken);
  if (!bos.empty()) config->bos_token = bos.front();
  for (const std::int64_t id : in.integers("eos_token_id", 0, kMaxToken)) {
    auto& tokens = config->eos_tokens;
    if (std::find(tokens.begin(), tokens.end(), id) == tokens.end()) tokens.push_back(id);
  }
}

SamplingAdvice read_sampling(const JsonFields& in) {
  const auto number = [&in](std::string_view key) {
    return in.has(key) ? std::optional(in.number(key, 0.0)) : std::nullopt;
  };
  SamplingAdvice out;
  out.temperature = number("temperature");
  if (in.has("top_k")) out.top_k = in.integer("top_k", INT64_MIN, INT64_MAX);
  out.top_p = number("top_p");
  out.min_p = number("min_p");
  out.typical_p = number("typical_p");
  out.repetition_penalty = number("repetition_penalty");
  if (!in.boolean("do_sample", true)) out.temperature = 0.0;
  check_sampling(&out, in.path());
  return out;
}

ModelConfig read_model(const JsonFields& in) {
  ModelConfig config;
  config.architecture = read_model_type(in);
  config.name = in.string("_name_or_path", "");
  config.n_layers = in.integer("num_hidden_layers", 1, 4096);
  config.n_mtp_layers = in.integer("num_nextn_predict_layers", 0, 4096, 0);
  config.d_model = in.integer("hidden_size", 1, kMaxSize);
  config.d_ff = in.integer("intermediate_size", 1, kMaxSize);
  config.vocab_size = in.integer("vocab_size", 1, std::int64_t{1} << 26);
  config.max_context = in.integer("max_position_embeddings", 1, kMaxContext, 2048);
  config.norm_eps = in.number("rms_norm_eps", 1e-6);
  config.tied_embeddings = in.boolean("tie_word_embeddings", false);
  check_activation(in);
  read_attention(in, &config);
  read_rope(in, &config);
  read_moe(in, &config);
  read_tokens(in, &config);
  return config;
}

void read_compressed_tensors(const JsonFields& in, QuantConfig* quant) {
  const std::string format = in.string("format", "pack-quantized");
  if (format != "pack-quantized" && format != "float-quantized" && format != "dense") {
    fail(ErrorCode::kUnsupported, in.path(),
         "\"{}\" is {}; pack-quantized and float-quantized are supported", in.name("format"),
         quote(format));
  }
  const auto groups = in.object("config_groups");
  const auto* object = in.find("config_groups");
  if (!groups || object->empty()) {
    fail(ErrorCode::kBadFile, in.path(), "\"{}\" is missing or empty", in.name("config_groups"));
  }
  bool first = true;
  for (const auto& [key, ignored] : object->items()) {
    const auto group = groups->object(key);
    const auto weights = group ? group->object("weights") : std::nullopt;
    if (!weights) continue;
    QuantConfig one = *quant;
    one.bits = weights->integer("num_bits", 1, 16, 4);
    one.symmetric = weights->boolean("symmetric", true);
    const std::string strategy = weights->string("strategy", "group");
    one.group_size = strategy == "group" ? weights->integer("group_size", -1, kMaxSize, -1) : -1;
    const auto block = weights->integers("block_structure", 1, kMaxSize);
    if (block.size() == 2) {
      one.block_n = block[0];
      one.block_k = block[1];
    }
    if (!first && (one.bits != quant->bits || one.group_size != quant->group_size ||
                   one.symmetric != quant->symmetric)) {
      fail(ErrorCode::kUnsupported, in.path(),
           "\"{}\" has groups of different kinds; one kind is supported", in.name("config_groups"));
    }
    *quant = one;
    first = false;
  }
}

QuantConfig read_quant(const JsonFields& top) {
  QuantConfig quant;
  auto in = top.object("quantization_config");
  if (!in) in = top.object("compression_config");
  if (!in) return quant;
  const std::string method = in->string("quant_method", "");
  if (method == "fp8") {
    quant.method = QuantMethod::kFp8;
    quant.bits = 8;
    const auto block = in->integers("weight_block_size", 1, kMaxSize);
    if (block.size() == 2) {
      quant.block_n = block[0];
      quant.block_k = block[1];
    }
  } else if (method == "gptq" || method == "awq") {
    quant.method = method == "gptq" ? QuantMethod::kGptq : QuantMethod::kAwq;
    quant.bits = in->integer(in->has("w_bit") ? "w_bit" : "bits", 1, 16, 4);
    quant.group_size =
        in->integer(in->has("q_group_size") ? "q_group_size" : "group_size", -1, kMaxSize, 128);
    quant.act_order = in->boolean("desc_act", false);
    quant.plus_one_zeros = in->string("checkpoint_format", "gptq") != "gptq_v2";
    const std::string version = in->string("version", "gemm");
    if (method == "awq" && version != "gemm" && version != "GEMM") {
      fail(ErrorCode::kUnsupported, in->path(), "awq \"version\" is {}; gemm is supported",
           quote(version));
    }
  } else if (method == "compressed-tensors" || method == "compressed_tensors") {
    quant.method = QuantMethod::kCompressedTensors;
    read_compressed_tensors(*in, &quant);
  } else if (method == "mxfp4") {
    quant.method = QuantMethod::kMxfp4;
    quant.bits = 4;
    quant.group_size = 32;
  } else {
    fail(ErrorCode::kUnsupported, in->path(),
         "\"quantization_config.quant_method\" is {}; fp8, gptq, awq, "
         "compressed-tensors and mxfp4 are supported",
         quote(method));
  }
  if (quant.group_size == 0 && quant.method != QuantMethod::kFp8) {
    fail(ErrorCode::kBadFile, in->path(), "\"{}\" is 0, a positive number or -1 is wanted",
         in->name("group_size"));
  }
  return quant;
}

}  // namespace

HfConfig parse_hf_config(std::string_view text, std::string_view generation,
                         const std::string& path) {
  const nlohmann::json top = parse_json_object(text, path);
  const JsonFields in(top, path);
  HfConfig out;
  out.model = read_model(in);
  out.quant = read_quant(in);
  if (!generation.empty()) {
    const std::string generation_path =
        std::filesystem::path(path).replace_filename("generation_config.json");
    const nlohmann::json object = parse_json_object(generation, generation_path);
    const JsonFields fields(object, generation_path);
    read_tokens(fields, &out.model);
    out.model.sampling = read_sampling(fields);
  }
  check_config(out.model, path);
  return out;
}

ModelConfig read_hf_config(const std::string& path) {
  return parse_hf_config(read_text_file(path, kMaxConfigBytes), {}, path).model;
}

HfConfig load_hf_config(const std::string& folder) {
  const std::string path = (std::filesystem::path(folder) / "config.json").string();
  const std::string generation =
      (std::filesystem::path(folder) / "generation_config.json").string();
  const std::string text = read_text_file(path, kMaxConfigBytes);
  HfConfig config = parse_hf_config(
      text, std::filesystem::exists(generation) ? read_text_file(generation, kMaxConfigBytes) : "",
      path);
  if (config.model.name.empty()) {
    const auto absolute = std::filesystem::absolute(folder).lexically_normal();
    config.model.name =
        (absolute.has_filename() ? absolute : absolute.parent_path()).filename().string();
  }
  return config;
}

}  // namespace kt::io
