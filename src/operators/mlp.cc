// KGatedMLP: out = down(silu(gate(x)) * up(x)) (SwiGLU, arXiv 2002.05202).
#include "operators/makers.h"
#include "operators/parallel.h"

namespace kt::operators {
namespace {

class GatedMlp : public Mlp {
 public:
  GatedMlp(const Builder& at, const MlpSpec& spec) : Mlp(at.site(), "Mlp"), gpu_(at.gpu()) {
    const Builder b = at.under(*this);
    gate_proj_ = b.linear("gate_proj", spec.d_ff, spec.d_model, spec.bias);
    up_proj_ = b.linear("up_proj", spec.d_ff, spec.d_model, spec.bias);
    down_proj_ = b.linear("down_proj", spec.d_model, spec.d_ff, spec.bias);
  }

 private:
  void do_run(Step& step, Activation& x, Activation& delta) noexcept override {
    Activation gate(step, x.n_rows(), gate_proj_->n_out(), GpuType::kBF16);
    Activation up(step, x.n_rows(), up_proj_->n_out(), GpuType::kBF16);
    const LinearCall calls[] = {{gate_proj_.get(), &gate}, {up_proj_.get(), &up}};
    run_siblings(step, x, calls);
    if (gpu_) {
      silu_mul(step.gpu(*gpu_), gate, up);
    } else {
      silu_mul(step, gate, up);
    }
    down_proj_->run(step, gate, delta);
  }

  // gate = silu(gate) * up.
  static void silu_mul(Step& step, Activation& gate, Activation& up) noexcept {
    const ConstMatrixF factor = up.f32();
    const MatrixF hidden = gate.update();
    for_rows(step, hidden.n_rows, 8 * hidden.n_cols, [&](std::int64_t r) {
      step.cpu.elementwise->silu_mul(hidden.row(r), factor.row(r), hidden.n_cols, hidden.row(r));
    });
  }

  void silu_mul(GpuStep& gpu, Activation& gate, Activation& up) noexcept {
    const void* factor = up.read_on(gpu);
    void* hidden = gate.update_on(gpu);
    gpu.run(path().c_str(), [&](auto& k, auto stream) {
      return k.silu_mul({hidden, factor, gate.gpu_type(), gate.n_cols(), hidden, gate.gpu_type(),
                         gate.n_rows(), gate.n_cols()},
                        stream);
    });
  }

  std::optional<int> gpu_;
  std::unique_ptr<Linear> gate_proj_, up_proj_, down_proj_;
};

}  // namespace

std::unique_ptr<Mlp> make_gated_mlp(const Builder& at, const MlpSpec& spec) {
  return std::make_unique<GatedMlp>(at, spec);
}

}  // namespace kt::operators
