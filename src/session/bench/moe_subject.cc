// Routed experts of a layer by KExpertsCPU, as inference runs it: submit and collect on a Cpu.
#include <algorithm>
#include <chrono>
#include <cmath>

#include "operators/builder.h"
#include "session/bench/layer_source.h"
#include "session/bench/routing.h"
#include "session/bench/subject.h"

namespace kt::session::bench {
namespace {

using Clock = std::chrono::steady_clock;

double relative_error(const std::vector<double>& want, const float* got) {
  double difference = 0.0, norm = 0.0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double d = want[i] - static_cast<double>(got[i]);
    difference += d * d;
    norm += want[i] * want[i];
  }
  return std::sqrt(difference / norm);
}

struct Size {
  LayerShape shape;  // with the experts that fit
  std::int64_t n_layers = 1;
  double expert_bytes = 0.0;
  std::string note;
};

double expert_bytes(const backend::Cpu& cpu, const Case& what) {
  const formats::Format format = what.format.recode.target(what.format.stored);
  const auto bytes = [&](std::int64_t n, std::int64_t k) {
    return static_cast<double>(backend::packed_matrix_bytes(cpu.caps, cpu.act, format, n, k));
  };
  return 2.0 * bytes(what.shape.d_ff, what.shape.d_model) +
         bytes(what.shape.d_model, what.shape.d_ff);
}

// Bytes of inputs, outputs and temporaries at the largest size.
double scratch_bytes(const LayerShape& shape, std::int64_t m) {
  const auto rows = static_cast<double>(m * shape.n_active);
  const auto widths = static_cast<double>(shape.d_model + shape.d_ff);
  return 6.0 * rows * widths + 16.0 * static_cast<double>(m * shape.d_model);
}

Size choose_size(const backend::Cpu& cpu, const Case& what, const Limits& limits) {
  Size size{what.shape, 1, expert_bytes(cpu, what), {}};
  const double cold = 4.0 * static_cast<double>(limits.cache_bytes);
  const double room =
      static_cast<double>(limits.memory) - scratch_bytes(what.shape, limits.largest);
  const double layer = size.expert_bytes * static_cast<double>(what.shape.n_experts);
  if (layer > room) {
    size.shape.n_experts = static_cast<std::int64_t>(std::max(0.0, room) / size.expert_bytes);
    if (size.shape.n_experts < what.shape.n_active) {
      fail(ErrorCode::kNoMemory, what.name(),
           "{} experts take {:.1f} GiB and there is room for {:.1f}; name another shape or format, "
           "or a smaller --m",
           what.shape.n_active,
           size.expert_bytes * static_cast<double>(what.shape.n_active) / (1 << 30),
           std::max(0.0, room) / (1 << 30));
    }
    size.note =
        fmt::format("{} of {} experts fit in memory", size.shape.n_experts, what.shape.n_experts);
  }
  const double bytes = size.expert_bytes * static_cast<double>(size.shape.n_experts);
  size.n_layers = static_cast<std::int64_t>(std::max(1.0, std::ceil(cold / bytes)));
  size.n_layers =
      std::min(size.n_layers, std::max<std::int64_t>(1, static_cast<std::int64_t>(room / bytes)));
  const double held = bytes * static_cast<double>(size.n_layers);
  if (held < cold) {
    size.note += fmt::format("{}weights are only {:.1f} times the last cache level",
                             size.note.empty() ? "" : "; ", held / (cold / 4.0));
  }
  return size;
}

class MoeSubject : public Subject {
 public:
  MoeSubject(backend::Cpu& cpu, const Case& what, const Size& size)
      : cpu_(cpu),
        size_(size),
        source_(cpu.pool, size.shape, what.format, size.n_layers),
        routing_(size.n_layers, size.shape.n_experts, size.shape.n_active),
        gate_(cpu, what.format.recode.target(what.format.stored), 16, size.shape.d_model,
              what.format.recode.scales()) {
    placement_.default_entry.op = "KExpertsCPU";
    if (!what.format.backend.empty())
      placement_.default_entry.kwargs["backend"] = what.format.backend;
    const operators::Builder builder("", placement_, nullptr);
    operators::Loader loader(source_, cpu, {});
    for (std::int64_t layer = 0; layer < size.n_layers; ++layer) {
      layers_.push_back(builder.experts(LayerSource::layer_path(layer),
                                        {source_.config(), {"gate_proj", "up_proj", "down_proj"}}));
      layers_.back()->load(loader);
    }
  }

  void prepare(std::int64_t m) override {
    m_ = m;
    x_ = gaussian(m * size_.shape.d_model, 3);
    out_.assign(x_.size(), 0.0f);
  }

