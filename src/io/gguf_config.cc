#include "io/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "io/config_check.h"
#include "io/quote.h"

namespace kt::io {
namespace {

struct Known {
  std::string_view gguf;
  std::string_view hf;
};
constexpr Known kKnown[] = {{"llama", "llama"},        {"qwen2", "qwen2"},
                            {"qwen3", "qwen3"},        {"qwen2moe", "qwen2_moe"},
                            {"qwen3moe", "qwen3_moe"}, {"deepseek2", "deepseek_v2"}};

class Reader {
 public:
  explicit Reader(const GgufModel& model)
      : model_(model), meta_(model.metadata()), arch_(meta_.get_string("general.architecture")) {}

  const GgufModel& model() const { return model_; }
  const GgufMetadata& meta() const { return meta_; }
  const std::string& arch() const { return arch_; }
  const std::string& path() const { return model_.path(); }
  std::string key(std::string_view suffix) const { return fmt::format("{}.{}", arch_, suffix); }
  bool has(std::string_view suffix) const { return meta_.has(key(suffix)); }
  bool has_tensor(std::string_view name) const { return model_.find(name) != nullptr; }

  /// An integer, or an array with one value per layer, all the same (unlike layers: kUnsupported).
  std::int64_t integer(std::string_view suffix) const {
    const std::string name = key(suffix);
    const GgufValue* value = meta_.find(name);
    if (value == nullptr || value->type != GgufType::kArray) return meta_.get_i64(name);
    const auto values = meta_.get_integers(name);
    if (values.empty() ||
        std::any_of(values.begin(), values.end(), [&](auto v) { return v != values[0]; })) {
      fail(ErrorCode::kUnsupported, path(),
           "metadata key \"{}\" differs between layers, which the {} "
           "architecture of this build does not have",
           name, arch_);
    }
    return values[0];
  }
  std::int64_t integer(std::string_view suffix, std::int64_t otherwise) const {
    return has(suffix) ? integer(suffix) : otherwise;
  }
  double number(std::string_view suffix, double otherwise) const {
    return meta_.get_f64(key(suffix), otherwise);
  }

