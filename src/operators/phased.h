// A linear or an experts module that has one operator for normal running and another for layer-wise
// prefill. Only one of the two holds weights at a time.
//
//   load: generate operator   enter(kPrefill): unload it, load the prefill operator   and back
//
// Thread rule: as Module; phases change between steps only.
#pragma once
#include <memory>

#include "operators/kinds.h"

namespace kt::operators {

enum class Phase { kGenerate, kPrefill };

/// A module that can change its operator.
class Phased {
 public:
  virtual ~Phased() = default;
  /// Unloads the operator of the other phase and loads this one's. Throws as load(); then neither
  /// is loaded.
  virtual void enter(Phase phase, Loader& loader) = 0;
  /// The operator that runs now.
  virtual const Module& active() const = 0;
  /// The operator of a phase, for what it would hold.
  virtual const Module& in(Phase phase) const = 0;
};

std::unique_ptr<Linear> make_phased(std::unique_ptr<Linear> generate,
                                    std::unique_ptr<Linear> prefill);
std::unique_ptr<Experts> make_phased(std::unique_ptr<Experts> generate,
                                     std::unique_ptr<Experts> prefill);

/// enter() for every phased module at or below `root`.
void enter_phase(Module& root, Phase phase, Loader& loader);

}  // namespace kt::operators
