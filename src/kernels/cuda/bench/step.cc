#include "kernels/cuda/bench/step.h"

#include <fmt/format.h>

#include <functional>
#include <map>
#include <memory>
#include <random>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/gemm/gemm.h"
#include "kernels/cuda/moe/moe.h"
#include "kernels/cuda/moe/router.h"

namespace kt::kernels::cuda::bench {
namespace {

using formats::Format;

constexpr std::int64_t kWidth = 2048, kHeads = 32, kKvHeads = 4, kDim = 128, kExperts = 128,
                       kActive = 8, kHidden = 768;
constexpr int kLayers = 8;

struct Layer {
  Matrix q, k, v, o, router;
  ExpertMatrices gate, up, down;
};

class Step {
 public:
  Step(const DeviceInfo& device, std::int64_t keys) : device_(device), keys_(keys) {
    for (int i = 0; i < kLayers; ++i) {
      const Format more = i % 2 == 0 ? Format::kQ4_K : Format::kQ6_K;
      Layer layer;
      layer.q = matrix(Format::kQ4_K, kHeads * kDim, kWidth);
      layer.k = matrix(Format::kQ4_K, kKvHeads * kDim, kWidth);
      layer.v = matrix(more, kKvHeads * kDim, kWidth);
      layer.o = matrix(Format::kQ4_K, kWidth, kHeads * kDim);
      layer.router = matrix(Format::kF32, kExperts, kWidth);
      layer.gate = experts(Format::kQ4_K, kHidden, kWidth);
      layer.up = experts(Format::kQ4_K, kHidden, kWidth);
      layer.down = experts(more, kWidth, kHidden);
      layers_.push_back(layer);
    }
    const std::int64_t pages = (keys + kPageLen - 1) / kPageLen;
    cache_k_ = floats(pages * kPageLen * kKvHeads * kDim / 2);
    cache_v_ = floats(pages * kPageLen * kKvHeads * kDim / 2);
    std::vector<std::int32_t> table(static_cast<std::size_t>(pages));
    for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<std::int32_t>(i);
    pages_ = put(table);
    items_ = put(std::vector<SequenceItem>{{0, 1, static_cast<std::int32_t>(keys - 1), 0}});
    ones_ = put(std::vector<float>(kWidth, 1.0f));
    residual_ = put(std::vector<float>(kWidth, 0.5f));
    delta_ = put(std::vector<float>(kWidth, 0.25f));
    scores_ = floats(kExperts);
    weights_ = put(std::vector<float>(kActive, 0.125f));
    std::vector<std::int32_t> ids;
    for (int i = 0; i < kActive; ++i) ids.push_back(16 * i + 3);
    ids_ = put(ids);
    for (void** at : {&normed_, &q_, &k_, &v_, &mixed_}) *at = floats(kHeads * kDim);
    workspace_bytes_ = std::size_t{64} << 20;
    workspace_ = floats(static_cast<std::int64_t>(workspace_bytes_ / 4));
    set_launches();
  }

  /// In the order of the step.
  std::vector<std::pair<std::string, std::function<Status(const Layer&, Stream)>>> launches;
  const Layer& layer(int i) const { return layers_[static_cast<std::size_t>(i % kLayers)]; }
  double bytes() const {
    double sum = 0.0;
    for (const Layer& l : layers_) {
      for (const Matrix& m : {l.q, l.k, l.v, l.o, l.router})
        sum += static_cast<double>(packed_bytes(m.format, m.n, m.k));
      sum += kActive * (2.0 * static_cast<double>(packed_bytes(l.gate.format, kHidden, kWidth)) +
                        static_cast<double>(packed_bytes(l.down.format, kWidth, kHidden)));
    }
    return sum / kLayers;
  }

