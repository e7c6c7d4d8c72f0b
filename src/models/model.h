// Architectures: models.inc lists them; each file validates a configuration and builds the module
// tree. Thread rule: pure.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "io/model_config.h"
#include "operators/builder.h"
#include "operators/kinds.h"

namespace kt::models {

struct Architecture {
  const char* model_type;  // HF model_type
  const char* title;       // for people
  std::unique_ptr<operators::Model> (*build)(const io::ModelConfig&, const operators::Placement&);
};

const std::vector<Architecture>& architectures();

/// Builds the tree of config.architecture without weights. Throws kUnsupported naming the known
/// architectures, kMismatch when the configuration contradicts itself.
std::unique_ptr<operators::Model> build_model(const io::ModelConfig& config,
                                              const operators::Placement& placement);

/// Reads and packs every weight of the tree; throws kMismatch for missing or left-over tensors.
void load_model(operators::Model& model, operators::Loader& loader);

}  // namespace kt::models
