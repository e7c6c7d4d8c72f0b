// KGatedMLP: out = down(silu(gate(x)) * up(x)) (SwiGLU, arXiv 2002.05202).
#include "operators/makers.h"
#include "operators/parallel.h"

namespace kt::operators {
namespace {

class GatedMlp : public Mlp {
 public:
  GatedMlp(const Builder& at, const MlpSpec& spec) : Mlp(at.site(), "Mlp") {
    const Builder b = at.under(*this);
    gate_proj_ = b.linear("gate_proj", spec.d_ff, spec.d_model, spec.bias);
    up_proj_ = b.linear("up_proj", spec.d_ff, spec.d_model, spec.bias);
    down_proj_ = b.linear("down_proj", spec.d_model, spec.d_ff, spec.bias);
  }

 private:
  void do_run(Step& step, MatrixF x, MatrixF delta) noexcept override {
    const MatrixF gate = step.arena.matrix(x.n_rows, gate_proj_->n_out());
    const MatrixF up = step.arena.matrix(x.n_rows, up_proj_->n_out());
    Activation input(x);
    const LinearCall calls[] = {{gate_proj_.get(), gate}, {up_proj_.get(), up}};
    run_siblings(step, input, calls);
    for_rows(step, x.n_rows, 8 * gate.n_cols, [&](std::int64_t r) {
      step.cpu.elementwise->silu_mul(gate.row(r), up.row(r), gate.n_cols, gate.row(r));
    });
    Activation hidden(gate);
    down_proj_->run(step, hidden, delta);
  }

  std::unique_ptr<Linear> gate_proj_, up_proj_, down_proj_;
};

}  // namespace

std::unique_ptr<Mlp> make_gated_mlp(const Builder& at, const MlpSpec& spec) {
  return std::make_unique<GatedMlp>(at, spec);
}

}  // namespace kt::operators
