// KMoEGate: scores every expert and picks the best per row.
//   softmax:  p = softmax(x·Wᵀ); top-k of p, of the best groups only when n_groups > 1
//   (DeepSeek-V2) sigmoid:  s = sigmoid(x·Wᵀ); top-k of s + correction bias inside the best groups;
//   weights are s
//             (DeepSeek-V3, arXiv 2412.19437 §2.1.2)
// Ties go to the lower expert id.
#include <algorithm>
#include <cmath>
#include <limits>

#include "operators/gpu_weights.h"
#include "operators/makers.h"
#include "operators/parallel.h"
#include "operators/row_ops.h"

namespace kt::operators {
namespace {

class CpuGate : public Gate {
 public:
  CpuGate(const Builder& at, const GateSpec& spec)
      : Gate(at.site()),
        moe_(spec.config.moe),
        product_(at.product(moe_.n_experts, spec.config.d_model)),
        gpu_(at.gpu()) {}

  std::vector<WeightSpec> weights() const override {
    std::vector<WeightSpec> specs = product_->weights();
    if (moe_.correction_bias) specs.push_back(bias_spec());
    return specs;
  }

  void load(Loader& loader) override {
    product_->load(loader);
    if (moe_.correction_bias) bias_ = loader.floats(bias_spec());
    if (gpu_ && moe_.correction_bias) bias_on_gpu_ = gpu_floats(loader.gpu(*gpu_), bias_);
  }

  void check(const io::WeightSource& source) const override {
    product_->check(source);
    if (moe_.correction_bias) require_tensor(source, bias_spec());
  }

  Kept kept(const io::WeightSource& source, backend::ActPolicy act) const override {
    Kept kept = product_->kept(source, act);
    if (moe_.correction_bias) kept.add(source, bias_spec());
    return kept;
  }

  std::uint64_t weight_bytes() const override {
    return product_->weight_bytes() + bias_.size() * sizeof(float);
  }
  std::string weight_format() const override { return product_->weight_format(); }
  std::string kernel_name() const override { return product_->kernel_name(); }
  bool batches_differ() const override { return product_->batches_differ(); }

 private:
  WeightSpec bias_spec() const { return {path() + ".e_score_correction_bias", {moe_.n_experts}}; }
  Routing do_run(Step& step, Activation& x) noexcept override {
    const std::int64_t n = x.n_rows();
    Activation scored(step, n, moe_.n_experts);
    if (gpu_ && n == 1 && product_->gpu_product().gpu == *gpu_)
      return score_and_route_on(step.gpu(*gpu_), x, scored);
    product_->run(step, x, scored);
    if (gpu_) return route_on(step.gpu(*gpu_), scored);
    const MatrixF choice = step.arena.matrix(n, moe_.n_experts);
    Routing routing{moe_.n_active, step.arena.allocate<std::int32_t>(n * moe_.n_active),
                    step.arena.allocate<float>(n * moe_.n_active)};
    const MatrixF scores = scored.update();
    for_rows(step, n, 16 * moe_.n_experts, [&](std::int64_t r) {
      route(step, scores.row(r), choice.row(r), routing.ids + r * moe_.n_active,
            routing.weights + r * moe_.n_active);
    });
    return routing;
  }

  Routing route_on(GpuStep& gpu, Activation& scored) noexcept {
    const Routing routing = Routing::on(gpu, scored.n_rows(), moe_.n_active);
    const kernels::cuda::RouteArgs args = route_args(scored.read_on(gpu), routing, scored.n_rows());
    gpu.run(path().c_str(), [&](auto& k, auto stream) { return k.route(args, stream); });
    return routing;
  }

  // One row whose product is a plain one of this GPU: the two are one call, often one launch.
  Routing score_and_route_on(GpuStep& gpu, Activation& x, Activation& scored) noexcept {
    const Routing routing = Routing::on(gpu, x.n_rows(), moe_.n_active);
    const std::size_t mark = gpu.mark();
    const Linear::GpuProduct linear = product_->gpu_product();
    kernels::cuda::RouterArgs args;
    kernels::cuda::GemmArgs& product = args.product;
    product.w = linear.w;
    product.bias = linear.bias;
    product.x = read_bf16(gpu, x);
    product.x_stride = linear.w.k;
    product.m = x.n_rows();
    product.y = scored.write_on(gpu);
    product.y_stride = linear.w.n;
    product.workspace_bytes =
        gpu.gpu().api().gemm_workspace(product.w, product.m, gpu.gpu().info());
    product.workspace = gpu.allocate(product.workspace_bytes);
    args.route = route_args(product.y, routing, product.m);
    gpu.run(path().c_str(), [&](auto& k, auto stream) {
      return k.score_and_route(args, gpu.gpu().info(), gpu.gpu().blas(), stream);
    });
    gpu.release(mark);
    return routing;
  }

