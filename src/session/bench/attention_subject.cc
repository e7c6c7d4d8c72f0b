// The attention region of one layer, as inference runs it: m rows that end a context, over paged
// caches that take turns so that each is cold.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "engine/kv_pool.h"
#include "operators/attend.h"
#include "session/bench/layer_source.h"
#include "session/bench/subject.h"

namespace kt::session::bench {
namespace {

using Clock = std::chrono::steady_clock;

// Layers of a cache in which a token has one or two streams of vectors.
std::vector<tensor::KvLayerSpec> layers_of(const AttentionShape& shape, std::int64_t n) {
  tensor::KvLayerSpec layer;
  if (shape.latent()) {
    layer.streams = {{"latent", 1, shape.dim_qk}};
  } else {
    layer.streams = {{"k", shape.n_kv_heads, shape.dim_qk}, {"v", shape.n_kv_heads, shape.dim_v}};
  }
  return std::vector<tensor::KvLayerSpec>(static_cast<std::size_t>(n), layer);
}

class AttentionSubject : public Subject {
 public:
  AttentionSubject(backend::Cpu& cpu, const Case& what, const Limits& limits)
      : cpu_(cpu),
        shape_(what.shape.attention),
        format_(what.format.stored),
        n_positions_(std::max(what.context, limits.largest)),
        n_layers_(choose_layers(what, limits)),
        pool_(layers_of(shape_, n_layers_), format_, n_positions_, cpu) {
    for (std::int64_t i = 0; i < pool_.n_pages(); ++i)
      pages_.push_back(static_cast<std::int32_t>(i));
    fill();
  }

  void prepare(std::int64_t m) override {
    m_ = m;
    q_ = gaussian(m * shape_.n_heads * shape_.dim_qk, 3);
    out_.assign(static_cast<std::size_t>(m * shape_.n_heads * shape_.dim_v), 0.0f);
  }

  Sample run() noexcept override {
    const std::int64_t layer = next_;
    next_ = (next_ + 1) % n_layers_;
    Sample s;
    s.seconds = forward(layer);
    s.weight_bytes = cache_bytes_;
    const double seen =
        static_cast<double>(n_positions_) - static_cast<double>(m_ - 1) / 2.0;  // on average
    s.operations = 2.0 * static_cast<double>(m_ * shape_.n_heads) *
                   static_cast<double>(shape_.dim_qk + shape_.dim_v) * seen;
    return s;
  }

  double error() override {
    forward(0);
    double difference = 0.0, norm = 0.0;
    for (const std::int64_t row : {std::int64_t{0}, m_ - 1}) {
      for (const std::int64_t head : {std::int64_t{0}, shape_.n_heads - 1}) {
        const std::vector<double> want = exact(row, head);
        const float* got = out_.data() + (row * shape_.n_heads + head) * shape_.dim_v;
        for (std::size_t i = 0; i < want.size(); ++i) {
          difference += std::pow(want[i] - static_cast<double>(got[i]), 2);
          norm += want[i] * want[i];
        }
      }
    }
    return std::sqrt(difference / norm);
  }

  std::vector<Region> memory() const override {
    std::vector<Region> memory;
    for (const tensor::KvLayerView& layer : pool_.layers()) {
      for (const tensor::KvStreamView& s : streams(layer)) {
        memory.emplace_back(s.base, s.row_bytes * static_cast<std::size_t>(n_positions_));
      }
    }
    return memory;
  }
  Arithmetic arithmetic() const override {
    return cpu_.attention_for(m_).bf16 ? Arithmetic::kBf16 : Arithmetic::kF32;
  }
  std::string kernel() const override { return cpu_.attention_for(m_).name; }
  std::int64_t n_copies() const override { return n_layers_; }
  std::string note() const override { return note_; }
  std::string about() const override {
    return fmt::format("{} heads of {}, {} of keys and values, {} positions, {} layers; {}",
                       shape_.n_heads, shape_.dim_qk, shape_.n_kv_heads, n_positions_, n_layers_,
                       kernel());
  }

 private:
  std::span<const tensor::KvStreamView> streams(const tensor::KvLayerView& layer) const {
    return {layer.streams, shape_.latent() ? std::size_t{1} : std::size_t{2}};
  }

