#include "session/file_type.h"

#include <algorithm>
#include <cctype>
#include <numeric>

#include "base/error.h"

namespace kt::session {
namespace {

using formats::Format;

// general.file_type of the types that have rules of their own.
enum Ftype : std::uint32_t {
  kQ4_0 = 2,
  kQ5_0 = 8,
  kQ2_K = 10,
  kQ3_K_S = 11,
  kQ3_K_M = 12,
  kQ3_K_L = 13,
  kQ4_K_S = 14,
  kQ4_K_M = 15,
  kQ5_K_M = 17,
  kIQ2_XXS = 19,
  kIQ2_XS = 20,
  kQ2_K_S = 21,
  kIQ3_XS = 22,
  kIQ3_XXS = 23,
  kIQ1_S = 24,
  kIQ4_NL = 25,
  kIQ3_S = 26,
  kIQ3_M = 27,
  kIQ2_S = 28,
  kIQ2_M = 29,
  kIQ4_XS = 30,
  kIQ1_M = 31,
  kTQ1_0 = 36,
  kTQ2_0 = 37,
  kMXFP4_MOE = 38,
};

enum class Role { kOther, kHead, kEmbedding, kQ, kK, kV, kOut, kGate, kUp, kDown };

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// Layers that deserve more bits: the first and last eighth, and every third between.
bool use_more_bits(std::int64_t layer, std::int64_t n) {
  return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
}

/// N of "blk.N.…", -1 for tensors outside the layers.
std::int64_t layer_of(std::string_view name) {
  if (name.substr(0, 4) != "blk.") return -1;
  std::int64_t layer = 0;
  for (const char c : name.substr(4)) {
    if (c < '0' || c > '9' || layer > 100000) break;
    layer = layer * 10 + (c - '0');
  }
  return layer;
}

bool stays_f32(const StoredTensor& t) {
  const bool vector = t.shape.rank() < 2 || t.shape.n_rows() == 1;
  return vector || !t.name.ends_with("weight") || contains(t.name, "_norm.weight") ||
         contains(t.name, "ffn_gate_inp.weight");
}

Format fallback(Format wanted, std::int64_t n_cols) {
  if (n_cols % formats::traits(wanted).block_len == 0) return wanted;
  Format next = Format::kF16;
  switch (wanted) {
    case Format::kQ2_K:
    case Format::kQ3_K:
    case Format::kTQ1_0:
    case Format::kTQ2_0: next = Format::kQ4_0; break;
    case Format::kQ4_K: next = Format::kQ5_0; break;
    case Format::kQ5_K: next = Format::kQ5_1; break;
    case Format::kQ6_K: next = Format::kQ8_0; break;
    default:
      next = formats::traits(wanted).block_len == 256 ? Format::kIQ4_NL : Format::kF16;
      break;
  }
  return n_cols % formats::traits(next).block_len == 0 ? next : Format::kF16;
}

/// Chooses formats while walking the tensors of a file in layer order.
class Mixer {
 public:
  Mixer(const FileType& type, const io::ModelConfig& config,
        const std::vector<StoredTensor>& tensors, bool has_imatrix)
      : type_(type.llama_ftype), base_(type.base), c_(config), has_imatrix_(has_imatrix) {
    for (const StoredTensor& t : tensors) {
      if (t.name == "output.weight") tied_ = false;
      if (role_of(t.name) == Role::kV) ++n_values_;
    }
  }

  Format next(const StoredTensor& t) {
    if (stays_f32(t)) return Format::kF32;
    if (formats::traits(base_).block_len == 1) return base_;
    return fallback(choose(t), t.shape.n_cols());
  }

 private:
  Role role_of(std::string_view name) const {
    if (name == "output.weight") return Role::kHead;
    if (name == "token_embd.weight") return tied_ ? Role::kHead : Role::kEmbedding;
    // In this order: "attn_v.weight" is no part of "attn_v_b.weight", which has no rule.
    for (const auto& [part, role] : {std::pair{"attn_kv_b.weight", Role::kV},
                                     {"attn_v.weight", Role::kV},
                                     {"attn_k.weight", Role::kK},
                                     {"attn_q.weight", Role::kQ},
                                     {"attn_output.weight", Role::kOut},
                                     {"ffn_up", Role::kUp},
                                     {"ffn_gate", Role::kGate},
                                     {"ffn_down", Role::kDown}}) {
      if (contains(name, part)) return role;
    }
    return Role::kOther;
  }

