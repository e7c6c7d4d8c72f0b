#include "operators/expert_measure.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "base/least_seconds.h"

namespace kt::operators {
namespace {

template <class F>
double seconds(F&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

class Measurement {
 public:
  Measurement(Step& step, ExpertStream& stream, ExpertStream::Layer layer, Activation& x,
              std::int64_t n_active)
      : step_(step),
        stream_(stream),
        layer_(layer),
        x_(x),
        n_active_(n_active),
        gpu_(step.gpu(stream.gpu().index())) {}

  void on_cpu(const ExpertsOnCpu& compute, ExpertRates& rates) {
    const std::int64_t n = x_.n_rows();
    const auto active = static_cast<double>(n_active_);
    const std::int64_t few = std::min<std::int64_t>(8, n / 2), many = std::min<std::int64_t>(64, n);
    Activation x(step_, x_.f32());
    compute(x, group_routing(1, few), few);  // rounds the rows
    // Beside copies, which take their part of the memory's bandwidth.
    const auto time = [&](std::int64_t groups, std::int64_t rows) {
      double least = std::numeric_limits<double>::infinity();
      for (int run = 0; run < 5; ++run) {
        const StepScope scope(step_);
        const Routing routing = group_routing(groups, rows);
        stream_.send_ahead(step_, layer_);
        least = std::min(least, seconds([&] { compute(x, routing, rows); }));
        stream_.forget_ahead(step_);
      }
      return least;
    };
    const double once = time(1, few);
    rates.row = std::max(0.0, time(1, many) - once) / (active * static_cast<double>(many - few));
    const bool twice = 2 * n_active_ <= layer_->n_experts;
    const double each = (twice ? std::max(0.0, time(2, few) - once) : once) / active;
    rates.expert = std::max(0.0, each - rates.row * static_cast<double>(few));
    const double whole =
        least_seconds(3, [&] {  // with rows that are fetched, rounded and sent back
          const StepScope scope(step_);
          Activation fresh(step_, n, x_.n_cols(), x_.gpu_type());
          copy_rows(fresh);
          fresh.f32();
          compute(fresh, group_routing(1, few), few);
          Activation result(step_, n, x_.n_cols());
          result.write();
          result.read_on(gpu_);
          wait();
        });
    rates.step_row = std::max(0.0, whole - active * each) / static_cast<double>(n);
  }

  void on_gpu(ExpertRates& rates) {
    const std::int64_t n = x_.n_rows();
    std::vector<std::int32_t> all;
    for (std::int32_t e = 0; e < layer_->n_experts; ++e) all.push_back(e);
    Routing even = make_routing();
    for (std::int64_t i = 0; i < n * n_active_; ++i)
      even.ids[i] = static_cast<std::int32_t>(i % layer_->n_experts);
    Activation sums(step_, n, x_.n_cols());
    const double least = 1e-9;
    rates.link = stream_.link_rate(step_, layer_);
    stream_.run(step_, layer_, all, x_, even, sums);  // kernels are loaded when they first run
    stream_.forget_ahead(step_);
    wait();
    const double streamed = seconds([&] {
      stream_.run(step_, layer_, all, x_, even, sums);
      wait();
    });
    const double copied = static_cast<double>(layer_->expert_bytes()) *
                          static_cast<double>(layer_->n_experts) / rates.link;
    constexpr double kHidden =
        1.3;  // not more than that: what the GPU computes hides behind copies
    if (streamed > kHidden * copied)
      rates.gpu_row = std::max(least, streamed / static_cast<double>(n * n_active_));
  }

 private:
  void wait() {
    gpu_.run("waiting for experts", [](auto& k, auto s) { return k.stream_synchronize(s); });
  }

  void copy_rows(Activation& to) {
    if (x_.gpu() == nullptr) {
      const MatrixF rows = to.write();
      for (std::int64_t r = 0; r < rows.n_rows; ++r)
        std::copy(x_.f32().row(r), x_.f32().row(r) + rows.n_cols, rows.row(r));
      return;
    }
    const void* from = x_.read_on(gpu_);
    void* there = to.write_on(gpu_);
    const std::size_t bytes = static_cast<std::size_t>(x_.n_rows() * x_.n_cols()) *
                              kernels::cuda::type_bytes(x_.gpu_type());
    gpu_.run("copying rows", [&](auto& k, auto s) {
      return k.copy(there, from, bytes, backend::CopyKind::kOnDevice, s);
    });
  }

  Routing make_routing() {
    const std::int64_t n = x_.n_rows() * n_active_;
    Routing routing{n_active_, step_.arena.allocate<std::int32_t>(n),
                    step_.arena.allocate<float>(n)};
    std::fill(routing.ids, routing.ids + n, -1);
    std::fill(routing.weights, routing.weights + n, 0.0f);
    return routing;
  }

  // `groups` times `rows` rows with n_active experts of their own, others each time.
  Routing group_routing(std::int64_t groups, std::int64_t rows) {
    Routing routing = make_routing();
    for (std::int64_t i = 0; i < groups * rows * n_active_; ++i) {
      const std::int64_t expert = i / (rows * n_active_) * n_active_ + i % n_active_;
      routing.ids[i] = static_cast<std::int32_t>((first_ + expert) % layer_->n_experts);
    }
    first_ += groups * n_active_;
    return routing;
  }

  Step& step_;
  ExpertStream& stream_;
  ExpertStream::Layer layer_;
  Activation& x_;
  std::int64_t n_active_;
  GpuStep& gpu_;
  std::int64_t first_ = 0;
};

}  // namespace

ExpertRates measure_experts(Step& step, ExpertStream& stream, ExpertStream::Layer layer,
                            Activation& x, std::int64_t n_active, const ExpertsOnCpu& on_cpu) {
  const StepScope scope(step);
  ExpertUse* const use = std::exchange(step.expert_use, nullptr);
  Measurement measurement(step, stream, layer, x, n_active);
  ExpertRates rates;
  measurement.on_cpu(on_cpu, rates);
  measurement.on_gpu(rates);
  step.expert_use = use;
  return rates;
}

}  // namespace kt::operators
