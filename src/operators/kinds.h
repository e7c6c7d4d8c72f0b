// The module kinds: one interface each. Activations are float rows [n_rows, width]; sublayers write
// deltas, norms add the delta of the previous sublayer to the residual first, so that add + norm is
// one operation. Thread rule: run() is called by the thread that walks the tree; it is parallel
// inside.
#pragma once
#include "operators/module.h"
#include "operators/step.h"

namespace kt::operators {

using backend::Activation;
using tensor::ConstMatrixF;
using tensor::MatrixF;

/// y = x · Wᵀ + b.
class Linear : public Module {
 public:
  Linear(std::string path, std::string_view op, std::int64_t n_out, std::int64_t n_in)
      : Module(std::move(path), "Linear", op), n_out_(n_out), n_in_(n_in) {}
  std::int64_t n_out() const { return n_out_; }
  std::int64_t n_in() const { return n_in_; }
  virtual void run(Step& step, Activation& x, MatrixF out) noexcept = 0;
  /// The packed weights and bias when this linear is a plain CPU product that may share a parallel
  /// region with its siblings, or null.
  virtual const backend::PackedMatrix* packed() const { return nullptr; }
  virtual const float* bias() const { return nullptr; }

 private:
  std::int64_t n_out_;
  std::int64_t n_in_;
};

struct LinearCall {
  Linear* linear = nullptr;
  MatrixF out;
};
/// Linears on the same input, merged into one parallel region where their operators allow it.
void run_siblings(Step& step, Activation& x, std::span<const LinearCall> calls) noexcept;

class Embedding : public Module {
 public:
  Embedding(std::string path, std::string_view op) : Module(std::move(path), "Embedding", op) {}
  virtual void run(Step& step, MatrixF out) noexcept = 0;  // [n_rows, d_model]
};

/// residual += delta (when given); out = norm(residual).
class Norm : public Module {
 public:
  Norm(std::string path, std::string_view op) : Module(std::move(path), "Norm", op) {}
  virtual void run(Step& step, MatrixF residual, const ConstMatrixF* delta,
                   MatrixF out) noexcept = 0;
  /// Normalises n_vectors vectors of `dim` values in place, `stride` apart (per-head q/k norms,
  /// latents).
  virtual void run_vectors(Step& step, float* x, std::int64_t n_vectors,
                           std::int64_t stride) noexcept = 0;
};

/// cos and sin of every row's position, made once per step and shared by all layers.
class Rotary : public Module {
 public:
  Rotary(std::string path, std::string_view op, std::int64_t dim)
      : Module(std::move(path), "Rotary", op), dim_(dim) {}
  std::int64_t dim() const { return dim_; }
  /// Fills the tables for this step.
  virtual void prepare(Step& step) noexcept = 0;
  const float* cos(std::int64_t row) const { return cos_ + row * dim_ / 2; }
  const float* sin(std::int64_t row) const { return sin_ + row * dim_ / 2; }

 protected:
  float* cos_ = nullptr;  // [n_rows, dim / 2]
  float* sin_ = nullptr;

 private:
  std::int64_t dim_;
};

class Attention : public Module {
 public:
  Attention(std::string path, std::string_view op) : Module(std::move(path), "Attention", op) {}
  virtual tensor::KvLayerSpec state_spec() const = 0;
  virtual void run(Step& step, std::int64_t layer, MatrixF x, MatrixF delta) noexcept = 0;
};

/// Experts chosen for each row.
struct Routing {
  std::int64_t n_active = 0;
  std::int32_t* ids = nullptr;  // [n_rows, n_active]
  float* weights = nullptr;     // [n_rows, n_active]
};

class Gate : public Module {
 public:
  Gate(std::string path, std::string_view op) : Module(std::move(path), "Gate", op) {}
  virtual Routing run(Step& step, Activation& x) noexcept = 0;
};

/// Routed experts in two phases, so that other devices can work between them.
class Experts : public Module {
 public:
  Experts(std::string path, std::string_view op) : Module(std::move(path), "Experts", op) {}
  struct Ticket {
    MatrixF result;  // [n_rows, d_model]
  };
  virtual Ticket submit(Step& step, Activation& x, const Routing& routing) noexcept = 0;
  virtual void collect(Step& step, const Ticket& ticket, MatrixF accumulate_into) noexcept = 0;
};

/// Dense or sparse feed-forward block: out = mlp(x).
class Mlp : public Module {
 public:
  Mlp(std::string path, std::string_view kind, std::string_view op)
      : Module(std::move(path), kind, op) {}
  virtual void run(Step& step, MatrixF x, MatrixF delta) noexcept = 0;
};

class DecoderLayer : public Module {
 public:
  DecoderLayer(std::string path, std::string_view op)
      : Module(std::move(path), "DecoderLayer", op) {}
  virtual tensor::KvLayerSpec state_spec() const = 0;
  /// residual += pending delta; leaves this layer's last delta in `delta`. has_delta: delta holds
  /// one.
  virtual void run(Step& step, std::int64_t layer, MatrixF residual, MatrixF delta,
                   bool has_delta) noexcept = 0;
};

class Model : public Module {
 public:
  Model(std::string path, std::string_view op) : Module(std::move(path), "Model", op) {}
  virtual std::vector<tensor::KvLayerSpec> state_spec() const = 0;
  virtual std::int64_t vocab_size() const = 0;
  /// logits [batch.logit_rows.size(), vocab_size].
  virtual void run(Step& step, MatrixF logits) noexcept = 0;
};

}  // namespace kt::operators
