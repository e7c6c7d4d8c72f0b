// Kimi-K2 (arXiv 2507.20534): the DeepSeek-V3 architecture with one group and more experts.
#include "models/blocks/mla_decoder.h"
#include "models/blocks/validate.h"

namespace kt::models {

std::unique_ptr<operators::Model> build_kimi_k2(const io::ModelConfig& config,
                                                const operators::Placement& placement) {
  require(config, config.moe.score == io::RouterScore::kSigmoid, "kimi_k2 routes by sigmoid");
  return make_mla_decoder(config, placement);
}

}  // namespace kt::models
