#include "session/expert_layer.h"

#include <algorithm>

namespace kt::session {

ExpertLayer::ExpertLayer(backend::Cpu& cpu, const io::WeightSource& source,
                         const std::string& backend)
    : config_(source.config()) {
  placement_.default_entry.op = "KExpertsCPU";
  placement_.default_entry.kwargs["backend"] = backend;
  const operators::Builder builder("", placement_, nullptr);
  experts_ = builder.experts("experts", {config_, {"gate_proj", "up_proj", "down_proj"}});
  experts_->check(source);
  operators::Loader loader(source, cpu, {});
  experts_->load(loader);
}

void ExpertLayer::run(backend::Cpu& cpu, tensor::Arena& arena, tensor::ConstMatrixF x,
                      const operators::Routing& routing, tensor::MatrixF out) noexcept {
  const operators::Batch batch;
  operators::Step step{batch, cpu, arena, {}};
  operators::Activation input(step, x);
  operators::Routing wanted = routing;
  operators::Experts::Ticket ticket = experts_->submit(step, input, wanted);
  for (std::int64_t r = 0; r < out.n_rows; ++r) std::fill_n(out.row(r), out.n_cols, 0.0f);
  operators::Activation sum = operators::Activation::on(step, out);
  experts_->collect(step, ticket, sum);
}

}  // namespace kt::session
