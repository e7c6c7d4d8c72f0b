// RMSNorm: x / sqrt(mean(x²) + eps) · weight (arXiv 1910.07467), with the residual sum before it.
#include "operators/gpu_weights.h"
#include "operators/makers.h"
#include "operators/parallel.h"

namespace kt::operators {
namespace {

class RmsNorm : public Norm {
 public:
  RmsNorm(const Builder& at, const NormSpec& spec)
      : Norm(at.site()), dim_(spec.dim), eps_(static_cast<float>(spec.eps)) {}

  std::vector<WeightSpec> weights() const override { return {{path() + ".weight", {dim_}}}; }
  void load(Loader& loader) override { weight_ = loader.floats(weights().front()); }

  void run_vectors(Step& step, float* x, std::int64_t n_vectors,
                   std::int64_t stride) noexcept override {
    for (std::int64_t i = 0; i < n_vectors; ++i) {
      float* v = x + i * stride;
      step.cpu.elementwise->rms_norm(v, weight_.data(), eps_, dim_, v);
    }
  }

  void run_vectors(Step& step, Activation& x) noexcept override {
    const MatrixF rows = x.update();
    run_vectors(step, rows.data, rows.n_rows * rows.n_cols / dim_, dim_);
  }

  std::uint64_t weight_bytes() const override { return weight_.size() * sizeof(float); }
  std::string weight_format() const override { return "F32"; }

 protected:
  std::int64_t dim_;
  float eps_;
  std::vector<float> weight_;

 private:
  void do_run(Step& step, Activation& residual, Activation* delta,
              Activation& out) noexcept override {
    const auto& kernels = *step.cpu.elementwise;
    const ConstMatrixF x = residual.f32();
    const MatrixF y = out.write();
    for_summed_rows(step, residual, delta, [&](std::int64_t r) {
      kernels.rms_norm(x.row(r), weight_.data(), eps_, dim_, y.row(r));
    });
  }
};

// Keeps its weights on the host too, where CPU attention norms its heads.
class GpuRmsNorm : public RmsNorm {
 public:
  GpuRmsNorm(const Builder& at, const NormSpec& spec) : RmsNorm(at, spec), gpu_(*at.gpu()) {}

  void load(Loader& loader) override {
    RmsNorm::load(loader);
    on_gpu_ = gpu_floats(loader.gpu(gpu_), weight_);
  }

  using RmsNorm::run_vectors;
  void run_vectors(Step& step, Activation& x) noexcept override {
    GpuStep& gpu = step.gpu(gpu_);
    void* rows = x.update_on(gpu);
    const std::int64_t n = x.n_rows() * x.n_cols() / dim_;
    launch(gpu, {rows,
                 x.gpu_type(),
                 nullptr,
                 {},
                 on_gpu_,
                 rows,
                 x.gpu_type(),
                 n,
                 dim_,
                 dim_,
                 dim_,
                 dim_,
                 eps_});
  }

 private:
  void do_run(Step& step, Activation& residual, Activation* delta,
              Activation& out) noexcept override {
    GpuStep& gpu = step.gpu(gpu_);
    const void* pending = delta == nullptr ? nullptr : delta->read_on(gpu);
    void* x = delta == nullptr ? const_cast<void*>(residual.read_on(gpu)) : residual.update_on(gpu);
    const GpuType delta_type = delta == nullptr ? GpuType::kF32 : delta->gpu_type();
    launch(gpu, {x, residual.gpu_type(), pending, delta_type, on_gpu_, out.write_on(gpu),
                 out.gpu_type(), residual.n_rows(), dim_, dim_, dim_, dim_, eps_});
  }

  void launch(GpuStep& gpu, const kernels::cuda::NormArgs& args) const noexcept {
    gpu.run(path().c_str(), [&](auto& k, auto stream) { return k.add_rms_norm(args, stream); });
  }

  int gpu_;
  const float* on_gpu_ = nullptr;
};

}  // namespace

std::unique_ptr<Norm> make_rms_norm(const Builder& at, const NormSpec& spec) {
  if (at.gpu()) return std::make_unique<GpuRmsNorm>(at, spec);
  return std::make_unique<RmsNorm>(at, spec);
}

}  // namespace kt::operators
