// The module kinds: one interface each. They pass rows [n_rows, width] (activation.h); sublayers
// write deltas, norms add the delta of the previous sublayer to the residual first, so that add +
// norm is one operation. run() opens the trace zone and calls the operator's do_run().
//
// Two phases: a module may hold another operator for layer-wise prefill; enter() swaps them.
// Thread rule: run() is called by the thread that walks the tree; it is parallel inside.
#pragma once
#include <optional>

#include "operators/activation.h"
#include "operators/module.h"

namespace kt::operators {

/// y = x · Wᵀ + b.
class Linear : public Module {
 public:
  Linear(Site site, std::int64_t n_out, std::int64_t n_in)
      : Module(std::move(site), "Linear"), n_out_(n_out), n_in_(n_in) {}
  std::int64_t n_out() const { return n_out_; }
  std::int64_t n_in() const { return n_in_; }
  void run(Step& step, Activation& x, Activation& out) noexcept {
    const ZoneScope zone(hands_on() ? nullptr : step.trace, *this, x.n_rows());
    do_run(step, x, out);
  }
  /// The packed weights and bias when this linear is a plain CPU product that may share a parallel
  /// region with its siblings, or null.
  virtual const backend::PackedMatrix* packed() const { return nullptr; }
  virtual const float* bias() const { return nullptr; }
  /// The same when it is a plain product on a GPU; gpu < 0: it is none.
  struct GpuProduct {
    int gpu = -1;
    kernels::cuda::Matrix w;
    const float* bias = nullptr;
  };
  virtual GpuProduct gpu_product() const { return {}; }

 private:
  virtual void do_run(Step& step, Activation& x, Activation& out) noexcept = 0;
  std::int64_t n_out_;
  std::int64_t n_in_;
};

struct LinearCall {
  Linear* linear = nullptr;
  Activation* out = nullptr;
};
/// Linears on the same input, merged into one parallel region, or into launches of several, where
/// their operators allow it.
void run_siblings(Step& step, Activation& x, std::span<const LinearCall> calls) noexcept;

class Embedding : public Module {
 public:
  explicit Embedding(Site site) : Module(std::move(site), "Embedding") {}
  void run(Step& step, Activation& out) noexcept {  // [n_rows, d_model]
    const ZoneScope zone(step.trace, *this, out.n_rows());
    do_run(step, out);
  }

 private:
  virtual void do_run(Step& step, Activation& out) noexcept = 0;
};

/// residual += delta (when given); out = norm(residual), which may be the residual.
class Norm : public Module {
 public:
  explicit Norm(Site site) : Module(std::move(site), "Norm") {}
  void run(Step& step, Activation& residual, Activation* delta, Activation& out) noexcept {
    const ZoneScope zone(step.trace, *this, out.n_rows());
    do_run(step, residual, delta, out);
  }
  /// Normalises n_vectors vectors of `dim` values in place, `stride` apart (per-head q/k norms,
  /// latents). Runs inside other modules' parallel regions: no zone of its own.
  virtual void run_vectors(Step& step, float* x, std::int64_t n_vectors,
                           std::int64_t stride) noexcept = 0;
  /// The same for all vectors of the rows of x, wherever they are.
  virtual void run_vectors(Step& step, Activation& x) noexcept = 0;
  /// What kernels of other modules on this GPU need to norm in passing; no weights: it is
  /// elsewhere.
  struct OnGpu {
    const float* weight = nullptr;
    float eps = 0.0f;
  };
  virtual OnGpu on(const GpuStep&) const { return {}; }

 private:
  virtual void do_run(Step& step, Activation& residual, Activation* delta,
                      Activation& out) noexcept = 0;
};

/// cos and sin of every row's position, made once per step and shared by all layers.
class Rotary : public Module {
 public:
  Rotary(Site site, std::int64_t dim) : Module(std::move(site), "Rotary"), dim_(dim) {}
  std::int64_t dim() const { return dim_; }
  /// Fills the tables for this step.
  void prepare(Step& step) noexcept {
    const ZoneScope zone(step.trace, *this, step.n_rows());
    do_prepare(step);
  }
  const float* cos(std::int64_t row) { return cos_->f32().row(row); }
  const float* sin(std::int64_t row) { return sin_->f32().row(row); }
  /// The tables on a GPU, [n_rows, dim / 2].
  const float* cos_on(GpuStep& gpu) { return static_cast<const float*>(cos_->read_on(gpu)); }
  const float* sin_on(GpuStep& gpu) { return static_cast<const float*>(sin_->read_on(gpu)); }

 protected:
  std::optional<Activation> cos_, sin_;  // [n_rows, dim / 2]

 private:
  virtual void do_prepare(Step& step) noexcept = 0;
  std::int64_t dim_;
};

class Attention : public Module {
 public:
  explicit Attention(Site site) : Module(std::move(site), "Attention") {}
  virtual tensor::KvLayerSpec state_spec() const = 0;
  void run(Step& step, std::int64_t layer, Activation& x, Activation& delta) noexcept {
    const ZoneScope zone(step.trace, *this, x.n_rows());
    do_run(step, layer, x, delta);
  }

