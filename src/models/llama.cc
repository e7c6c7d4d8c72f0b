// Llama 2 and 3 (arXiv 2302.13971, 2407.21783): the plain gated decoder; 3.x scales its rotary
// frequencies.
#include "models/blocks/gqa_decoder.h"
#include "models/blocks/validate.h"

namespace kt::models {

std::unique_ptr<operators::Model> build_llama(const io::ModelConfig& config,
                                              const operators::Placement& placement) {
  require(config, config.moe.n_experts == 0, "a llama model has no experts");
  return make_gqa_decoder(config, placement, {});
}

}  // namespace kt::models