  Format choose(const StoredTensor& t) {
    const Role role = role_of(t.name);
    if (role == Role::kHead) return head(t.shape.n_cols());
    if (type_ == kMXFP4_MOE)
      return t.shape.rank() > 2 && t.shape[0] > 1 ? Format::kMXFP4 : Format::kQ8_0;
    if (role == Role::kEmbedding) return embedding();
    if (two_bits()) return two_bit_format(role);
    switch (role) {
      case Role::kV: return value(n_values_seen_++);
      case Role::kK: return eight_experts() ? Format::kQ8_0 : key_or_query();
      case Role::kQ: return key_or_query();
      case Role::kOut: return attention_out();
      case Role::kDown: return down(position(t.name, n_downs_seen_++));
      case Role::kGate: return gate_or_up(position(t.name, n_gates_seen_++));
      case Role::kUp: return gate_or_up(position(t.name, n_ups_seen_++));
      default: return base_;
    }
  }

  // Layer number, which dense models count by their tensors.
  std::int64_t position(std::string_view name, std::int64_t nth) const {
    return c_.moe.n_experts > 1 ? layer_of(name) : nth;
  }
  bool eight_experts() const { return c_.moe.n_experts == 8; }
  bool shared_values() const { return c_.n_kv_heads > 0 && c_.n_heads / c_.n_kv_heads >= 4; }
  bool is(std::initializer_list<Ftype> types) const {
    return std::find(types.begin(), types.end(), type_) != types.end();
  }
  bool two_bits() const { return is({kIQ1_S, kIQ1_M, kIQ2_XXS, kIQ2_XS, kIQ2_S, kIQ2_M}); }

  Format head(std::int64_t n_cols) const {
    if (type_ == kMXFP4_MOE || n_cols % formats::traits(base_).block_len != 0) return Format::kQ8_0;
    if (two_bits() || type_ == kIQ3_XXS) return Format::kQ5_K;
    return base_ == Format::kQ8_0 ? base_ : Format::kQ6_K;
  }

  Format embedding() const {
    if (is({kIQ1_S, kIQ1_M, kIQ2_XXS, kIQ2_XS})) return Format::kQ2_K;
    if (is({kIQ2_S, kIQ2_M, kIQ3_XXS})) return Format::kIQ3_S;
    return is({kTQ1_0, kTQ2_0}) ? Format::kQ4_K : base_;
  }

  // Types below three bits follow rules of their own; their down projections are counted one by
  // one even where a layer has two of them.
  Format two_bit_format(Role role) {
    const bool larger = is({kIQ2_S, kIQ2_M});
    const Format raised = larger ? Format::kIQ3_S : Format::kQ2_K;
    if (role == Role::kV) return shared_values() || c_.moe.n_experts >= 4 ? Format::kQ4_K : raised;
    if (role == Role::kK && eight_experts()) return Format::kQ4_K;
    if (role == Role::kDown) return n_downs_seen_++ < c_.n_layers / 8 ? raised : base_;
    if (role != Role::kOut) return base_;
    if (eight_experts()) return Format::kQ5_K;
    if (is({kIQ1_S, kIQ1_M})) return Format::kIQ2_XXS;
    return larger ? Format::kIQ3_S : base_;
  }

  Format value(std::int64_t nth) const {
    if (eight_experts()) return Format::kQ8_0;
    const Format format = value_by_type(nth);
    // Models of 80 layers share their small value matrix among eight heads.
    const bool large = c_.n_layers == 80 && (c_.architecture == "qwen2" ||
                                             (llama_like() && c_.n_heads != c_.n_kv_heads));
    const bool few_bits = format == Format::kQ3_K || format == Format::kQ4_K;
    return large && few_bits ? Format::kQ5_K : format;
  }
  bool llama_like() const {
    return c_.architecture == "llama" || c_.architecture == "mistral" ||
           c_.architecture == "mixtral";
  }

