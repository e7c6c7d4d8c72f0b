// The plug-in that plugin_test.cc loads: one operator of each kind, written against
// kt/operator.h as a user would.
#include <cmath>
#include <span>

#include "kt/operator.h"

namespace {

namespace plugin = kt::plugin;

double dot(const float* a, const float* b, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) sum += double{a[i]} * double{b[i]};
  return sum;
}

// out = factor · (x · Wᵀ + b). `misuse` makes load do something that is not allowed.
struct ScaledLinear : plugin::Linear {
  static constexpr kt_kwarg_type kKwargs[] = {plugin::real("factor"), plugin::text("misuse"),
                                              plugin::flag("negate"), plugin::whole("shift")};
  explicit ScaledLinear(const plugin::Site& site)
      : path_(site.path()),
        weight_(site.weight()),
        bias_(site.bias()),
        misuse_(site.text("misuse", "")),
        factor_(static_cast<float>(site.real("factor", 1.0))),
        shift_(static_cast<float>(site.whole("shift", 0))),
        n_in_(site.n_in()),
        n_out_(site.n_out()) {
    if (site.flag("negate", false)) factor_ = -factor_;
    if (factor_ == 0.0f) throw std::invalid_argument("factor is 0,\nnothing would be left");
  }

  void load(const plugin::Weights& weights) {
    if (misuse_ == "stranger") weights.floats("other.weight");
    if (misuse_ == "rows") weights.read_floats(weight_, n_out_ - 1, 2, nullptr);
    if (misuse_ == "lazy") return;
    if (misuse_ == "int") throw 7;
    if (misuse_ == "terminal")
      throw std::runtime_error(
          "no\n\x1b[2J \xc2\x9b"
          "31m \xff größer");
    const plugin::Tensor tensor = weights.find(weight_);
    format_ = tensor.format;
    w_.resize(static_cast<std::size_t>(n_in_ * n_out_));
    if (tensor.row_bytes == sizeof(float) * static_cast<std::size_t>(n_in_)) {
      weights.read_blocks(weight_, 0, n_out_, w_.data());
    } else {
      weights.read_floats(weight_, 0, n_out_, w_.data());
    }
    b_.assign(static_cast<std::size_t>(n_out_), 0.0f);
    if (!bias_.empty()) b_ = weights.floats(bias_);
    if (weights.has(path_ + ".nothing")) throw std::runtime_error("a tensor that is not there");
  }

  void run(const plugin::Run& run) noexcept {
    run.parallel(run.n_rows(), [&](std::int64_t r, int) {
      for (std::int64_t o = 0; o < n_out_; ++o) {
        const auto sum = static_cast<float>(dot(run.x(r), w_.data() + o * n_in_, n_in_));
        run.out(r)[o] = factor_ * (sum + b_[static_cast<std::size_t>(o)]) + shift_;
      }
    });
  }

  std::uint64_t weight_bytes() const { return (w_.size() + b_.size()) * sizeof(float); }
  const char* weight_format() const {
    return misuse_ == "format" ? "\x1b[31mF\xff" : format_.c_str();
  }

 private:
  std::string path_, weight_, bias_, misuse_, format_;
  float factor_, shift_;
  std::int64_t n_in_, n_out_;
  std::vector<float> w_, b_;
};

struct PlainNorm : plugin::Norm {
  explicit PlainNorm(const plugin::Site& site)
      : weight_(site.weight()), dim_(site.n_out()), eps_(site.eps()) {}
  void load(const plugin::Weights& weights) { w_ = weights.floats(weight_); }
  void run(const plugin::Run& run) noexcept {
    for (std::int64_t r = 0; r < run.n_rows(); ++r) {
      const float* x = run.x(r);
      const double mean = dot(x, x, dim_) / static_cast<double>(dim_);
      const auto scale = static_cast<float>(1.0 / std::sqrt(mean + eps_));
      for (std::int64_t i = 0; i < dim_; ++i)
        run.out(r)[i] = x[i] * scale * w_[static_cast<std::size_t>(i)];
    }
  }
  std::uint64_t weight_bytes() const { return w_.size() * sizeof(float); }

 private:
  std::string weight_;
  std::int64_t dim_;
  double eps_;
  std::vector<float> w_;
};

struct PlainMlp : plugin::Mlp {
  explicit PlainMlp(const plugin::Site& site)
      : path_(site.path()), d_model_(site.n_in()), d_ff_(site.d_ff()) {}
  void load(const plugin::Weights& weights) {
    gate_ = weights.floats(path_ + ".gate_proj.weight");
    up_ = weights.floats(path_ + ".up_proj.weight");
    down_ = weights.floats(path_ + ".down_proj.weight");
  }
  void run(const plugin::Run& run) noexcept {
    float* hidden = run.scratch<float>(run.n_rows() * d_ff_);
    run.parallel(run.n_rows(), [&](std::int64_t r, int) {
      float* h = hidden + r * d_ff_;
      for (std::int64_t i = 0; i < d_ff_; ++i) {
        const double gate = dot(run.x(r), gate_.data() + i * d_model_, d_model_);
        const double up = dot(run.x(r), up_.data() + i * d_model_, d_model_);
        h[i] = static_cast<float>(gate / (1.0 + std::exp(-gate)) * up);
      }
      for (std::int64_t i = 0; i < d_model_; ++i)
        run.out(r)[i] = static_cast<float>(dot(h, down_.data() + i * d_ff_, d_ff_));
    });
  }
  std::uint64_t weight_bytes() const {
    return (gate_.size() + up_.size() + down_.size()) * sizeof(float);
  }

 private:
  std::string path_;
  std::int64_t d_model_, d_ff_;
  std::vector<float> gate_, up_, down_;
};

}  // namespace

KT_PLUGIN(fixture, KT_OPERATOR(ScaledLinear), KT_OPERATOR(PlainNorm), KT_OPERATOR(PlainMlp))
