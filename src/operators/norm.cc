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
    kernels::cuda::NormArgs args;
    args.residual = args.out = x.update_on(gpu);
    args.residual_type = args.out_type = x.gpu_type();
    launch(gpu, args, x.n_rows() * x.n_cols() / dim_);
  }

  OnGpu on(const GpuStep& gpu) const override {
    return gpu.index() == gpu_ ? OnGpu{on_gpu_, eps_} : OnGpu{};
  }

 private:
  void do_run(Step& step, Activation& residual, Activation* delta,
              Activation& out) noexcept override {
    GpuStep& gpu = step.gpu(gpu_);
    kernels::cuda::NormArgs args;
    if (delta != nullptr) {
      args.delta = delta->read_on(gpu);
      args.delta_type = delta->gpu_type();
      args.residual = residual.update_on(gpu);
    } else {
      args.residual = const_cast<void*>(residual.read_on(gpu));  // not written then
    }
    args.residual_type = residual.gpu_type();
    args.out = out.write_on(gpu);
    args.out_type = out.gpu_type();
    launch(gpu, args, residual.n_rows());
  }

  // m vectors, one after the other.
  void launch(GpuStep& gpu, kernels::cuda::NormArgs& args, std::int64_t m) const noexcept {
    args.weight = on_gpu_;
    args.m = m;
    args.d = args.residual_stride = args.delta_stride = args.out_stride = dim_;
    args.eps = eps_;
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
