// DeepSeek-V3 and R1 (arXiv 2412.19437), Moonlight: latent attention, sigmoid routing with a
// correction bias, best group by the sum of its two best experts.
#include "models/blocks/mla_decoder.h"
#include "models/blocks/validate.h"

namespace kt::models {

std::unique_ptr<operators::Model> build_deepseek_v3(const io::ModelConfig& config,
                                                    const operators::Placement& placement) {
  validate_moe(config);
  require(config, config.moe.score == io::RouterScore::kSigmoid, "deepseek_v3 routes by sigmoid");
  require(config, config.moe.n_groups == 1 || config.moe.n_experts / config.moe.n_groups >= 2,
          "a group needs two experts");
  return make_mla_decoder(config, placement);
}

}  // namespace kt::models
