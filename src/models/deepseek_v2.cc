// DeepSeek-V2 and V2-Lite (arXiv 2405.04434): latent attention, softmax routing, best group by its
// best expert.
#include "models/blocks/mla_decoder.h"
#include "models/blocks/validate.h"

namespace kt::models {

std::unique_ptr<operators::Model> build_deepseek_v2(const io::ModelConfig& config,
                                                    const operators::Placement& placement) {
  require(config, config.moe.score == io::RouterScore::kSoftmax, "deepseek_v2 routes by softmax");
  return make_mla_decoder(config, placement);
}

}  // namespace kt::models
