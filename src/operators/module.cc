#include "operators/module.h"

namespace kt::operators {

void Module::check(const io::WeightSource& source) const {
  for (const WeightSpec& spec : weights()) require_tensor(source, spec);
}

Kept Module::kept(const io::WeightSource& source, backend::ActPolicy) const {
  Kept kept;
  for (const WeightSpec& spec : weights()) kept.add(source, spec);
  return kept;
}

void walk(Module& root, const std::function<void(Module&)>& visit) {
  visit(root);
  for (Module* child : root.children()) walk(*child, visit);
}

}  // namespace kt::operators