 private:
  const GgufModel& model_;
  const GgufMetadata& meta_;
  std::string arch_;
};

void read_rope_scaling(const Reader& in, ModelConfig* config) {
  RopeConfig& rope = config->rope;
  const std::string_view type = in.meta().get_string(in.key("rope.scaling.type"), "none");
  rope.factor = in.number("rope.scaling.factor", in.number("rope.scale_linear", 1.0));
  // Converters write a factor of 0 for "no scaling".
  if (rope.factor == 0.0) rope.factor = 1.0;
  rope.original_context = in.integer("rope.scaling.original_context_length", 0);
  if (type == "none" || type.empty()) {
    rope.kind = rope.factor == 1.0 ? RopeKind::kDefault : RopeKind::kLinear;
  } else if (type == "linear") {
    rope.kind = RopeKind::kLinear;
  } else if (type == "yarn") {
    rope.kind = RopeKind::kYarn;
  } else {
    fail(ErrorCode::kUnsupported, in.path(), "{} is {}; none, linear and yarn are supported",
         in.key("rope.scaling.type"), quote(type));
  }
  if (rope.kind != RopeKind::kYarn) return;
  rope.beta_fast = in.number("rope.scaling.yarn_beta_fast", 32.0);
  rope.beta_slow = in.number("rope.scaling.yarn_beta_slow", 1.0);
  const double attn_factor =
      in.number("rope.scaling.yarn_attn_factor", in.number("rope.scaling.attn_factor", 1.0));
  if (config->mla.kv_lora_rank > 0) {
    // The key holds 0.1 * mscale_all_dim in single precision; cos and sin are never scaled then.
    const double multiplier = in.number("rope.scaling.yarn_log_multiplier", 0.0);
    rope.mscale_all_dim = std::round(multiplier * 10.0 * 1e6) / 1e6;
    rope.mscale = rope.mscale_all_dim;
    if (rope.mscale_all_dim == 0.0) rope.attention_factor = 1.0;
  } else if (attn_factor != 1.0) {
    rope.attention_factor = attn_factor * (1.0 + 0.1 * std::log(rope.factor));
  }
}

void read_rope(const Reader& in, ModelConfig* config) {
  RopeConfig& rope = config->rope;
  rope.theta = in.number("rope.freq_base", 10000.0);
  read_rope_scaling(in, config);
  const std::int64_t rotated =
      config->mla.kv_lora_rank > 0 ? config->mla.qk_rope_dim : config->head_dim;
  const std::int64_t n_dims = in.integer("rope.dimension_count", rotated);
  if (n_dims != rotated) {
    fail(ErrorCode::kUnsupported, in.path(), "{} is {}, {} (all of the rotary part) is wanted",
         in.key("rope.dimension_count"), n_dims, rotated);
  }
  for (const char* name : {"rope_factors_long.weight", "rope_factors_short.weight"}) {
    if (in.has_tensor(name)) {
      fail(ErrorCode::kUnsupported, in.path(), "has the tensor {}: LongRoPE is not supported",
           name);
    }
  }
  const GgufTensor* factors = in.model().find("rope_freqs.weight");
  if (factors == nullptr) return;
  if (factors->format != formats::Format::kF32 || factors->shape.count() != rotated / 2) {
    fail(ErrorCode::kBadFile, in.path(), "rope_freqs.weight is {} {}, F32 with {} values is wanted",
         formats::traits(factors->format).name, factors->shape.to_string(), rotated / 2);
  }
  const auto data = *in.model().find_data("rope_freqs.weight");
  rope.freq_factors.resize(data.size() / sizeof(float));
  std::memcpy(rope.freq_factors.data(), data.data(), data.size());
}

void read_attention(const Reader& in, ModelConfig* config) {
  config->n_heads = in.integer("attention.head_count");
  config->n_kv_heads = in.integer("attention.head_count_kv", config->n_heads);
  if (config->n_heads < 1) {
    fail(ErrorCode::kBadFile, in.path(), "{} is {}, a positive number is wanted",
         in.key("attention.head_count"), config->n_heads);
  }
  const std::int64_t key_length =
      in.integer("attention.key_length", config->d_model / config->n_heads);
  const std::int64_t value_length =
      in.integer("attention.value_length", config->d_model / config->n_heads);
  if (in.arch() != "deepseek2") {
    config->head_dim = key_length;
    if (value_length != key_length) {
      fail(ErrorCode::kUnsupported, in.path(),
           "{} is {} and value_length {}; equal lengths are supported",
           in.key("attention.key_length"), key_length, value_length);
    }
    config->sliding_window = in.integer("attention.sliding_window", 0);
    config->full_attention_layers = in.integer("attention.full_attention_layers", 0);
    return;
  }
  MlaConfig& mla = config->mla;
  mla.q_lora_rank =
      in.has_tensor("blk.0.attn_q.weight") ? 0 : in.integer("attention.q_lora_rank", 0);
  mla.kv_lora_rank = in.integer("attention.kv_lora_rank");
  mla.qk_rope_dim = in.integer("rope.dimension_count");
  mla.qk_nope_dim = in.integer("attention.key_length_mla", key_length) - mla.qk_rope_dim;
  mla.v_head_dim = in.integer("attention.value_length_mla", value_length);
  // With *_mla keys, head_count_kv is 1 (the latent cache); the model itself has one k and v per
  // head.
  config->n_kv_heads = config->n_heads;
}

void read_deepseek_moe(const Reader& in, ModelConfig* config) {
  MoeConfig& moe = config->moe;
  moe.n_shared = in.integer("expert_shared_count", 0);
  if (moe.n_shared < 0 || moe.n_shared > 1024) {
    fail(ErrorCode::kBadFile, in.path(), "{} is {}, 0 to 1024 is wanted",
         in.key("expert_shared_count"), moe.n_shared);
  }
  if (moe.d_ff < 0 || moe.d_ff > (std::int64_t{1} << 32)) {
    fail(ErrorCode::kBadFile, in.path(), "{} is {}, which is impossible",
         in.key("expert_feed_forward_length"), moe.d_ff);
  }
  moe.d_ff_shared = moe.n_shared * moe.d_ff;
  moe.n_dense_layers = in.integer("leading_dense_block_count", 0);
  const std::string bias = fmt::format("blk.{}.exp_probs_b.bias", moe.n_dense_layers);
  moe.correction_bias = in.has_tensor(bias);
  const std::int64_t gating = in.integer("expert_gating_func", moe.correction_bias ? 2 : 1);
  if (gating != 0 && gating != 1 && gating != 2) {
    fail(ErrorCode::kUnsupported, in.path(), "{} is {}; 1 (softmax) and 2 (sigmoid) are supported",
         in.key("expert_gating_func"), gating);
  }
  moe.score = gating == 2 ? RouterScore::kSigmoid : RouterScore::kSoftmax;
  moe.normalize_weights = in.meta().get_bool(in.key("expert_weights_norm"), gating == 2);
  moe.weight_scale = in.number("expert_weights_scale", 1.0);
  if (moe.weight_scale == 0.0) moe.weight_scale = 1.0;
  moe.group_top2 = gating == 2;
  infer_deepseek_groups(config);
  moe.n_groups = std::max<std::int64_t>(1, in.integer("expert_group_count", moe.n_groups));
  moe.n_groups_used =
      std::max<std::int64_t>(1, in.integer("expert_group_used_count", moe.n_groups_used));
  if (gating == 2) config->architecture = moe.n_experts == 384 ? "kimi_k2" : "deepseek_v3";
}

void read_moe(const Reader& in, ModelConfig* config) {
  MoeConfig& moe = config->moe;
  moe.n_experts = in.integer("expert_count", 0);
  if (moe.n_experts == 0) return;
  moe.n_active = in.integer("expert_used_count");
  moe.d_ff = in.integer("expert_feed_forward_length", config->d_ff);
  if (in.arch() == "deepseek2") return read_deepseek_moe(in, config);
  if (in.arch() == "llama") {
    config->architecture = "mixtral";
    moe.normalize_weights = true;
    return;
  }
  // Old qwen2moe files leave the widths out; the tensors have them.
  if (!in.has("expert_feed_forward_length")) {
    if (const GgufTensor* up = in.model().find("blk.0.ffn_up_exps.weight"); up != nullptr) {
      moe.d_ff = up->shape.rank() == 3 ? up->shape[1] : 0;
    }
  }
  moe.normalize_weights =
      in.meta().get_bool(in.key("expert_weights_norm"), in.arch() == "qwen3moe");
  if (in.arch() == "qwen2moe") {
    const GgufTensor* up = in.model().find("blk.0.ffn_up_shexp.weight");
    moe.n_shared = 1;
    moe.shared_gate = true;
    moe.d_ff_shared =
        in.integer("expert_shared_feed_forward_length", up != nullptr ? up->shape.n_rows() : 0);
  }
  // Layers with a dense MLP among sparse ones (mlp_only_layers, decoder_sparse_step) show in the
  // tensors.
  for (std::int64_t layer = 0; layer < std::min<std::int64_t>(config->n_layers, 4096); ++layer) {
    if (in.has_tensor(fmt::format("blk.{}.ffn_gate.weight", layer)))
      moe.dense_layers.push_back(layer);
  }
}

std::int64_t token_id(const GgufMetadata& meta, std::string_view key) {
  const std::int64_t id = meta.get_i64(key, -1);
  return id >= 0 && id < INT32_MAX ? id : -1;
}

void read_tokens(const Reader& in, ModelConfig* config) {
  config->bos_token = token_id(in.meta(), "tokenizer.ggml.bos_token_id");
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    const std::int64_t id = token_id(in.meta(), key);
    auto& tokens = config->eos_tokens;
    if (id >= 0 && std::find(tokens.begin(), tokens.end(), id) == tokens.end())
      tokens.push_back(id);
  }
}

SamplingAdvice read_sampling(const Reader& in) {
  const auto number = [&in](const std::string& key) {
    return in.meta().has(key) ? std::optional(in.meta().get_f64(key)) : std::nullopt;
  };
  SamplingAdvice out;
  out.temperature = number("general.sampling.temp");
  if (in.meta().has("general.sampling.top_k")) {
    out.top_k = in.meta().get_i64("general.sampling.top_k");
  }
  out.top_p = number("general.sampling.top_p");
  out.min_p = number("general.sampling.min_p");
  out.repetition_penalty = number("general.sampling.penalty_repeat");
  check_sampling(&out, in.path());
  return out;
}

}  // namespace