  kernels::cuda::RouteArgs route_args(const void* scores, const Routing& routing,
                                      std::int64_t n) const noexcept {
    kernels::cuda::RouteArgs args;
    args.scores = static_cast<const float*>(scores);
    args.bias = bias_on_gpu_;
    args.m = n;
    args.n_experts = moe_.n_experts;
    args.n_active = moe_.n_active;
    args.n_groups = std::max<std::int64_t>(moe_.n_groups, 1);
    args.n_groups_used = std::max<std::int64_t>(moe_.n_groups_used, 1);
    args.sigmoid = moe_.score == io::RouterScore::kSigmoid;
    args.group_top2 = moe_.group_top2;
    args.normalize = moe_.normalize_weights;
    args.weight_scale = static_cast<float>(moe_.weight_scale);
    args.ids = routing.gpu_ids;
    args.weights = routing.gpu_weights;
    return args;
  }

  void route(Step& step, float* scores, float* choice, std::int32_t* ids,
             float* weights) const noexcept {
    const std::int64_t n = moe_.n_experts;
    if (moe_.score == io::RouterScore::kSoftmax) {
      step.cpu.elementwise->softmax(scores, n);
    } else {
      for (std::int64_t e = 0; e < n; ++e) scores[e] = 1.0f / (1.0f + std::exp(-scores[e]));
    }
    for (std::int64_t e = 0; e < n; ++e) {
      choice[e] = scores[e] + (bias_.empty() ? 0.0f : bias_[static_cast<std::size_t>(e)]);
    }
    if (moe_.n_groups > 1) drop_groups(choice);
    float sum = 0.0f;
    for (std::int64_t i = 0; i < moe_.n_active; ++i) {
      const std::int64_t best = std::max_element(choice, choice + n) - choice;
      ids[i] = static_cast<std::int32_t>(best);
      weights[i] = scores[best];
      sum += scores[best];
      choice[best] = -std::numeric_limits<float>::infinity();
    }
    const float divisor = moe_.normalize_weights ? sum + 1e-20f : 1.0f;
    for (std::int64_t i = 0; i < moe_.n_active; ++i) {
      weights[i] = weights[i] / divisor * static_cast<float>(moe_.weight_scale);
    }
  }

  // Group-limited routing: experts outside the best n_groups_used groups cannot be chosen.
  void drop_groups(float* choice) const noexcept {
    constexpr float kNever = -std::numeric_limits<float>::infinity();
    constexpr std::int64_t kMaxGroups = 64;
    const std::int64_t size = moe_.n_experts / moe_.n_groups;
    float group[kMaxGroups];
    for (std::int64_t g = 0; g < moe_.n_groups; ++g) {
      float first = kNever, second = kNever;
      for (std::int64_t e = g * size; e < (g + 1) * size; ++e) {
        if (choice[e] > first) {
          second = first;
          first = choice[e];
        } else if (choice[e] > second) {
          second = choice[e];
        }
      }
      group[g] = moe_.group_top2 ? first + second : first;
    }
    bool keep[kMaxGroups] = {};
    for (std::int64_t i = 0; i < moe_.n_groups_used; ++i) {
      const std::int64_t best = std::max_element(group, group + moe_.n_groups) - group;
      keep[best] = true;
      group[best] = kNever;
    }
    for (std::int64_t g = 0; g < moe_.n_groups; ++g) {
      if (!keep[g]) std::fill(choice + g * size, choice + (g + 1) * size, kNever);
    }
  }

  io::MoeConfig moe_;
  std::unique_ptr<Linear> product_;
  std::optional<int> gpu_;
  std::vector<float> bias_;
  const float* bias_on_gpu_ = nullptr;
};

}  // namespace

std::unique_ptr<Gate> make_gate(const Builder& at, const GateSpec& spec) {
  if (at.flag("use_quant", false)) {
    fail(ErrorCode::kUnsupported, at.path(),
         "use_quant: true is not possible, router weights are used as the file stores them");
  }
  return std::make_unique<CpuGate>(at, spec);
}

}  // namespace kt::operators
