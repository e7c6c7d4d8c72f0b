// Tensor names: canonical (as the published Hugging Face checkpoint has them, one per expert) ↔
// GGUF.
//
//   blk.3.ffn_up_exps.weight  ↔  model.layers.3.mlp.experts.{0…}.up_proj.weight     (stacked)
//   blk.3.attn_q.weight       ↔  model.layers.3.self_attn.q_proj.weight             (llama: rows
//   permuted)
//
// One table serves both directions; which of its rows apply depends on the architecture's family.
// Thread rule: pure.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "io/model_config.h"
#include "tensor/tensor.h"

namespace kt::io {

/// How the stored tensor differs from the canonical one.
enum class NameLayout {
  kSame,
  kStacked,      // [n_experts, n_out, n_in]: one canonical tensor per expert
  kStackedPair,  // [n_experts, 2 * d_ff, n_in]: gate and up of each expert, read only
  kRopePairs,    // rows of each head permuted so that rotary pairs are neighbours (GGUF llama q, k)
  kRowVector,    // stored [n], canonical [1, n]
};

/// What a GGUF tensor name means. For stacks the canonical name of expert e is `before + e + after`
/// (for kStackedPair `after` is the gate's and `second` the up projection's); otherwise it is
/// `before`.
struct CanonicalName {
  std::string before;
  std::string after;
  std::string second;
  NameLayout layout = NameLayout::kSame;
  std::string of_expert(std::int64_t e) const { return before + std::to_string(e) + after; }
};

/// Where a canonical tensor is in a GGUF file.
struct GgufName {
  std::string name;
  NameLayout layout = NameLayout::kSame;
  std::int64_t expert = -1;  // index in the stack, or -1
};

/// Nothing for names that the architecture does not have.
std::optional<CanonicalName> canonical_name(const ModelConfig& config, std::string_view gguf_name);
std::optional<GgufName> gguf_name(const ModelConfig& config, std::string_view canonical);

/// Layer number of "model.layers.N.…", or nothing.
std::optional<std::int64_t> layer_of(std::string_view canonical);
/// Whether a canonical name belongs to no tensor that is ever loaded: multi-token-prediction
/// layers, buffers that old checkpoints saved (rotary inverse frequencies) and the head of tied
/// models.
bool is_ignored_name(const ModelConfig& config, std::string_view canonical);

/// Row of the canonical tensor that the stored row of a kRopePairs tensor holds, and its inverse.
/// `head_dim` even; rows of heads follow each other.
std::int64_t unpaired_row(std::int64_t stored_row, std::int64_t head_dim);
std::int64_t paired_row(std::int64_t canonical_row, std::int64_t head_dim);

}  // namespace kt::io
