// Qwen2-MoE (arXiv 2407.10671): routed experts beside a shared expert scaled by a sigmoid gate.
#include "models/blocks/gqa_decoder.h"
#include "models/blocks/validate.h"

namespace kt::models {

std::unique_ptr<operators::Model> build_qwen2_moe(const io::ModelConfig& config,
                                                  const operators::Placement& placement) {
  validate_moe(config);
  require(config, config.moe.shared_gate && config.moe.d_ff_shared > 0,
          "a qwen2_moe model has a gated shared expert");
  GqaDecoderSpec spec;
  spec.moe_names.shared = "shared_expert";
  return make_gqa_decoder(config, placement, spec);
}

}  // namespace kt::models
