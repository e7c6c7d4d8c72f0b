// What a model file says about a module that it wants built: shapes and names, no operator, no
// device. Thread rule: values.
#pragma once
#include <array>
#include <cstdint>
#include <string>

#include "io/model_config.h"

namespace kt::operators {

class Rotary;

struct LinearSpec {
  std::int64_t n_out = 0;
  std::int64_t n_in = 0;
  std::string weight;          // tensor name
  std::string bias;            // tensor name; empty: none
  bool shared_weight = false;  // another module declares the weight (tied lm_head)
};

struct EmbeddingSpec {
  std::int64_t n = 0;
  std::int64_t dim = 0;
};

struct NormSpec {
  std::int64_t dim = 0;
  double eps = 0.0;
};

struct RotarySpec {
  const io::ModelConfig& config;
  std::int64_t dim = 0;
};

struct GateSpec {
  const io::ModelConfig& config;
};

struct ExpertsSpec {
  const io::ModelConfig& config;
  std::array<std::string, 3> projections;  // names of {gate, up, down} in the checkpoint
};

/// Gated MLP.
struct MlpSpec {
  std::int64_t d_model = 0;
  std::int64_t d_ff = 0;
  bool bias = false;
};

/// How an architecture names the parts of its sparse block.
struct MoeNames {
  std::array<std::string, 3> projections = {"gate_proj", "up_proj", "down_proj"};
  std::string shared = "shared_experts";  // used when the configuration has shared experts
  std::string shared_gate = "shared_expert_gate";
};

struct MoeSpec {
  const io::ModelConfig& config;
  const MoeNames& names;
};

/// Grouped-query attention (arXiv 2305.13245).
struct GqaSpec {
  const io::ModelConfig& config;
  bool qk_norm = false;     // RMS norms on the q and k heads (Qwen3)
  std::int64_t window = 0;  // tokens a query looks back; 0: all
  Rotary& rotary;
};

/// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434) on a cache of latents.
struct MlaSpec {
  const io::ModelConfig& config;
  Rotary& rotary;
};

}  // namespace kt::operators
