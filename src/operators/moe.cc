// KSparseMoE: out = Σ weight · expert(x) + shared(x). The routed experts are submitted first, so
// that shared experts run beside them where devices differ. With a Deferral the experts of the
// lowest rank are computed after the others were handed on, and added by the next sparse layer.
#include <cmath>

#include "operators/makers.h"
#include "operators/row_ops.h"

namespace kt::operators {
namespace {

class SparseMoe : public Mlp {
 public:
  SparseMoe(const Builder& at, const MoeSpec& spec) : Mlp(at.site(), "Moe"), gpu_(at.gpu()) {
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
  void do_run(Step& step, Activation& x, Activation& delta) noexcept override {
    Routing routing = gate_->run(step, x);
    Routing later;
    const bool defers = step.deferral.n_experts > 0 && step.deferral.rows != nullptr &&
                        experts_->on_cpu() && x.n_rows() < backend::kBatchRows;
    if (defers) later = split_off(step, x, routing, *experts_);
    Experts::Ticket ticket = experts_->submit(step, x, routing);
    if (shared_ != nullptr) {
      shared_->run(step, x, delta);
      if (shared_gate_ != nullptr) scale_by_gate(step, x, delta);
    } else if (experts_->overwrites()) {
      ticket.overwrite = true;
    } else {
      clear_rows(step, delta, gpu_);
    }
    const bool adds_before = step.deferral.pending && ticket.result.has_value();
    if (adds_before) add_deferred(step, *ticket.result);  // one transfer for both
    experts_->collect(step, ticket, delta);
    add_deferred(step, delta);
    if (defers) defer(step, x, later);
  }

  // Takes the experts of the lowest rank out of `routing`, if the CPU computes them; at least one
  // stays.
  static Routing split_off(Step& step, Activation& x, Routing& routing,
                           const Experts& experts) noexcept {
    routing.fetch(step, x.n_rows(), &x);
    const std::int64_t k = routing.n_active, n = x.n_rows() * k;
    const std::int64_t n_now = std::max<std::int64_t>(k - step.deferral.n_experts, 1);
    Routing later{k, step.arena.allocate<std::int32_t>(n), routing.weights};
    later.deferred = true;
    auto* now = step.arena.allocate<std::int32_t>(n);
    for (std::int64_t i = 0; i < n; ++i) {
      const bool is_now = i % k < n_now || experts.is_on_gpu(routing.ids[i]);
      now[i] = is_now ? routing.ids[i] : -1;
      later.ids[i] = is_now ? -1 : routing.ids[i];
    }
    routing.ids = now;
    return later;
  }

  void defer(Step& step, Activation& x, Routing& later) noexcept {
    Experts::Ticket ticket = experts_->submit(step, x, later);
    const ConstMatrixF from = ticket.result->f32();
    const MatrixF to = step.deferral.rows->write();
    for (std::int64_t r = 0; r < to.n_rows; ++r)
      std::copy(from.row(r), from.row(r) + from.n_cols, to.row(r));
    step.deferral.pending = true;
  }

  void scale_by_gate(Step& step, Activation& x, Activation& shared) noexcept {
    Activation gate(step, x.n_rows(), 1);
    shared_gate_->run(step, x, gate);
    if (GpuStep* gpu = shared.gpu()) {
      const auto* factors = static_cast<const float*>(gate.read_on(*gpu));
      void* rows = shared.update_on(*gpu);
      gpu->run(path().c_str(), [&](auto& k, auto stream) {
        return k.scale_rows({rows, shared.gpu_type(), factors, shared.n_rows(), shared.n_cols()},
                            stream);
      });
      return;
    }
    const ConstMatrixF factors = gate.f32();
    const MatrixF delta = shared.update();
    for (std::int64_t r = 0; r < delta.n_rows; ++r) {
      const float scale = 1.0f / (1.0f + std::exp(-*factors.row(r)));
      for (std::int64_t i = 0; i < delta.n_cols; ++i) delta.row(r)[i] *= scale;
    }
  }

  std::optional<int> gpu_;
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
