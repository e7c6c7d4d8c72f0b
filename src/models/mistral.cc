// Mistral (arXiv 2310.06825): Llama with a sliding attention window.
#include "models/blocks/gqa_decoder.h"
#include "models/blocks/validate.h"

namespace kt::models {

std::unique_ptr<operators::Model> build_mistral(const io::ModelConfig& config,
                                                const operators::Placement& placement) {
  require(config, config.moe.n_experts == 0, "a mistral model has no experts");
  return make_gqa_decoder(config, placement, {});
}

}  // namespace kt::models
