#include "engine/canary.h"

#include <algorithm>

#include "engine/step_logits.h"

namespace kt::engine {
namespace {

using operators::Module;

bool finite_rows(tensor::ConstMatrixF rows) {
  for (std::int64_t r = 0; r < rows.n_rows; ++r) {
    if (!finite({rows.row(r), static_cast<std::size_t>(rows.n_cols)})) return false;
  }
  return true;
}

std::string name_of(const Module& module) {
  return module.path() + " (" + module.site().device + ")";
}

// The module of that kind below `parent` itself, or `parent`.
template <class... Kinds>
std::string child_of(const Module& parent, const Kinds&... kinds) {
  for (const Module* child : parent.children()) {
    if (((child->kind() == kinds) || ...)) return name_of(*child);
  }
  return name_of(parent);
}

// Its name; empty: there is none this time.
std::string first_not_finite(operators::Model& model, operators::Layered& layered,
                             operators::Step& step) {
  const Module& decoder = model.children().empty() ? model : *model.children().front();
  const tensor::MatrixF x = step.arena.matrix(step.n_rows(), layered.d_model());
  const tensor::MatrixF delta = step.arena.matrix(step.n_rows(), layered.d_model());
  layered.embed(step, x);
  if (!finite_rows(x)) return child_of(decoder, "Embedding");
  for (std::int64_t i = 0; i < layered.n_layers(); ++i) {
    // Adds what came before and the attention's output to x; the rest of the layer goes to delta.
    layered.run_layer(step, i, x, delta);
    if (!finite_rows(x)) return child_of(layered.layer(i), "Attention");
    if (!finite_rows(delta)) return child_of(layered.layer(i), "Mlp", "Moe");
  }
  const tensor::ConstMatrixF hidden = layered.hidden(step, x, delta);
  if (!finite_rows(hidden)) return child_of(decoder, "Norm");
  for (std::int64_t begin = 0; begin < hidden.n_rows; begin += StepLogits::kMostInPiece) {
    const operators::StepScope scope(step);
    const std::int64_t n = std::min(StepLogits::kMostInPiece, hidden.n_rows - begin);
    const tensor::MatrixF logits = step.arena.matrix(n, model.vocab_size());
    layered.project(step, hidden.rows(begin, n), logits);
    if (!finite_rows(logits)) return child_of(model, "Linear");
  }
  return {};
}

}  // namespace

std::string describe_not_finite(operators::Model& model, operators::Layered& layered,
                                operators::Step& step) {
  for (const auto& gpu : step.gpus) gpu->begin(step.batch, operators::shape_of(step.batch));
  const std::string where = first_not_finite(model, layered, step);
  for (const auto& gpu : step.gpus) gpu->end();
  for (const auto& gpu : step.gpus) {
    if (!gpu->error().empty()) return {};
  }
  return where.empty() ? ", but not again when the step was repeated" : ", first in " + where;
}

}  // namespace kt::engine
