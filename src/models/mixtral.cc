// Mixtral (arXiv 2401.04088): every layer sparse, softmax over the chosen experts.
#include "models/blocks/gqa_decoder.h"
#include "models/blocks/validate.h"

namespace kt::models {

std::unique_ptr<operators::Model> build_mixtral(const io::ModelConfig& config,
                                                const operators::Placement& placement) {
  validate_moe(config);
  GqaDecoderSpec spec;
  spec.moe_name = "block_sparse_moe";
  spec.moe_names.projections = {"w1", "w3", "w2"};
  return make_gqa_decoder(config, placement, spec);
}

}  // namespace kt::models