  Sample run() noexcept override {
    RoutedRows rows = routing_.next(m_);
    Sample s;
    s.seconds = forward(rows);
    s.weight_bytes = size_.expert_bytes * static_cast<double>(rows.n_distinct);
    s.operations = 2.0 * 3.0 * static_cast<double>(m_ * size_.shape.n_active) *
                   static_cast<double>(size_.shape.d_model * size_.shape.d_ff);
    return s;
  }

  double error() override {
    RoutingSequence fixed(1, size_.shape.n_experts, size_.shape.n_active);
    RoutedRows rows = fixed.next(m_);
    forward(rows);  // so that temporaries have their size, and a stale result would show
    std::fill(out_.begin(), out_.end(), 0.0f);
    forward(rows);
    double worst = 0.0;
    for (const std::int64_t row : {std::int64_t{0}, m_ - 1}) {
      worst = std::max(worst,
                       relative_error(exact(rows, row), out_.data() + row * size_.shape.d_model));
      if (m_ == 1) break;
    }
    return worst;
  }

  std::vector<Region> memory() const override {
    std::vector<Region> memory;
    for (const auto& layer : layers_) {
      const auto part = layer->packed_memory();
      memory.insert(memory.end(), part.begin(), part.end());
    }
    return memory;
  }

  Arithmetic arithmetic() const override { return arithmetic_of(chosen().act, gate_.format()); }
  std::string kernel() const override { return chosen().name; }
  std::int64_t n_experts() const override { return size_.shape.n_experts; }
  std::int64_t n_copies() const override { return size_.n_layers; }
  std::string note() const override { return size_.note; }

 private:
  const kernels::dot::Kernel& chosen() const {
    return gate_.kernel_for(m_, m_ * size_.shape.n_active / size_.shape.n_experts);
  }

  double forward(RoutedRows& rows) noexcept {
    arena_.reset();
    const std::int64_t d = size_.shape.d_model;
    operators::Experts& layer = *layers_[static_cast<std::size_t>(rows.layer)];
    const operators::Batch batch;
    operators::Step step{batch, cpu_, arena_, {}};
    const auto start = Clock::now();
    operators::Activation input(step, {x_.data(), m_, d, d});
    operators::Routing routing{size_.shape.n_active, rows.ids.data(), rows.weights.data()};
    auto ticket = layer.submit(step, input, routing);
    operators::Activation sum = operators::Activation::on(step, {out_.data(), m_, d, d});
    layer.collect(step, ticket, sum);
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  // A projection of one expert of layer 0 applied to x, in float64.
  std::vector<double> apply(std::int64_t expert, const char* projection,
                            const std::vector<double>& x) {
    const io::TensorInfo& info = *source_.find(
        fmt::format("{}.{}.{}.weight", LayerSource::layer_path(0), expert, projection));
    std::vector<double> y(static_cast<std::size_t>(info.shape.n_rows()));
    cpu_.pool.run(info.shape.n_rows(), [&](std::int64_t r, int) {
      const std::vector<float> w = source_.values(info, r);
      double sum = 0.0;
      for (std::size_t i = 0; i < w.size(); ++i) sum += static_cast<double>(w[i]) * x[i];
      y[static_cast<std::size_t>(r)] = sum;
    });
    return y;
  }

  std::vector<double> exact(const RoutedRows& rows, std::int64_t row) {
    const std::int64_t d = size_.shape.d_model;
    const std::vector<double> x(x_.begin() + row * d, x_.begin() + (row + 1) * d);
    std::vector<double> y(static_cast<std::size_t>(d), 0.0);
    for (std::int64_t i = row * size_.shape.n_active; i < (row + 1) * size_.shape.n_active; ++i) {
      const std::int32_t expert = rows.ids[static_cast<std::size_t>(i)];
      std::vector<double> h = apply(expert, "gate_proj", x);
      const std::vector<double> up = apply(expert, "up_proj", x);
      for (std::size_t f = 0; f < h.size(); ++f) h[f] = h[f] / (1.0 + std::exp(-h[f])) * up[f];
      const std::vector<double> part = apply(expert, "down_proj", h);
      const auto weight = static_cast<double>(rows.weights[static_cast<std::size_t>(i)]);
      for (std::size_t c = 0; c < y.size(); ++c) y[c] += weight * part[c];
    }
    return y;
  }

  backend::Cpu& cpu_;
  Size size_;
  LayerSource source_;
  RoutingSequence routing_;
  backend::PackedMatrix gate_;  // packed as the layers' gates are, to ask for kernels
  operators::Placement placement_;
  std::vector<std::unique_ptr<operators::Experts>> layers_;
  tensor::Arena arena_;
  std::int64_t m_ = 1;
  std::vector<float> x_, out_;
};

}  // namespace

std::unique_ptr<Subject> make_moe_subject(backend::Cpu& cpu, const Case& what,
                                          const Limits& limits) {
  return std::make_unique<MoeSubject>(cpu, what, choose_size(cpu, what, limits));
}

}  // namespace kt::session::bench
