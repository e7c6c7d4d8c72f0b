// A linear or an experts module that has one operator for normal running and another for layer-wise
// prefill. On the CPU only one of the two holds weights at a time. What runs on a GPU otherwise
// stays there, and the weights of a layer's prefill operators on a GPU lie in memory that all
// layers share (Gpu::set_aside).
//
//   load: generate operator   enter(kPrefill): load the prefill operator   and back
//
// Thread rule: as Module; phases change between steps only.
#pragma once
#include <memory>
#include <string>

#include "operators/kinds.h"

namespace kt::operators {

enum class Phase { kGenerate, kPrefill };

/// A module that can change its operator.
class Phased {
 public:
  virtual ~Phased() = default;
  /// Loads this phase's operator, and unloads the other's unless it is to stay. Throws as load();
  /// then the module has no weights until it enters the other phase.
  virtual void enter(Phase phase, Loader& loader) = 0;
  /// The operator that runs now.
  virtual const Module& active() const = 0;
  /// The operator of a phase, for what it would hold.
  virtual const Module& in(Phase phase) const = 0;
};

/// `keep`: the generate operator keeps its weights while the other one runs.
std::unique_ptr<Linear> make_phased(std::unique_ptr<Linear> generate,
                                    std::unique_ptr<Linear> prefill, bool keep);
std::unique_ptr<Experts> make_phased(std::unique_ptr<Experts> generate,
                                     std::unique_ptr<Experts> prefill, bool keep);

/// enter() for every phased module at or below `root`.
void enter_phase(Module& root, Phase phase, Loader& loader);

/// The prefill operators at or below `root` as a text, with their devices and matrices: layers of
/// which it is equal need the same for a step.
std::string prefill_kind(Module& root, const io::WeightSource& source, backend::ActPolicy act);

/// Memory that the prefill operators at or below `root` take on a GPU, loading included; 0: none
/// runs there.
std::size_t prefill_gpu_bytes(Module& root, const io::WeightSource& source,
                              const backend::Gpu& gpu);

}  // namespace kt::operators
