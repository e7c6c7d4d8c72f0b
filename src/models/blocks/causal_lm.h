// The pre-norm decoder that every architecture here is made of:
//
//   x = embed(tokens)
//   per layer:  x += attention(norm(x));  x += mlp(norm(x))
//   logits = head(norm(x))                      for the rows that want them
//
// An architecture says which attention and which mlp a layer gets. Each sum is done by the norm
// that follows it, so a sublayer only writes its delta. Thread rule: as Module.
#pragma once
#include <functional>
#include <memory>

#include "io/model_config.h"
#include "operators/builder.h"

namespace kt::models {

/// What differs between architectures, per layer. Builders are at the decoder layer's path.
struct LayerParts {
  std::function<std::unique_ptr<operators::Attention>(const operators::Builder&, std::int64_t layer,
                                                      operators::Rotary&)>
      attention;
  std::function<std::unique_ptr<operators::Mlp>(const operators::Builder&, std::int64_t layer)> mlp;
  std::int64_t rotary_dim = 0;
};

std::unique_ptr<operators::Model> make_causal_lm(const io::ModelConfig& config,
                                                 const operators::Placement& placement,
                                                 const LayerParts& parts);

}  // namespace kt::models
