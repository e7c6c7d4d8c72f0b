// Qwen3 (arXiv 2505.09388): RMS norms on the q and k heads.
#include "models/blocks/gqa_decoder.h"
#include "models/blocks/validate.h"

namespace kt::models {

std::unique_ptr<operators::Model> build_qwen3(const io::ModelConfig& config,
                                              const operators::Placement& placement) {
  require(config, config.moe.n_experts == 0, "a qwen3 model has no experts");
  return make_gqa_decoder(config, placement, {.qk_norm = true});
}

}  // namespace kt::models
