#include "io/names.h"

#include <charconv>

namespace kt::io {
namespace {

enum Family : std::uint32_t {
  kLlama = 1,
  kMixtral = 2,
  kQwen2 = 4,
  kQwen3 = 8,
  kQwen2Moe = 16,
  kQwen3Moe = 32,
  kDeepseek = 64,
};
constexpr std::uint32_t kPairs = kLlama | kMixtral;
constexpr std::uint32_t kGqa = kPairs | kQwen2 | kQwen3 | kQwen2Moe | kQwen3Moe;
constexpr std::uint32_t kMlpMoe = kQwen2Moe | kQwen3Moe | kDeepseek;
constexpr std::uint32_t kMoe = kMlpMoe | kMixtral;
constexpr std::uint32_t kAll = kGqa | kDeepseek;

struct Row {
  std::string_view gguf;  // after "blk.N.", or a whole name
  std::string_view
      canonical;  // after "model.layers.N.", or a whole name; {} is the expert, | a pair
  std::uint32_t families;
  NameLayout layout = NameLayout::kSame;
  bool per_layer = true;
};

// The first row that matches wins, so the layout that is written today stands before older ones.
constexpr Row kRows[] = {
    {"token_embd.weight", "model.embed_tokens.weight", kAll, NameLayout::kSame, false},
    {"output_norm.weight", "model.norm.weight", kAll, NameLayout::kSame, false},
    {"output.weight", "lm_head.weight", kAll, NameLayout::kSame, false},
    {"attn_norm.weight", "input_layernorm.weight", kAll},
    {"ffn_norm.weight", "post_attention_layernorm.weight", kAll},
    {"attn_q.weight", "self_attn.q_proj.weight", kPairs, NameLayout::kRopePairs},
    {"attn_k.weight", "self_attn.k_proj.weight", kPairs, NameLayout::kRopePairs},
    {"attn_q.bias", "self_attn.q_proj.bias", kPairs, NameLayout::kRopePairs},
    {"attn_k.bias", "self_attn.k_proj.bias", kPairs, NameLayout::kRopePairs},
    {"attn_q.weight", "self_attn.q_proj.weight", kAll},
    {"attn_k.weight", "self_attn.k_proj.weight", kGqa},
    {"attn_v.weight", "self_attn.v_proj.weight", kGqa},
    {"attn_output.weight", "self_attn.o_proj.weight", kAll},
    {"attn_q.bias", "self_attn.q_proj.bias", kAll},
    {"attn_k.bias", "self_attn.k_proj.bias", kGqa},
    {"attn_v.bias", "self_attn.v_proj.bias", kGqa},
    {"attn_output.bias", "self_attn.o_proj.bias", kAll},
    {"attn_q_norm.weight", "self_attn.q_norm.weight", kQwen3 | kQwen3Moe},
    {"attn_k_norm.weight", "self_attn.k_norm.weight", kQwen3 | kQwen3Moe},
    {"attn_q_a.weight", "self_attn.q_a_proj.weight", kDeepseek},
    {"attn_q_a.bias", "self_attn.q_a_proj.bias", kDeepseek},
    {"attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight", kDeepseek},
    {"attn_q_b.weight", "self_attn.q_b_proj.weight", kDeepseek},
    {"attn_kv_a_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight", kDeepseek},
    {"attn_kv_a_mqa.bias", "self_attn.kv_a_proj_with_mqa.bias", kDeepseek},
    {"attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight", kDeepseek},
    {"attn_kv_b.weight", "self_attn.kv_b_proj.weight", kDeepseek},
    {"attn_k_b.weight", "self_attn.k_b_proj.weight", kDeepseek},
    {"attn_v_b.weight", "self_attn.v_b_proj.weight", kDeepseek},
    {"ffn_gate.weight", "mlp.gate_proj.weight", kAll & ~kMixtral},
    {"ffn_up.weight", "mlp.up_proj.weight", kAll & ~kMixtral},
    {"ffn_down.weight", "mlp.down_proj.weight", kAll & ~kMixtral},
    {"ffn_gate.bias", "mlp.gate_proj.bias", kAll & ~kMixtral},
    {"ffn_up.bias", "mlp.up_proj.bias", kAll & ~kMixtral},
    {"ffn_down.bias", "mlp.down_proj.bias", kAll & ~kMixtral},
    {"ffn_gate_inp.weight", "block_sparse_moe.gate.weight", kMixtral},
    {"ffn_gate_inp.weight", "mlp.gate.weight", kMlpMoe},
    {"exp_probs_b.bias", "mlp.gate.e_score_correction_bias", kDeepseek},
    {"ffn_gate_exps.weight", "block_sparse_moe.experts.{}.w1.weight", kMixtral,
     NameLayout::kStacked},
    {"ffn_up_exps.weight", "block_sparse_moe.experts.{}.w3.weight", kMixtral, NameLayout::kStacked},
    {"ffn_down_exps.weight", "block_sparse_moe.experts.{}.w2.weight", kMixtral,
     NameLayout::kStacked},
    {"ffn_gate_exps.weight", "mlp.experts.{}.gate_proj.weight", kMlpMoe, NameLayout::kStacked},
    {"ffn_up_exps.weight", "mlp.experts.{}.up_proj.weight", kMlpMoe, NameLayout::kStacked},
    {"ffn_down_exps.weight", "mlp.experts.{}.down_proj.weight", kMlpMoe, NameLayout::kStacked},
    {"ffn_gate_up_exps.weight", "mlp.experts.{}.gate_proj.weight|.up_proj.weight", kMlpMoe,
     NameLayout::kStackedPair},
    {"ffn_gate_up_exps.weight", "block_sparse_moe.experts.{}.w1.weight|.w3.weight", kMixtral,
     NameLayout::kStackedPair},
    {"ffn_gate.{}.weight", "block_sparse_moe.experts.{}.w1.weight", kMixtral},
    {"ffn_up.{}.weight", "block_sparse_moe.experts.{}.w3.weight", kMixtral},
    {"ffn_down.{}.weight", "block_sparse_moe.experts.{}.w2.weight", kMixtral},
    {"ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight", kDeepseek},
    {"ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight", kDeepseek},
    {"ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight", kDeepseek},
    {"ffn_gate_shexp.weight", "mlp.shared_expert.gate_proj.weight", kQwen2Moe},
    {"ffn_up_shexp.weight", "mlp.shared_expert.up_proj.weight", kQwen2Moe},
    {"ffn_down_shexp.weight", "mlp.shared_expert.down_proj.weight", kQwen2Moe},
    {"ffn_gate_inp_shexp.weight", "mlp.shared_expert_gate.weight", kQwen2Moe,
     NameLayout::kRowVector},
};

std::uint32_t family_of(const ModelConfig& config) {
  const std::string& a = config.architecture;
  if (a == "llama" || a == "mistral") return kLlama;
  if (a == "mixtral") return kMixtral;
  if (a == "qwen2") return kQwen2;
  if (a == "qwen3") return kQwen3;
  if (a == "qwen2_moe") return kQwen2Moe;
  if (a == "qwen3_moe") return kQwen3Moe;
  if (a == "deepseek_v2" || a == "deepseek_v3" || a == "kimi_k2") return kDeepseek;
  return 0;
}

std::optional<std::int64_t> parse_number(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  if (text.size() > 1 && text[0] == '0') return std::nullopt;
  return value;
}

/// "<prefix>N.<rest>" → N and rest.
bool split_layer(std::string_view name, std::string_view prefix, std::int64_t* layer,
                 std::string_view* rest) {
  if (!name.starts_with(prefix)) return false;
  name.remove_prefix(prefix.size());
  const std::size_t dot = name.find('.');
  if (dot == std::string_view::npos) return false;
  const auto number = parse_number(name.substr(0, dot));
  if (!number) return false;
  *layer = *number;
  *rest = name.substr(dot + 1);
  return true;
}

/// Whether `text` is `pattern`, where {} stands for a number, stored in *expert.
bool matches(std::string_view text, std::string_view pattern, std::int64_t* expert) {
  const std::size_t hole = pattern.find("{}");
  if (hole == std::string_view::npos) return text == pattern;
  const std::string_view after = pattern.substr(hole + 2);
  if (text.size() <= hole + after.size() || !text.starts_with(pattern.substr(0, hole)) ||
      !text.ends_with(after)) {
    return false;
  }
  const auto number = parse_number(text.substr(hole, text.size() - hole - after.size()));
  if (!number) return false;
  *expert = *number;
  return true;
}

std::string fill(std::string_view pattern, std::int64_t expert) {
  std::string out(pattern);
  const std::size_t hole = out.find("{}");
  if (hole != std::string::npos) out.replace(hole, 2, std::to_string(expert));
  return out;
}

}  // namespace

std::optional<CanonicalName> canonical_name(const ModelConfig& config, std::string_view gguf_name) {
  const std::uint32_t family = family_of(config);
  std::int64_t layer = -1;
  std::string_view rest = gguf_name;
  const bool in_layer = split_layer(gguf_name, "blk.", &layer, &rest);
  for (const Row& row : kRows) {
    std::int64_t expert = -1;
    if ((row.families & family) == 0 || row.per_layer != in_layer ||
        !matches(rest, row.gguf, &expert)) {
      continue;
    }
    const std::string prefix = in_layer ? "model.layers." + std::to_string(layer) + "." : "";
    CanonicalName out;
    out.layout = row.layout;
    if (row.layout == NameLayout::kStacked || row.layout == NameLayout::kStackedPair) {
      const std::size_t hole = row.canonical.find("{}");
      const std::size_t bar = row.canonical.find('|');
      out.before = prefix + std::string(row.canonical.substr(0, hole));
      out.after = std::string(row.canonical.substr(hole + 2, bar - hole - 2));
      if (bar != std::string_view::npos) out.second = std::string(row.canonical.substr(bar + 1));
    } else {
      out.before = prefix + fill(row.canonical, expert);
    }
    return out;
  }
  return std::nullopt;
}

std::optional<GgufName> gguf_name(const ModelConfig& config, std::string_view canonical) {
  const std::uint32_t family = family_of(config);
  std::int64_t layer = -1;
  std::string_view rest = canonical;
  const bool in_layer = split_layer(canonical, "model.layers.", &layer, &rest);
  for (const Row& row : kRows) {
    GgufName out;
    if ((row.families & family) == 0 || row.per_layer != in_layer ||
        row.layout == NameLayout::kStackedPair || !matches(rest, row.canonical, &out.expert)) {
      continue;
    }
    out.name = (in_layer ? "blk." + std::to_string(layer) + "." : "") + fill(row.gguf, out.expert);
    out.layout = row.layout;
    return out;
  }
  return std::nullopt;
}

std::optional<std::int64_t> layer_of(std::string_view canonical) {
  std::int64_t layer = 0;
  std::string_view rest;
  if (!split_layer(canonical, "model.layers.", &layer, &rest)) return std::nullopt;
  return layer;
}

bool is_ignored_name(const ModelConfig& config, std::string_view canonical) {
  if (canonical.ends_with("rotary_emb.inv_freq")) return true;
  // Checkpoints of tied models may store the shared matrix twice.
  if (config.tied_embeddings && canonical == "lm_head.weight") return true;
  const auto layer = layer_of(canonical);
  return layer && *layer >= config.n_layers && *layer < config.n_layers + config.n_mtp_layers;
}

std::int64_t unpaired_row(std::int64_t stored_row, std::int64_t head_dim) {
  const std::int64_t head = stored_row / head_dim;
  const std::int64_t in_head = stored_row % head_dim;
  return head * head_dim + (in_head % 2) * (head_dim / 2) + in_head / 2;
}

std::int64_t paired_row(std::int64_t canonical_row, std::int64_t head_dim) {
  const std::int64_t head = canonical_row / head_dim;
  const std::int64_t in_head = canonical_row % head_dim;
  const std::int64_t half = head_dim / 2;
  return head * head_dim + 2 * (in_head % half) + in_head / half;
}

}  // namespace kt::io