ModelConfig config_from_gguf(const GgufModel& model) {
  const Reader in(model);
  ModelConfig config;
  std::string names;
  for (const Known& known : kKnown) {
    if (known.gguf == in.arch()) config.architecture = known.hf;
    names += (names.empty() ? "" : ", ") + std::string(known.gguf);
  }
  if (config.architecture.empty()) {
    fail(ErrorCode::kUnsupported, model.path(), "general.architecture is {}; known are: {}",
         quote(in.arch()), names);
  }
  config.name = in.meta().get_string("general.name", "");
  config.n_mtp_layers = in.integer("nextn_predict_layers", 0);
  config.n_layers = in.integer("block_count");
  if (config.n_mtp_layers < 0 || config.n_mtp_layers >= config.n_layers) {
    fail(ErrorCode::kBadFile, model.path(), "{} is {} and block_count {}, less is wanted",
         in.key("nextn_predict_layers"), config.n_mtp_layers, config.n_layers);
  }
  config.n_layers -= config.n_mtp_layers;
  config.d_model = in.integer("embedding_length");
  config.d_ff = in.integer("feed_forward_length", 0);
  config.max_context = in.integer("context_length");
  config.norm_eps = in.meta().get_f64(in.key("attention.layer_norm_rms_epsilon"));
  const GgufTensor* embedding = model.find("token_embd.weight");
  if (embedding == nullptr) {
    fail(ErrorCode::kBadFile, model.path(),
         "has no tensor token_embd.weight; it is not a language model or "
         "only a part of one");
  }
  config.vocab_size = embedding->shape.n_rows();
  config.tied_embeddings = !in.has_tensor("output.weight");
  config.attention_bias = in.has_tensor("blk.0.attn_q.bias") ||
                          in.has_tensor("blk.0.attn_q_a.bias") ||
                          in.has_tensor("blk.0.attn_kv_a_mqa.bias");
  config.attention_out_bias = in.has_tensor("blk.0.attn_output.bias");
  config.mlp_bias = in.has_tensor("blk.0.ffn_gate.bias");
  read_attention(in, &config);
  read_rope(in, &config);
  read_moe(in, &config);
  read_tokens(in, &config);
  config.sampling = read_sampling(in);
  check_config(config, model.path());
  return config;
}

}  // namespace kt::io
