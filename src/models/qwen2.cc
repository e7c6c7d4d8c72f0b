// Qwen2 and Qwen2.5 (arXiv 2407.10671): biases on q, k and v.
#include "models/blocks/gqa_decoder.h"
#include "models/blocks/validate.h"

namespace kt::models {

std::unique_ptr<operators::Model> build_qwen2(const io::ModelConfig& config,
                                              const operators::Placement& placement) {
  require(config, config.attention_bias, "a qwen2 model has biases on q, k and v");
  require(config, config.moe.n_experts == 0, "a qwen2 model has no experts");
  return make_gqa_decoder(config, placement, {});
}

}  // namespace kt::models