 private:
  virtual void do_run(Step& step, std::int64_t layer, Activation& x,
                      Activation& delta) noexcept = 0;
};

/// Experts chosen for each row, in host memory or on a GPU, and made on first need where they are
/// not.
struct Routing {
  std::int64_t n_active = 0;
  std::int32_t* ids = nullptr;  // [n_rows, n_active]; gates give no negative ones
  float* weights = nullptr;     // [n_rows, n_active]
  GpuStep* gpu = nullptr;       // that has them too
  std::int32_t* gpu_ids = nullptr;
  float* gpu_weights = nullptr;
  bool deferred = false;  // what another routing of the same rows left out
  /// Room on a GPU, ids and weights in one block.
  static Routing on(GpuStep& gpu, std::int64_t n_rows, std::int64_t n_active) noexcept;
  /// To host memory; `with` comes along when it is to be fetched from the same GPU.
  void fetch(Step& step, std::int64_t n_rows, Activation* with = nullptr) noexcept;
  void send(Step& step, GpuStep& to, std::int64_t n_rows) noexcept;
};

class Gate : public Module {
 public:
  explicit Gate(Site site) : Module(std::move(site), "Gate") {}
  Routing run(Step& step, Activation& x) noexcept {
    const ZoneScope zone(step.trace, *this, x.n_rows());
    return do_run(step, x);
  }

 private:
  virtual Routing do_run(Step& step, Activation& x) noexcept = 0;
};

/// Routed experts in two phases, so that other devices can work between them.
class Experts : public Module {
 public:
  explicit Experts(Site site) : Module(std::move(site), "Experts") {}
  struct Ticket {
    std::optional<Activation> result;  // [n_rows, d_model], or what it will be made of
    Activation* x = nullptr;
    Routing routing;
    bool overwrite = false;  // collect() overwrites what it is given, where overwrites()
    std::optional<Activation> streamed = {};  // what a GPU makes of some experts, to be added
    GpuStep::Sending sending = {};            // with a GPU: `result` on its way there, to be added
  };
  Ticket submit(Step& step, Activation& x, Routing& routing) noexcept {
    const ZoneScope zone(hands_on() ? nullptr : step.trace, *this, x.n_rows());
    return do_submit(step, x, routing);
  }
  virtual void collect(Step& step, Ticket& ticket, Activation& accumulate_into) noexcept = 0;
  /// Whether submit() computes on the CPU, while GPUs go on.
  virtual bool on_cpu() const { return false; }
  virtual bool overwrites() const { return false; }
  /// The GPU that may compute experts of the CPU when many rows come (expert_stream.h).
  virtual std::optional<int> streams_to() const { return {}; }
  /// How many of them are in the memory of that GPU too (expert_cache.h).
  virtual std::int64_t n_on_gpu() const { return 0; }
  /// Whether the GPU computes this one in this step, though on_cpu().
  virtual bool is_on_gpu(std::int32_t) const { return false; }
  /// How often each was chosen since the model was opened, [n_experts]; empty: not counted, as on
  /// GPUs. Rehearsals and measurements do not count.
  virtual std::span<const std::uint64_t> uses() const { return {}; }
  /// Where the packed weights lie, for benches that read the same pages; empty: not in host memory.
  virtual std::vector<std::span<const std::byte>> packed_memory() const { return {}; }

 private:
  virtual Ticket do_submit(Step& step, Activation& x, Routing& routing) noexcept = 0;
};

/// Dense ("Mlp") or sparse ("Moe") feed-forward block: delta = mlp(x).
class Mlp : public Module {
 public:
  Mlp(Site site, std::string_view kind) : Module(std::move(site), kind) {}
  void run(Step& step, Activation& x, Activation& delta) noexcept {
    const ZoneScope zone(step.trace, *this, x.n_rows());
    do_run(step, x, delta);
  }

 private:
  virtual void do_run(Step& step, Activation& x, Activation& delta) noexcept = 0;
};

class DecoderLayer : public Module {
 public:
  explicit DecoderLayer(Site site) : Module(std::move(site), "DecoderLayer") {}
  virtual tensor::KvLayerSpec state_spec() const = 0;
  /// residual += pending delta; leaves this layer's last delta in `delta`. has_delta: delta holds
  /// one.
  void run(Step& step, std::int64_t layer, Activation& residual, Activation& delta,
           bool has_delta) noexcept {
    const ZoneScope zone(step.trace, *this, residual.n_rows());
    do_run(step, layer, residual, delta, has_delta);
  }

 private:
  virtual void do_run(Step& step, std::int64_t layer, Activation& residual, Activation& delta,
                      bool has_delta) noexcept = 0;
};

class Model : public Module {
 public:
  explicit Model(Site site) : Module(std::move(site), "Model") {}
  virtual std::vector<tensor::KvLayerSpec> state_spec() const = 0;
  virtual std::int64_t vocab_size() const = 0;
  /// logits [batch.logit_rows.size(), vocab_size].
  void run(Step& step, MatrixF logits) noexcept {
    const ZoneScope zone(step.trace, *this, step.n_rows());
    do_run(step, logits);
  }

 private:
  virtual void do_run(Step& step, MatrixF logits) noexcept = 0;
};

}  // namespace kt::operators
