// Linears on the CPU: weights packed for the best dot kernel of their format, which is the file's
// (KLinearCPUInfer, KLinearFP8) or what the operator makes of them at load: floats (KLinearTorch),
// 8 bits per row (KLinearQ8), groups of 4 or 8 bits (KLinearMarlin, VLinearMarlin).
#include <array>

#include "operators/makers.h"
#include "operators/phased.h"

namespace kt::operators {
namespace {

// The plain CPU products among `calls`, as one parallel region.
void multiply(Step& step, Activation& x, std::span<const LinearCall> calls) noexcept {
  constexpr std::size_t kMax = 8;
  KT_CHECK(calls.size() <= kMax);
  std::array<backend::GemmCall, kMax> merged;
  std::size_t n_merged = 0;
  for (const LinearCall& call : calls) {
    const backend::PackedMatrix* matrix = call.linear->packed();
    if (matrix == nullptr) continue;
    merged[n_merged++] = {matrix, x.rows_for(*matrix, step.cpu, step.arena), x.n_rows(),
                          call.linear->bias(), call.out};
  }
  if (n_merged != 0) backend::gemm(step.cpu, {merged.data(), n_merged});
}

class CpuLinear : public Linear {
 public:
  CpuLinear(const Builder& at, const LinearSpec& spec, const Recode& recode)
      : Linear(at.site(), spec.n_out, spec.n_in), names_(spec), recode_(recode) {}

  std::vector<WeightSpec> weights() const override {
    std::vector<WeightSpec> specs;
    if (!names_.shared_weight) specs.push_back(weight_spec());
    if (!names_.bias.empty()) specs.push_back({names_.bias, {n_out()}});
    return specs;
  }

  void check(const io::WeightSource& source) const override {
    check_recode(source, require_tensor(source, weight_spec()), recode_);
    if (!names_.bias.empty()) require_tensor(source, {names_.bias, {n_out()}});
  }

  Kept kept(const io::WeightSource& source, backend::ActPolicy) const override {
    Kept kept;
    kept.add(source, weight_spec(), recode_);
    if (names_.shared_weight) kept.file_bytes = 0;
    if (!names_.bias.empty()) kept.add(source, {names_.bias, {n_out()}});
    return kept;
  }

  void load(Loader& loader) override {
    matrix_ = loader.matrix(weight_spec(), recode_);
    if (!names_.bias.empty()) bias_ = loader.floats({names_.bias, {n_out()}});
  }

  void unload() override {
    matrix_ = {};
    bias_ = {};
  }

  const backend::PackedMatrix* packed() const override { return &matrix_; }
  const float* bias() const override { return bias_.empty() ? nullptr : bias_.data(); }
  std::uint64_t weight_bytes() const override {
    return matrix_.bytes() + bias_.size() * sizeof(float);
  }
  std::string weight_format() const override {
    return matrix_.empty() ? std::string() : std::string(formats::traits(matrix_.format()).name);
  }
  std::string kernel_name() const override {
    return matrix_.empty() ? std::string() : matrix_.kernel().name;
  }
  bool batches_differ() const override { return matrix_.batch_rows_each() > 0; }

 protected:
  WeightSpec weight_spec() const { return {names_.weight, {n_out(), n_in()}}; }

 private:
  void do_run(Step& step, Activation& x, MatrixF out) noexcept override {
    const LinearCall call{this, out};
    multiply(step, x, {&call, 1});
  }

  LinearSpec names_;
  Recode recode_;
  backend::PackedMatrix matrix_;
  std::vector<float> bias_;
};

// KLinearFP8: insists on block-FP8 weights.
class Fp8Linear : public CpuLinear {
 public:
  Fp8Linear(const Builder& at, const LinearSpec& spec) : CpuLinear(at, spec, {}) {}
  void check(const io::WeightSource& source) const override {
    CpuLinear::check(source);
    const io::TensorInfo& info = require_tensor(source, weight_spec());
    if (info.format == tensor::Format::kF8_E4M3_B128) return;
    fail(ErrorCode::kUnsupported, path(),
         "KLinearFP8 wants weights stored as block FP8; '{}' is {}: use KLinearMarlin or "
         "KLinearTorch",
         info.stored_name, formats::traits(info.format).name);
  }
};

// Time of merged linears, shared out by weight bytes.
void trace_merged(Trace& trace, std::span<const LinearCall> calls, std::int64_t begin) noexcept {
  const std::int64_t end = trace.now();
  double total = 0.0, done = 0.0;
  for (const LinearCall& c : calls) {
    if (c.linear->packed() != nullptr) total += static_cast<double>(c.linear->weight_bytes());
  }
  for (const LinearCall& c : calls) {
    if (c.linear->packed() == nullptr || total == 0.0) continue;
    const auto at = [&] {
      return begin + static_cast<std::int64_t>(done / total * static_cast<double>(end - begin));
    };
    const auto* phased = dynamic_cast<const Phased*>(c.linear);
    const Module* ran = phased != nullptr ? &phased->active() : c.linear;
    Trace::Zone zone{ran, at(), 0, c.out.n_rows};
    done += static_cast<double>(c.linear->weight_bytes());
    zone.end = at();
    trace.add(zone);
  }
}

}  // namespace

Recode group_recode(const Builder& at) {
  if (at.flag("act_order", false)) {
    fail(
        ErrorCode::kUnsupported, at.path(),
        "act_order: requantising at load has no activation order; leave it out or set it to false");
  }
  if (!at.flag("is_k_full", true)) {
    fail(ErrorCode::kUnsupported, at.path(), "is_k_full: false is for weights split over devices");
  }
  return {Recode::Kind::kGroup, at.whole("num_bits", 4), at.whole("group_size", 64)};
}

std::unique_ptr<Linear> make_stored_linear(const Builder& at, const LinearSpec& spec) {
  return std::make_unique<CpuLinear>(at, spec, Recode{});
}

std::unique_ptr<Linear> make_dense_linear(const Builder& at, const LinearSpec& spec) {
  return std::make_unique<CpuLinear>(at, spec, Recode{Recode::Kind::kDense});
}

std::unique_ptr<Linear> make_q8_linear(const Builder& at, const LinearSpec& spec) {
  return std::make_unique<CpuLinear>(at, spec, Recode{Recode::Kind::kGroup, 8, -1});
}

std::unique_ptr<Linear> make_group_linear(const Builder& at, const LinearSpec& spec) {
  return std::make_unique<CpuLinear>(at, spec, group_recode(at));
}

std::unique_ptr<Linear> make_fp8_linear(const Builder& at, const LinearSpec& spec) {
  return std::make_unique<Fp8Linear>(at, spec);
}

void run_siblings(Step& step, Activation& x, std::span<const LinearCall> calls) noexcept {
  const std::int64_t begin = step.trace != nullptr ? step.trace->now() : 0;
  multiply(step, x, calls);
  if (step.trace != nullptr) trace_merged(*step.trace, calls, begin);
  for (const LinearCall& call : calls) {
    if (call.linear->packed() == nullptr) call.linear->run(step, x, call.out);
  }
}

}  // namespace kt::operators
