// KLinearCPUInfer: a linear on the CPU, weights packed for the best dot kernel of their own format.
#include <array>

#include "operators/cpu_operators.h"

namespace kt::operators {
namespace {

class CpuLinear : public Linear {
 public:
  CpuLinear(std::string path, std::int64_t n_out, std::int64_t n_in, const LinearWeights& names)
      : Linear(std::move(path), "KLinearCPUInfer", n_out, n_in), names_(names) {}

  std::vector<WeightSpec> weights() const override {
    std::vector<WeightSpec> specs;
    if (!names_.shared_weight) specs.push_back(weight_spec());
    if (!names_.bias.empty()) specs.push_back({names_.bias, {n_out()}});
    return specs;
  }

  void load(Loader& loader) override {
    matrix_ = loader.matrix(weight_spec());
    if (!names_.bias.empty()) bias_ = loader.floats({names_.bias, {n_out()}});
  }

  void run(Step& step, Activation& x, MatrixF out) noexcept override {
    const LinearCall call{this, out};
    run_siblings(step, x, {&call, 1});
  }

  const backend::PackedMatrix* packed() const override { return &matrix_; }
  const float* bias() const override { return bias_.empty() ? nullptr : bias_.data(); }
  std::uint64_t weight_bytes() const override {
    return matrix_.bytes() + bias_.size() * sizeof(float);
  }
  std::string weight_format() const override {
    return std::string(formats::traits(matrix_.format()).name);
  }

 private:
  WeightSpec weight_spec() const { return {names_.weight, {n_out(), n_in()}}; }
  LinearWeights names_;
  backend::PackedMatrix matrix_;
  std::vector<float> bias_;
};

}  // namespace

std::unique_ptr<Linear> make_cpu_linear(std::string path, std::int64_t n_out, std::int64_t n_in,
                                        const LinearWeights& names) {
  return std::make_unique<CpuLinear>(std::move(path), n_out, n_in, names);
}

void run_siblings(Step& step, Activation& x, std::span<const LinearCall> calls) noexcept {
  constexpr std::size_t kMax = 8;
  KT_CHECK(calls.size() <= kMax);
  std::array<backend::GemmCall, kMax> merged;
  std::size_t n_merged = 0;
  for (const LinearCall& call : calls) {
    const backend::PackedMatrix* matrix = call.linear->packed();
    if (matrix == nullptr) {
      call.linear->run(step, x, call.out);
      continue;
    }
    merged[n_merged++] = {matrix, x.rows_for(*matrix, step.cpu, step.arena), x.n_rows(),
                          call.linear->bias(), call.out};
  }
  if (n_merged != 0) backend::gemm(step.cpu, {merged.data(), n_merged});
}

}  // namespace kt::operators
