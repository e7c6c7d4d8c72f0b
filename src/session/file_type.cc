#include "session/file_type.h"

#include <algorithm>
#include <cctype>

#include "base/error.h"

namespace kt::session {
namespace {

using formats::Format;

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// Layers that deserve more bits: the first and last eighth, and every third between.
bool use_more_bits(std::int64_t layer, std::int64_t n) {
  return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
}

std::int64_t layer_of(std::string_view name) {
  if (name.substr(0, 4) != "blk.") return 0;
  std::int64_t layer = 0;
  for (const char c : name.substr(4)) {
    if (c < '0' || c > '9') break;
    layer = layer * 10 + (c - '0');
  }
  return layer;
}

Format fallback(Format wanted, std::int64_t n_cols) {
  if (n_cols % formats::traits(wanted).block_len == 0) return wanted;
  Format next = Format::kF16;
  switch (wanted) {
    case Format::kQ4_K: next = Format::kQ5_0; break;
    case Format::kQ5_K: next = Format::kQ5_1; break;
    case Format::kQ6_K: next = Format::kQ8_0; break;
    case Format::kTQ1_0:
    case Format::kTQ2_0: next = Format::kQ4_0; break;
    default: next = formats::traits(wanted).block_len > 32 ? Format::kIQ4_NL : Format::kF16; break;
  }
  return n_cols % formats::traits(next).block_len == 0 ? next : Format::kF16;
}

Format value_format(std::string_view type, const io::ModelConfig& c, std::int64_t layer,
                    Format base) {
  if (type == "Q2_K")
    return c.n_kv_heads > 0 && c.n_heads / c.n_kv_heads >= 4 ? Format::kQ4_K : Format::kQ3_K;
  if (type == "Q3_K_M") return layer < 2 ? Format::kQ5_K : Format::kQ4_K;
  if (type == "Q3_K_L") return Format::kQ5_K;
  if (type == "Q4_K_S") return layer < 4 ? Format::kQ5_K : base;
  if ((type == "Q4_K_M" || type == "Q5_K_M") && use_more_bits(layer, c.n_layers))
    return Format::kQ6_K;
  return base;
}

Format down_format(std::string_view type, const io::ModelConfig& c, std::int64_t layer,
                   Format base) {
  if (type == "Q2_K") return Format::kQ3_K;
  if (type == "Q3_K_M") return layer < c.n_layers / 16 ? Format::kQ5_K : Format::kQ4_K;
  if (type == "Q3_K_L") return Format::kQ5_K;
  if (type == "Q4_K_S") return layer < c.n_layers / 8 ? Format::kQ5_K : base;
  if ((type == "Q4_K_M" || type == "Q5_K_M") && use_more_bits(layer, c.n_layers))
    return Format::kQ6_K;
  return base;
}

Format attention_out_format(std::string_view type, const io::ModelConfig& c, Format base) {
  const bool few_bits = type == "Q2_K" || type == "Q3_K_S" || type == "Q3_K_M" ||
                        type == "Q4_K_S" || type == "Q4_K_M" || type == "IQ4_NL" ||
                        type == "IQ4_XS";
  if (c.moe.n_experts == 8 && few_bits) return Format::kQ5_K;
  if (type == "Q2_K") return Format::kQ3_K;
  if (type == "Q3_K_M") return Format::kQ4_K;
  if (type == "Q3_K_L") return Format::kQ5_K;
  return base;
}

}  // namespace

const std::vector<FileType>& file_types() {
  static const std::vector<FileType> kTypes = {
      {"F32", Format::kF32, 0},        {"F16", Format::kF16, 1},
      {"BF16", Format::kBF16, 32},     {"Q8_0", Format::kQ8_0, 7},
      {"Q4_0", Format::kQ4_0, 2},      {"Q4_1", Format::kQ4_1, 3},
      {"Q5_0", Format::kQ5_0, 8},      {"Q5_1", Format::kQ5_1, 9},
      {"Q2_K", Format::kQ2_K, 10},     {"Q3_K_S", Format::kQ3_K, 11},
      {"Q3_K_M", Format::kQ3_K, 12},   {"Q3_K_L", Format::kQ3_K, 13},
      {"Q4_K_S", Format::kQ4_K, 14},   {"Q4_K_M", Format::kQ4_K, 15},
      {"Q5_K_S", Format::kQ5_K, 16},   {"Q5_K_M", Format::kQ5_K, 17},
      {"Q6_K", Format::kQ6_K, 18},     {"IQ4_NL", Format::kIQ4_NL, 25},
      {"IQ4_XS", Format::kIQ4_XS, 30},
  };
  return kTypes;
}

const FileType& file_type(std::string_view name) {
  std::string known;
  for (const FileType& t : file_types()) {
    const bool same = t.name.size() == name.size() &&
                      std::equal(name.begin(), name.end(), t.name.begin(), [](char a, char b) {
                        return std::toupper(static_cast<unsigned char>(a)) == b;
                      });
    if (same) return t;
    known += (known.empty() ? "" : ", ") + std::string(t.name);
  }
  fail(ErrorCode::kUsage, "--type", "'{}' is not a file type; use one of {}", name, known);
}

Format tensor_format(const FileType& type, const io::ModelConfig& c, std::string_view name,
                     const tensor::Shape& shape) {
  const bool vector = shape.rank() < 2;
  if (vector || contains(name, "norm") || contains(name, "ffn_gate_inp")) return Format::kF32;
  if (formats::traits(type.base).block_len == 1) return type.base;
  const std::int64_t layer = layer_of(name);
  Format format = type.base;
  const bool head = name == "output.weight" || (c.tied_embeddings && name == "token_embd.weight");
  if (head) {
    if (format != Format::kQ8_0) format = Format::kQ6_K;
  } else if (contains(name, "attn_k_b.") || contains(name, "attn_v_b.") ||
             contains(name, "attn_kv_b.")) {
    format = Format::kQ8_0;
  } else if (contains(name, "attn_v.")) {
    format = c.moe.n_experts == 8 ? Format::kQ8_0 : value_format(type.name, c, layer, format);
  } else if (contains(name, "attn_k.")) {
    if (c.moe.n_experts == 8) format = Format::kQ8_0;
  } else if (contains(name, "ffn_down")) {
    format = down_format(type.name, c, layer, format);
  } else if (contains(name, "attn_output.")) {
    format = attention_out_format(type.name, c, format);
  }
  return fallback(format, shape.n_cols());
}

}  // namespace kt::session
