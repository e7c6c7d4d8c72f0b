#include "models/model.h"

namespace kt::models {

#define MODEL(model_type, title, build)                                  \
  std::unique_ptr<operators::Model> build(const io::ModelConfig& config, \
                                          const operators::Placement& placement);
#include "models/models.inc"
#undef MODEL

const std::vector<Architecture>& architectures() {
  static const std::vector<Architecture> kArchitectures = {
#define MODEL(model_type, title, build) {#model_type, title, build},
#include "models/models.inc"
#undef MODEL
  };
  return kArchitectures;
}

std::unique_ptr<operators::Model> build_model(const io::ModelConfig& config,
                                              const operators::Placement& placement) {
  std::string known;
  for (const Architecture& a : architectures()) {
    if (config.architecture == a.model_type) return a.build(config, placement);
    known += (known.empty() ? "" : ", ") + std::string(a.model_type);
  }
  fail(ErrorCode::kUnsupported, {}, "architecture '{}' is not supported; this build runs {}",
       config.architecture, known);
}

void load_model(operators::Model& model, operators::Loader& loader) {
  operators::walk(model, [&](operators::Module& module) { module.check(loader.source()); });
  operators::walk(model, [&](operators::Module& module) { module.load(loader); });
  loader.check_all_used();
}

}  // namespace kt::models