  Format value_by_type(std::int64_t nth) const {
    switch (type_) {
      case kQ2_K: return shared_values() ? Format::kQ4_K : Format::kQ3_K;
      case kIQ3_XXS:
        if (shared_values()) return Format::kQ4_K;
        return has_imatrix_ ? Format::kIQ3_XXS : Format::kIQ3_S;
      case kQ2_K_S:
      case kIQ3_XS:
      case kIQ3_S: return shared_values() ? Format::kQ4_K : base_;
      case kIQ3_M: return Format::kQ4_K;
      case kQ3_K_M: return nth < 2 ? Format::kQ5_K : Format::kQ4_K;
      case kQ3_K_L: return Format::kQ5_K;
      case kIQ4_NL:
      case kIQ4_XS: return shared_values() ? Format::kQ5_K : base_;
      case kQ4_K_M:
      case kQ5_K_M: return use_more_bits(nth, n_values_) ? Format::kQ6_K : base_;
      case kQ4_K_S: return nth < 4 ? Format::kQ5_K : base_;
      default: return base_;
    }
  }

  Format key_or_query() const {
    if (type_ == kIQ3_XS) return Format::kIQ3_XXS;
    return type_ == kIQ3_XXS ? Format::kIQ2_S : base_;
  }

  Format attention_out() const {
    if (eight_experts()) {
      return is({kQ2_K, kIQ3_XS, kIQ3_XXS, kQ3_K_S, kQ3_K_M, kIQ4_NL, kQ4_K_S, kQ4_K_M, kIQ3_S,
                 kIQ3_M, kIQ4_XS})
                 ? Format::kQ5_K
                 : base_;
    }
    switch (type_) {
      case kQ2_K: return Format::kQ3_K;
      case kIQ3_XXS: return Format::kIQ3_S;
      case kQ3_K_M:
      case kIQ3_M: return Format::kQ4_K;
      case kQ3_K_L: return Format::kQ5_K;
      default: return base_;
    }
  }

  Format gate_or_up(std::int64_t layer) const {
    const bool middle = layer >= c_.n_layers / 8 && layer < 7 * c_.n_layers / 8;
    return type_ == kIQ3_XS && middle ? Format::kIQ3_XXS : base_;
  }

  Format down(std::int64_t layer) const {
    const bool first = layer < c_.n_layers / 8;
    const bool more = use_more_bits(layer, c_.n_layers);
    switch (type_) {
      case kQ2_K: return Format::kQ3_K;
      case kQ2_K_S: return first ? Format::kQ4_K : base_;
      case kIQ3_XXS:
        if (has_imatrix_) return base_;
        return first ? Format::kQ4_K : Format::kQ3_K;
      case kQ3_K_M: return layer < c_.n_layers / 16 ? Format::kQ5_K : Format::kQ4_K;
      case kIQ3_M: return first || (eight_experts() && more) ? Format::kQ4_K : base_;
      case kQ3_K_L: return Format::kQ5_K;
      case kQ4_K_M:
      case kQ5_K_M: return more ? Format::kQ6_K : base_;
      case kIQ4_NL:
      case kIQ4_XS: return first && !has_imatrix_ ? Format::kQ5_K : base_;
      case kQ4_K_S: return first ? Format::kQ5_K : base_;
      case kQ4_0: return first && has_imatrix_ ? Format::kQ4_1 : base_;
      case kQ5_0: return first && has_imatrix_ ? Format::kQ5_1 : base_;
      default: return base_;
    }
  }

