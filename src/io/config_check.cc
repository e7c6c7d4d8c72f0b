#include "io/config_check.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace kt::io {
namespace {

struct Range {
  const char* name;
  std::int64_t value;
  std::int64_t low;
  std::int64_t high;
};

void check_range(const Range& range, const std::string& path) {
  if (range.value < range.low || range.value > range.high) {
    fail(ErrorCode::kBadFile, path,
         "{} is {}, {} to {} is wanted; the configuration is damaged or of another "
         "model",
         range.name, range.value, range.low, range.high);
  }
}

void check_divides(const char* whole_name, std::int64_t whole, const char* part_name,
                   std::int64_t part, const std::string& path) {
  if (part <= 0 || whole % part != 0) {
    fail(ErrorCode::kBadFile, path, "{} is {}, a multiple of {} ({}) is wanted", whole_name, whole,
         part_name, part);
  }
}

constexpr std::int64_t kMaxWidth = std::int64_t{1} << 22;
constexpr std::int64_t kMaxLayers = 4096;
constexpr std::int64_t kMaxExperts = 65536;

void check_moe(const ModelConfig& config, const std::string& path) {
  const MoeConfig& moe = config.moe;
  for (const Range& range : {
           Range{"number of experts", moe.n_experts, 0, kMaxExperts},
           Range{"experts per token", moe.n_active, 1, moe.n_experts},
           Range{"expert width", moe.d_ff, 1, kMaxWidth},
           Range{"number of shared experts", moe.n_shared, 0, 1024},
           Range{"shared expert width", moe.d_ff_shared, moe.n_shared > 0 ? 1 : 0, kMaxWidth},
           Range{"number of leading dense layers", moe.n_dense_layers, 0, config.n_layers},
           Range{"expert layer step", moe.layer_step, 1, kMaxLayers},
           Range{"number of expert groups", moe.n_groups, 1, moe.n_experts},
           Range{"expert groups per token", moe.n_groups_used, 1, moe.n_groups},
       }) {
    check_range(range, path);
  }
  check_divides("number of experts", moe.n_experts, "number of expert groups", moe.n_groups, path);
  // Fewer selectable experts than wanted would leave the selection undefined.
  check_range(
      {"experts per token", moe.n_active, 1, moe.n_experts / moe.n_groups * moe.n_groups_used},
      path);
  if (!std::isfinite(moe.weight_scale)) {
    fail(ErrorCode::kBadFile, path, "expert weight scale is {}, a finite number is wanted",
         moe.weight_scale);
  }
  for (const std::int64_t layer : moe.dense_layers) {
    check_range({"number of a dense layer", layer, 0, config.n_layers - 1}, path);
  }
}

void check_attention(const ModelConfig& config, const std::string& path) {
  if (config.mla.kv_lora_rank > 0) {
    for (const Range& range : {
             Range{"q_lora_rank", config.mla.q_lora_rank, 0, kMaxWidth},
             Range{"kv_lora_rank", config.mla.kv_lora_rank, 1, kMaxWidth},
             Range{"qk_nope_head_dim", config.mla.qk_nope_dim, 1, 65536},
             Range{"qk_rope_head_dim", config.mla.qk_rope_dim, 2, 65536},
             Range{"v_head_dim", config.mla.v_head_dim, 1, 65536},
         }) {
      check_range(range, path);
    }
    check_divides("qk_rope_head_dim", config.mla.qk_rope_dim, "2", 2, path);
    return;
  }
  check_range({"number of key/value heads", config.n_kv_heads, 1, config.n_heads}, path);
  check_range({"head_dim", config.head_dim, 2, 65536}, path);
  check_divides("number of heads", config.n_heads, "number of key/value heads", config.n_kv_heads,
                path);
  check_divides("head_dim", config.head_dim, "2", 2, path);
}

void check_rope(const RopeConfig& rope, const std::string& path) {
  auto positive = [&](const char* name, double value) {
    if (!(value > 0.0) || !std::isfinite(value)) {
      fail(ErrorCode::kBadFile, path, "{} is {}, a positive number is wanted", name, value);
    }
  };
  positive("rope theta", rope.theta);
  positive("rope scaling factor", rope.factor);
  check_range({"original context of rope scaling", rope.original_context, 0, std::int64_t{1} << 40},
              path);
  if (rope.kind == RopeKind::kLlama3) {
    positive("rope low_freq_factor", rope.low_freq_factor);
    positive("rope high_freq_factor", rope.high_freq_factor);
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      fail(ErrorCode::kBadFile, path,
           "rope high_freq_factor is {}, more than low_freq_factor {} is wanted",
           rope.high_freq_factor, rope.low_freq_factor);
    }
  }
  if (rope.kind == RopeKind::kYarn) {
    positive("rope beta_fast", rope.beta_fast);
    positive("rope beta_slow", rope.beta_slow);
  }
  for (const float factor : rope.freq_factors) positive("a rope frequency factor", factor);
}

}  // namespace

void check_config(const ModelConfig& config, const std::string& path) {
  for (const Range& range : {
           Range{"number of layers", config.n_layers, 1, kMaxLayers},
           Range{"number of prediction layers", config.n_mtp_layers, 0, kMaxLayers},
           Range{"hidden size", config.d_model, 1, kMaxWidth},
           Range{"intermediate size", config.d_ff, config.moe.n_experts > 0 ? 0 : 1, kMaxWidth},
           Range{"number of heads", config.n_heads, 1, 65536},
           Range{"vocabulary size", config.vocab_size, 1, std::int64_t{1} << 26},
           Range{"context length", config.max_context, 1, std::int64_t{1} << 40},
           Range{"sliding window", config.sliding_window, 0, std::int64_t{1} << 40},
           Range{"first layer with a sliding window", config.full_attention_layers, 0, kMaxLayers},
       }) {
    check_range(range, path);
  }
  if (!(config.norm_eps > 0.0) || config.norm_eps > 1.0) {
    fail(ErrorCode::kBadFile, path, "norm epsilon is {}, more than 0 and at most 1 is wanted",
         config.norm_eps);
  }
  check_attention(config, path);
  check_rope(config.rope, path);
  if (config.moe.n_experts != 0) check_moe(config, path);
}

void check_sampling(SamplingAdvice* advice, const std::string& path) {
  const auto check = [&](const char* name, const std::optional<double>& value, double low,
                         double high) {
    if (value && !(*value >= low && *value <= high)) {
      fail(ErrorCode::kBadFile, path, "the sampling value {} is {}; wanted {} to {}", name, *value,
           low, high);
    }
  };
  check("temperature", advice->temperature, 0, 100);
  check("top_p", advice->top_p, 0, 1);
  check("min_p", advice->min_p, 0, 1);
  check("typical_p", advice->typical_p, 0, 1);
  check("repetition_penalty", advice->repetition_penalty, 1e-6, 100);
  if (advice->top_k) {
    advice->top_k = std::clamp<std::int64_t>(*advice->top_k, 0, std::int64_t{1} << 30);
  }
}

void infer_deepseek_groups(ModelConfig* config) {
  if (config->n_layers == 61 && config->d_model == 7168 && config->moe.n_experts == 256) {
    config->moe.n_groups = 8;
    config->moe.n_groups_used = 4;
  } else if (config->n_layers == 60 && config->d_model == 5120 && config->moe.n_experts == 160) {
    config->moe.n_groups = 8;
    config->moe.n_groups_used = 3;
  }
}

}  // namespace kt::io
