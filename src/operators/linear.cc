// Linears: weights packed for the best dot kernel of their format on the CPU, or for a GPU's. The
// format is the file's (KLinearCPUInfer, KLinearGPU, KLinearFP8) or what the operator makes of it
// at load: floats (KLinearTorch), 8 bits per row (KLinearQ8), groups of 4 or 8 bits (KLinearMarlin,
// VLinearMarlin).
#include <algorithm>
#include <array>

#include "operators/gpu_weights.h"
#include "operators/makers.h"
#include "operators/phased.h"
#include "operators/row_ops.h"

namespace kt::operators {
namespace {

// Plain CPU products, as one parallel region.
void multiply(Step& step, Activation& x, std::span<const LinearCall> calls) noexcept {
  constexpr std::size_t kMax = 8;
  KT_CHECK(calls.size() <= kMax);
  std::array<backend::GemmCall, kMax> merged;
  std::size_t n_merged = 0;
  for (const LinearCall& call : calls) {
    const backend::PackedMatrix& matrix = *call.linear->packed();
    merged[n_merged++] = {&matrix, x.rows_for(matrix, step), x.n_rows(), call.linear->bias(),
                          call.out->write()};
  }
  backend::gemm(step.cpu, {merged.data(), n_merged});
}

using kernels::cuda::SiblingsArgs;

// Products on a GPU; without cuBLASLt a few rows at a time.
void multiply_on(GpuStep& gpu, const char* who, SiblingsArgs args) noexcept {
  kernels::cuda::GemmArgs* const products = args.products;
  const std::int64_t m = products->m;
  const std::int64_t step =
      gpu.gpu().blas() == nullptr ? std::min(m, kernels::cuda::kDirectRows) : m;
  products->m = step;
  products->workspace_bytes = gpu.gpu().api().gemm_siblings_workspace(args, gpu.gpu().info());
  products->workspace = gpu.allocate(products->workspace_bytes);
  for (std::int64_t done = 0; done < m; done += products->m) {
    products->m = std::min(step, m - done);
    gpu.run(who, [&](auto& k, auto stream) {
      return k.gemm_siblings(args, gpu.gpu().info(), gpu.gpu().blas(), stream);
    });
    const auto past = [&](std::int64_t stride, GpuType type) {
      return static_cast<std::size_t>(products->m * stride) * type_bytes(type);
    };
    products->x =
        static_cast<const std::byte*>(products->x) + past(products->x_stride, products->x_type);
    for (int i = 0; i < args.count; ++i) {
      kernels::cuda::GemmArgs& product = products[i];
      product.y = static_cast<std::byte*>(product.y) + past(product.y_stride, product.y_type);
    }
  }
}

// Up to kMaxSiblings plain GPU products, all on one GPU.
void multiply_on_gpu(Step& step, Activation& x, std::span<const LinearCall> calls) noexcept {
  GpuStep& gpu = step.gpu(calls.front().linear->gpu_product().gpu);
  const std::size_t mark = gpu.mark();
  SiblingsArgs args;
  const void* rows = read_bf16(gpu, x);
  for (const LinearCall& call : calls) {
    const Linear::GpuProduct product = call.linear->gpu_product();
    kernels::cuda::GemmArgs& to = args.products[args.count++];
    to.w = product.w;
    to.bias = product.bias;
    to.x = rows;
    to.x_stride = product.w.k;
    to.m = x.n_rows();
    to.y = call.out->write_on(gpu);
    to.y_type = call.out->gpu_type();
    to.y_stride = product.w.n;
  }
  multiply_on(gpu, calls.front().linear->path().c_str(), args);
  gpu.release(mark);
}

// What linears with weights of the file share.
class WeightLinear : public Linear {
 public:
  WeightLinear(const Builder& at, const LinearSpec& spec, const Recode& recode)
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

 protected:
  WeightSpec weight_spec() const { return {names_.weight, {n_out(), n_in()}}; }
  std::vector<float> load_bias(Loader& loader) const {
    return names_.bias.empty() ? std::vector<float>() : loader.floats({names_.bias, {n_out()}});
  }
  LinearSpec names_;
  Recode recode_;
};

class CpuLinear : public WeightLinear {
 public:
  using WeightLinear::WeightLinear;

  void load(Loader& loader) override {
    matrix_ = loader.matrix(weight_spec(), recode_);
    bias_ = load_bias(loader);
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

 private:
  void do_run(Step& step, Activation& x, Activation& out) noexcept override {
    const LinearCall call{this, &out};
    multiply(step, x, {&call, 1});
  }

  backend::PackedMatrix matrix_;
  std::vector<float> bias_;
};

class GpuLinear : public WeightLinear {
 public:
  GpuLinear(const Builder& at, const LinearSpec& spec, const Recode& recode)
      : WeightLinear(at, spec, recode), gpu_(*at.gpu()) {}