  std::uint32_t type_;
  Format base_;
  const io::ModelConfig& c_;
  bool has_imatrix_;
  bool tied_ = true;
  std::int64_t n_values_ = 0;
  std::int64_t n_values_seen_ = 0;
  std::int64_t n_downs_seen_ = 0;
  std::int64_t n_gates_seen_ = 0;
  std::int64_t n_ups_seen_ = 0;
};

bool same_name(std::string_view given, std::string_view name) {
  return name.size() == given.size() &&
         std::equal(given.begin(), given.end(), name.begin(), [](char a, char b) {
           return std::toupper(static_cast<unsigned char>(a)) == b;
         });
}

}  // namespace

const std::vector<FileType>& file_types() {
  static const std::vector<FileType> kTypes = {
      {"F32", Format::kF32, 0},
      {"F16", Format::kF16, 1},
      {"BF16", Format::kBF16, 32},
      {"Q8_0", Format::kQ8_0, 7},
      {"Q6_K", Format::kQ6_K, 18},
      {"Q5_K_M", Format::kQ5_K, kQ5_K_M},
      {"Q5_K_S", Format::kQ5_K, 16},
      {"Q5_1", Format::kQ5_1, 9},
      {"Q5_0", Format::kQ5_0, kQ5_0},
      {"Q4_K_M", Format::kQ4_K, kQ4_K_M},
      {"Q4_K_S", Format::kQ4_K, 14},
      {"Q4_1", Format::kQ4_1, 3},
      {"Q4_0", Format::kQ4_0, kQ4_0},
      {"IQ4_NL", Format::kIQ4_NL, kIQ4_NL},
      {"IQ4_XS", Format::kIQ4_XS, kIQ4_XS},
      {"MXFP4_MOE", Format::kMXFP4, kMXFP4_MOE},
      {"Q3_K_L", Format::kQ3_K, kQ3_K_L},
      {"Q3_K_M", Format::kQ3_K, kQ3_K_M},
      {"Q3_K_S", Format::kQ3_K, kQ3_K_S},
      {"IQ3_M", Format::kIQ3_S, kIQ3_M},
      {"IQ3_S", Format::kIQ3_S, kIQ3_S},
      {"IQ3_XS", Format::kIQ3_S, kIQ3_XS},
      {"IQ3_XXS", Format::kIQ3_XXS, kIQ3_XXS},
      {"Q2_K", Format::kQ2_K, kQ2_K},
      {"Q2_K_S", Format::kQ2_K, kQ2_K_S},
      {"IQ2_M", Format::kIQ2_S, kIQ2_M},
      {"IQ2_S", Format::kIQ2_XS, kIQ2_S},
      {"IQ2_XS", Format::kIQ2_XS, kIQ2_XS},
      {"IQ2_XXS", Format::kIQ2_XXS, kIQ2_XXS},
      {"TQ2_0", Format::kTQ2_0, kTQ2_0},
      {"TQ1_0", Format::kTQ1_0, kTQ1_0},
      {"IQ1_M", Format::kIQ1_M, kIQ1_M},
      {"IQ1_S", Format::kIQ1_S, kIQ1_S},
      {"Q1_0", Format::kQ1_0, 40},
  };
  return kTypes;
}

const FileType& file_type(std::string_view name) {
  const bool short_form =
      same_name(name, "Q3_K") || same_name(name, "Q4_K") || same_name(name, "Q5_K");
  const std::string wanted = std::string(name) + (short_form ? "_M" : "");
  std::string known;
  for (const FileType& t : file_types()) {
    if (same_name(wanted, t.name)) return t;
    known += (known.empty() ? "" : ", ") + std::string(t.name);
  }
  fail(ErrorCode::kUsage, "--type", "'{}' is not a file type; use one of {}", name, known);
}

std::vector<Format> tensor_formats(const FileType& type, const io::ModelConfig& config,
                                   const std::vector<StoredTensor>& tensors, bool has_imatrix) {
  // Rules count tensors in the order of layers, names within a layer.
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const std::int64_t layer_a = layer_of(tensors[a].name), layer_b = layer_of(tensors[b].name);
    return layer_a != layer_b ? layer_a < layer_b : tensors[a].name < tensors[b].name;
  });
  Mixer mixer(type, config, tensors, has_imatrix);
  std::vector<Format> out(tensors.size());
  for (const std::size_t i : order) out[i] = mixer.next(tensors[i]);
  return out;
}

bool requires_importance(const FileType& type, std::string_view name, Format format) {
  if (name == "token_embd.weight" || name == "output.weight") return false;
  switch (format) {
    case Format::kIQ1_S:
    case Format::kIQ1_M:
    case Format::kIQ2_XXS:
    case Format::kIQ2_XS:
    case Format::kIQ2_S:
    case Format::kIQ3_XXS: return true;
    case Format::kQ2_K: return type.llama_ftype == kQ2_K_S;
    default: return false;
  }
}

}  // namespace kt::session
