// KSparseMoE: out = Σ weight · expert(x) + shared(x). The routed experts are submitted first, so
// that shared experts run beside them where devices differ.
#include <cmath>

#include "operators/makers.h"

namespace kt::operators {
namespace {

class SparseMoe : public Mlp {
 public:
  SparseMoe(const Builder& at, const MoeSpec& spec) : Mlp(at.site(), "Moe") {
    const io::ModelConfig& config = spec.config;
    const MoeNames& names = spec.names;
    const Builder b = at.under(*this);
    gate_ = b.gate("gate", config);
    experts_ = b.experts("experts", {config, names.projections});
    if (config.moe.d_ff_shared > 0) {
      shared_ = b.mlp(names.shared, {config.d_model, config.moe.d_ff_shared, false});
    }
    if (config.moe.shared_gate) shared_gate_ = b.linear(names.shared_gate, 1, config.d_model);
  }

 private:
  void do_run(Step& step, MatrixF x, MatrixF delta) noexcept override {
    Activation input(x);
    const Routing routing = gate_->run(step, input);
    const Experts::Ticket ticket = experts_->submit(step, input, routing);
    if (shared_ != nullptr) {
      shared_->run(step, x, delta);
      if (shared_gate_ != nullptr) scale_by_gate(step, input, delta);
    } else {
      std::fill(delta.data, delta.data + delta.n_rows * delta.stride, 0.0f);
    }
    experts_->collect(step, ticket, delta);
  }

  void scale_by_gate(Step& step, Activation& x, MatrixF delta) noexcept {
    const MatrixF gate = step.arena.matrix(delta.n_rows, 1);
    shared_gate_->run(step, x, gate);
    for (std::int64_t r = 0; r < delta.n_rows; ++r) {
      const float scale = 1.0f / (1.0f + std::exp(-*gate.row(r)));
      for (std::int64_t i = 0; i < delta.n_cols; ++i) delta.row(r)[i] *= scale;
    }
  }

  std::unique_ptr<Gate> gate_;
  std::unique_ptr<Experts> experts_;
  std::unique_ptr<Mlp> shared_;
  std::unique_ptr<Linear> shared_gate_;
};

}  // namespace

std::unique_ptr<Mlp> make_sparse_moe(const Builder& at, const MoeSpec& spec) {
  return std::make_unique<SparseMoe>(at, spec);
}

}  // namespace kt::operators