  std::int64_t choose_layers(const Case& what, const Limits& limits) {
    cache_bytes_ = static_cast<double>(n_positions_) *
                   static_cast<double>(engine::kv_bytes_per_token(layers_of(shape_, 1), format_));
    const double rows = static_cast<double>(limits.largest * shape_.n_heads) *
                        static_cast<double>(4 * (shape_.dim_qk + shape_.dim_v));
    const double room = static_cast<double>(limits.memory) - rows;
    if (cache_bytes_ > room) {
      fail(ErrorCode::kNoMemory, what.name(),
           "takes {:.1f} GiB and there is room for {:.1f}; name another shape, or a smaller --m",
           (cache_bytes_ + rows) / (1 << 30), static_cast<double>(limits.memory) / (1 << 30));
    }
    const double cold = std::ceil(4.0 * static_cast<double>(limits.cache_bytes) / cache_bytes_);
    if (cold * cache_bytes_ > room) note_ = "caches are less than 4 times the last cache level";
    return static_cast<std::int64_t>(std::max(1.0, std::min(cold, room / cache_bytes_)));
  }

  // Gaussian vectors, the same in all layers.
  void fill() {
    cpu_.pool.run(n_positions_, [&](std::int64_t p, int) {
      std::uint64_t seed = static_cast<std::uint64_t>(p) * 4;
      for (std::size_t i = 0; i < streams(pool_.layers()[0]).size(); ++i, ++seed) {
        const tensor::KvStreamView& first = pool_.layers()[0].streams[i];
        const std::vector<float> x = gaussian(first.n_heads * first.dim, seed);
        std::byte* row = first.at(pages_.data(), p, 0);
        formats::traits(format_).encode(x.data(), nullptr, row, first.n_heads * first.dim);
        for (const tensor::KvLayerView& layer : pool_.layers().subspan(1))
          std::memcpy(layer.streams[i].at(pages_.data(), p, 0), row, first.row_bytes);
      }
    });
  }

  double forward(std::int64_t layer) noexcept {
    arena_.reset();
    const tensor::KvLayerView& kv = pool_.layers()[static_cast<std::size_t>(layer)];
    const operators::SequenceRows rows = {0, m_, n_positions_ - m_, pages_.data()};
    const operators::Batch batch;
    operators::Step step{batch, cpu_, arena_, pool_.layers()};
    operators::AttendArgs args;
    args.q = q_.data();
    args.n_heads = shape_.n_heads;
    args.n_kv_heads = shape_.n_kv_heads;
    args.dim_qk = shape_.dim_qk;
    args.dim_v = shape_.dim_v;
    args.scale = scale();
    args.k = kv.streams[0];
    args.v = kv.streams[shape_.latent() ? 0 : 1];
    args.out = out_.data();
    const auto start = Clock::now();
    operators::attend(step, {&rows, 1}, args);
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.dim_qk)); }

  std::vector<float> cached(const tensor::KvStreamView& s, std::int64_t p, std::int64_t head) {
    std::vector<float> x(static_cast<std::size_t>(s.dim));
    formats::traits(format_).decode(s.at(pages_.data(), p, head), x.data(), s.dim);
    return x;
  }

  std::vector<double> exact(std::int64_t row, std::int64_t head) {
    const tensor::KvLayerView& kv = pool_.layers()[0];
    const std::int64_t kv_head = head / (shape_.n_heads / shape_.n_kv_heads);
    const float* q = q_.data() + (row * shape_.n_heads + head) * shape_.dim_qk;
    std::vector<double> y(static_cast<std::size_t>(shape_.dim_v));
    double total = 0.0;
    for (std::int64_t p = 0; p <= n_positions_ - m_ + row; ++p) {
      const std::vector<float> k = cached(kv.streams[0], p, kv_head);
      double score = 0.0;
      for (std::size_t i = 0; i < k.size(); ++i)
        score += static_cast<double>(k[i]) * static_cast<double>(q[i]);
      const double weight = std::exp(score * static_cast<double>(scale()));
      const std::vector<float> v = shape_.latent() ? k : cached(kv.streams[1], p, kv_head);
      for (std::size_t i = 0; i < y.size(); ++i) y[i] += weight * static_cast<double>(v[i]);
      total += weight;
    }
    for (double& v : y) v /= total;
    return y;
  }

  backend::Cpu& cpu_;
  AttentionShape shape_;
  formats::Format format_;
  std::int64_t n_positions_;
  double cache_bytes_ = 0.0;  // of one layer
  std::string note_;
  std::int64_t n_layers_;
  engine::KvPool pool_;
  std::vector<std::int32_t> pages_;
  tensor::Arena arena_;
  std::int64_t m_ = 1;
  std::int64_t next_ = 0;
  std::vector<float> q_, out_;
};

}  // namespace

std::unique_ptr<Subject> make_attention_subject(backend::Cpu& cpu, const Case& what,
                                                const Limits& limits) {
  return std::make_unique<AttentionSubject>(cpu, what, limits);
}

}  // namespace kt::session::bench
