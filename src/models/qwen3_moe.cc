// Qwen3-MoE (arXiv 2505.09388): q and k norms, routed experts only.
#include "models/blocks/gqa_decoder.h"
#include "models/blocks/validate.h"

namespace kt::models {

std::unique_ptr<operators::Model> build_qwen3_moe(const io::ModelConfig& config,
                                                  const operators::Placement& placement) {
  validate_moe(config);
  return make_gqa_decoder(config, placement, {.qk_norm = true});
}

}  // namespace kt::models