  void check(const io::WeightSource& source) const override {
    WeightLinear::check(source);
    const io::TensorInfo& info = require_tensor(source, weight_spec());
    if (gpu_multiplies(recode_.target(info.format))) return;
    fail(
        ErrorCode::kUnsupported, path(),
        "GPUs have no kernel for {}, which '{}' is stored in: place it on the CPU or requantise it "
        "with KLinearMarlin",
        formats::traits(info.format).name, info.stored_name);
  }

  void load(Loader& loader) override {
    backend::Gpu& gpu = loader.gpu(gpu_);
    matrix_ = gpu_matrices(loader, gpu, {weight_spec()}, recode_);
    if (const std::vector<float> bias = load_bias(loader); !bias.empty())
      bias_ = gpu_floats(gpu, bias);
  }

  void unload() override {
    matrix_ = {};
    bias_ = nullptr;
  }

  std::uint64_t weight_bytes() const override {
    return matrix_.bytes + (bias_ == nullptr ? 0 : n_out() * sizeof(float));
  }
  std::string weight_format() const override {
    return matrix_.bytes == 0 ? std::string()
                              : std::string(formats::traits(matrix_.first.format).name);
  }
  std::string kernel_name() const override { return "cuda gemm"; }
  GpuProduct gpu_product() const override { return {gpu_, matrix_.first, bias_}; }

 private:
  void do_run(Step& step, Activation& x, Activation& out) noexcept override {
    const LinearCall call{this, &out};
    multiply_on_gpu(step, x, {&call, 1});
  }

  int gpu_;
  GpuMatrices matrix_;
  const float* bias_ = nullptr;
};

template <class Cpu, class Gpu>
std::unique_ptr<Linear> make_for(const Builder& at, const LinearSpec& spec, const Recode& recode) {
  if (at.gpu()) return std::make_unique<Gpu>(at, spec, recode);
  return std::make_unique<Cpu>(at, spec, recode);
}

// KLinearFP8: insists on block-FP8 weights.
template <class Base>
class Fp8Linear : public Base {
 public:
  using Base::Base;
  void check(const io::WeightSource& source) const override {
    Base::check(source);
    const io::TensorInfo& info = require_tensor(source, this->weight_spec());
    if (info.format == tensor::Format::kF8_E4M3_B128) return;
    fail(ErrorCode::kUnsupported, this->path(),
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
    total += static_cast<double>(c.linear->weight_bytes());
  }
  for (const LinearCall& c : calls) {
    if (total == 0.0) continue;
    const auto at = [&] {
      return begin + static_cast<std::int64_t>(done / total * static_cast<double>(end - begin));
    };
    const auto* phased = dynamic_cast<const Phased*>(c.linear);
    const Module* ran = phased != nullptr ? &phased->active() : c.linear;
    Trace::Zone zone{ran, at(), 0, c.out->n_rows()};
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
  return make_for<CpuLinear, GpuLinear>(at, spec, Recode{});
}

std::unique_ptr<Linear> make_dense_linear(const Builder& at, const LinearSpec& spec) {
  return make_for<CpuLinear, GpuLinear>(at, spec, Recode{Recode::Kind::kDense});
}

std::unique_ptr<Linear> make_q8_linear(const Builder& at, const LinearSpec& spec) {
  return make_for<CpuLinear, GpuLinear>(at, spec, Recode{Recode::Kind::kGroup, 8, -1});
}

std::unique_ptr<Linear> make_group_linear(const Builder& at, const LinearSpec& spec) {
  return make_for<CpuLinear, GpuLinear>(at, spec, group_recode(at));
}

std::unique_ptr<Linear> make_fp8_linear(const Builder& at, const LinearSpec& spec) {
  return make_for<Fp8Linear<CpuLinear>, Fp8Linear<GpuLinear>>(at, spec, {});
}

void run_siblings(Step& step, Activation& x, std::span<const LinearCall> calls) noexcept {
  constexpr std::size_t kMax = 8;
  KT_CHECK(calls.size() <= kMax);
  std::array<LinearCall, kMax> merged;
  std::array<bool, kMax> done{};
  for (std::size_t i = 0; i < calls.size(); ++i) {
    if (done[i]) continue;
    const bool packed = calls[i].linear->packed() != nullptr;
    const int gpu = calls[i].linear->gpu_product().gpu;
    if (!packed && gpu < 0) {
      calls[i].linear->run(step, x, *calls[i].out);
      continue;
    }
    std::size_t n = 0;
    const std::size_t most = packed ? kMax : std::size_t{kernels::cuda::kMaxSiblings};
    for (std::size_t j = i; j < calls.size() && n < most; ++j) {
      const Linear& linear = *calls[j].linear;
      if (packed ? linear.packed() == nullptr : linear.gpu_product().gpu != gpu) continue;
      merged[n++] = calls[j];
      done[j] = true;
    }
    const std::span<const LinearCall> together(merged.data(), n);
    const std::int64_t begin = step.trace != nullptr ? step.trace->now() : 0;
    if (packed) {
      multiply(step, x, together);
    } else {
      multiply_on_gpu(step, x, together);
    }
    if (step.trace != nullptr) trace_merged(*step.trace, together, begin);
  }
}

}  // namespace kt::operators
