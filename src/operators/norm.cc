// RMSNorm: x / sqrt(mean(x²) + eps) · weight (arXiv 1910.07467), with the residual sum before it.
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

  std::uint64_t weight_bytes() const override { return weight_.size() * sizeof(float); }
  std::string weight_format() const override { return "F32"; }

 private:
  void do_run(Step& step, MatrixF residual, const ConstMatrixF* delta,
              MatrixF out) noexcept override {
    const auto& kernels = *step.cpu.elementwise;
    for_rows(step, residual.n_rows, dim_, [&](std::int64_t r) {
      if (delta != nullptr) kernels.add(delta->row(r), dim_, residual.row(r));
      kernels.rms_norm(residual.row(r), weight_.data(), eps_, dim_, out.row(r));
    });
  }

  std::int64_t dim_;
  float eps_;
  std::vector<float> weight_;
};

}  // namespace

std::unique_ptr<Norm> make_rms_norm(const Builder& at, const NormSpec& spec) {
  return std::make_unique<RmsNorm>(at, spec);
}

}  // namespace kt::operators
