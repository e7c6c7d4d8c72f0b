// The routed experts of one layer without a model around them, for other frameworks: loaded by the
// operator KExpertsCPU from any source that names them "experts.E.{gate,up,down}_proj.weight".
//
// Thread rule: as its Cpu, one call at a time; the operator keeps to the Cpu that loaded it.
#pragma once
#include <memory>
#include <string>

#include "operators/builder.h"

namespace kt::session {

class ExpertLayer {
 public:
  /// `backend` as in rule files: "llamafile" (weights as stored), "AMXInt8", "AMXInt4", "AMXBF16".
  /// The number of experts and the sizes are those of the source's configuration. Throws as
  /// operators do.
  ExpertLayer(backend::Cpu& cpu, const io::WeightSource& source, const std::string& backend);
  const io::ModelConfig& config() const { return config_; }
  const operators::Experts& experts() const { return *experts_; }
  /// out = Σ weights · expert(x). Experts with a negative id are left out; temporaries come from
  /// `arena`.
  void run(backend::Cpu& cpu, tensor::Arena& arena, tensor::ConstMatrixF x,
           const operators::Routing& routing, tensor::MatrixF out) noexcept;

 private:
  io::ModelConfig config_;
  operators::Placement placement_;
  std::unique_ptr<operators::Experts> experts_;
};

}  // namespace kt::session