 private:
  void* floats(std::int64_t n) {
    memory_.push_back(std::make_unique<Buffer>(n * 4, true));
    return memory_.back()->get();
  }
  template <class T>
  T* put(const std::vector<T>& values) {
    auto* to = static_cast<T*>(floats(static_cast<std::int64_t>(values.size() * sizeof(T) / 4)));
    memory_.back()->upload(values);
    return to;
  }
  Matrix matrix(Format format, std::int64_t n, std::int64_t k) {
    return {format, floats(static_cast<std::int64_t>(packed_bytes(format, n, k) / 4)), n, k};
  }
  ExpertMatrices experts(Format format, std::int64_t n, std::int64_t k) {
    return {format, floats(kExperts * static_cast<std::int64_t>(packed_bytes(format, n, k) / 4))};
  }
  GemmArgs product(const Matrix& w, const void* x, void* y, Type type) const {
    GemmArgs args{w, x, Type::kBF16, w.k, 1, y, type, w.n};
    args.workspace = workspace_;
    args.workspace_bytes = workspace_bytes_;
    return args;
  }
  Status norm(Stream stream) const {
    return add_rms_norm({residual_, Type::kF32, delta_, Type::kF32, ones_, normed_, Type::kBF16, 1,
                         kWidth, kWidth, kWidth, kWidth, 1e-6f},
                        stream);
  }
  HeadsArgs heads() const {
    HeadsArgs args;
    args.q = q_;
    args.k = k_;
    args.v = v_;
    args.q_stride = kHeads * kDim;
    args.k_stride = args.v_stride = kKvHeads * kDim;
    args.n_heads = kHeads;
    args.n_kv_heads = kKvHeads;
    args.d = kDim;
    args.q_weight = args.k_weight = args.cos = args.sin = ones_;
    args.k_cache = {cache_k_, kKvHeads * kDim, kDim};
    args.v_cache = {cache_v_, kKvHeads * kDim, kDim};
    args.table = {pages_, 0};
    args.items = items_;
    args.n_items = args.max_item_rows = 1;
    return args;
  }
  Status attend(Stream stream) const {
    AttentionArgs args;
    args.q = q_;
    args.q_token_stride = kHeads * kDim;
    args.q_head_stride = kDim;
    args.k = {cache_k_, kKvHeads * kDim, kDim};
    args.v = {cache_v_, kKvHeads * kDim, kDim};
    args.table = {pages_, 0};
    args.items = items_;
    args.n_items = args.n_rows = args.max_item_rows = 1;
    args.max_keys = keys_;
    args.n_heads = kHeads;
    args.n_kv_heads = kKvHeads;
    args.dim_qk = args.dim_v = kDim;
    args.scale = 0.1f;
    args.split_keys = attention_split_keys(args, device_);
    args.out = mixed_;
    args.workspace = workspace_;
    args.workspace_bytes = workspace_bytes_;
    return attention_of_heads(heads(), args, stream);
  }
  Status experts_of(const Layer& layer, Stream stream) const {
    MoeArgs args;
    args.gate = layer.gate;
    args.up = layer.up;
    args.down = layer.down;
    args.n_experts = kExperts;
    args.d_model = args.x_stride = args.y_stride = kWidth;
    args.d_ff = kHidden;
    args.x = normed_;
    args.m = 1;
    args.n_active = kActive;
    args.ids = ids_;
    args.weights = weights_;
    args.y = delta_;
    args.workspace = workspace_;
    args.workspace_bytes = workspace_bytes_;
    return moe(args, stream);
  }
  void set_launches() {
    const auto single = [this](const Matrix& w, const void* x, void* y, Type type, Stream stream) {
      return gemm(product(w, x, y, type), device_, nullptr, stream);
    };
    launches = {
        {"norm", [this](const Layer&, Stream s) { return norm(s); }},
        {"q k v",
         [this](const Layer& l, Stream s) {
           const SiblingsArgs args{
               {product(l.q, normed_, q_, Type::kBF16), product(l.k, normed_, k_, Type::kBF16),
                product(l.v, normed_, v_, Type::kBF16)},
               3};
           return gemm_siblings(args, device_, nullptr, s);
         }},
        {"attention", [this](const Layer&, Stream s) { return attend(s); }},
        {"o", [=, this](const Layer& l,
                        Stream s) { return single(l.o, mixed_, delta_, Type::kF32, s); }},
        {"norm 2", [this](const Layer&, Stream s) { return norm(s); }},
        {"router",
         [this](const Layer& l, Stream s) {
           RouterArgs args;
           args.product = product(l.router, normed_, scores_, Type::kF32);
           args.route.scores = static_cast<const float*>(scores_);
           args.route.m = 1;
           args.route.n_experts = kExperts;
           args.route.n_active = kActive;
           args.route.normalize = true;
           args.route.ids = ids_;
           args.route.weights = weights_;
           return score_and_route(args, device_, nullptr, s);
         }},
        {"experts", [this](const Layer& l, Stream s) { return experts_of(l, s); }},
    };
  }

  DeviceInfo device_;
  std::int64_t keys_;
  std::vector<std::unique_ptr<Buffer>> memory_;
  std::vector<Layer> layers_;
  void *cache_k_, *cache_v_, *normed_, *q_, *k_, *v_, *mixed_, *scores_, *workspace_;
  std::int32_t *pages_, *ids_;
  SequenceItem* items_;
  float *ones_, *residual_, *delta_, *weights_;
  std::size_t workspace_bytes_;
};

}  // namespace

void bench_step(Harness& harness, std::int64_t keys) {
  const Step step(harness.info(), keys);
  constexpr int kRuns = 6 * kLayers;
  const auto report = [&](const std::string& what, double bytes, auto&& launch) {
    const double time = harness.seconds(kRuns, launch);
    harness.report("step", fmt::format("{}, {} keys", what, keys), time, bytes, 0.0);
  };
  report("layer", step.bytes(), [&](int i, cudaStream_t stream) {
    for (const auto& [name, launch] : step.launches) {
      const Status status = launch(step.layer(i), stream);
      if (status != Status::kOk) return status;
    }
    return Status::kOk;
  });
  for (const auto& [name, launch] : step.launches)
    report(name, 0.0, [&](int i, cudaStream_t stream) { return launch(step.layer(i), stream); });
  // What each adds to the others.
  for (const auto& [without, unused] : step.launches) {
    report("layer without " + without, 0.0, [&](int i, cudaStream_t stream) {
      for (const auto& [name, launch] : step.launches) {
        const Status status = name == without ? Status::kOk : launch(step.layer(i), stream);
        if (status != Status::kOk) return status;
      }
      return Status::kOk;
    });
  }
}

}  // namespace kt::kernels::cuda::bench
