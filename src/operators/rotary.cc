// Rotary embeddings (arXiv 2104.09864): angle tables with no, linear, Llama-3 or yarn (arXiv
// 2309.00071) scaling. Frequencies and angles are rounded to float where Transformers rounds them.
#include <algorithm>
#include <cmath>

#include "operators/makers.h"

namespace kt::operators {
namespace {

constexpr double kPi = 3.14159265358979323846;

double yarn_mscale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

void scale_llama3(const io::RopeConfig& rope, double original, std::vector<double>& inv_freq) {
  const double low_wavelength = original / rope.low_freq_factor;
  const double high_wavelength = original / rope.high_freq_factor;
  for (double& f : inv_freq) {
    const double wavelength = 2.0 * kPi / f;
    if (wavelength < high_wavelength) continue;
    if (wavelength > low_wavelength) {
      f /= rope.factor;
      continue;
    }
    const double smooth = (original / wavelength - rope.low_freq_factor) /
                          (rope.high_freq_factor - rope.low_freq_factor);
    f = (1.0 - smooth) * f / rope.factor + smooth * f;
  }
}

void scale_yarn(const io::RopeConfig& rope, double original, std::int64_t dim,
                std::vector<double>& inv_freq) {
  const auto correction_dim = [&](double rotations) {
    return static_cast<double>(dim) * std::log(original / (rotations * 2.0 * kPi)) /
           (2.0 * std::log(rope.theta));
  };
  double low = correction_dim(rope.beta_fast);
  double high = correction_dim(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim) - 1.0);
  if (low == high) high += 0.001;
  for (std::size_t i = 0; i < inv_freq.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inv_freq[i] = inv_freq[i] / rope.factor * ramp + inv_freq[i] * (1.0 - ramp);
  }
}

class RotaryEmbedding : public Rotary {
 public:
  RotaryEmbedding(const Builder& at, const io::ModelConfig& config, std::int64_t dim)
      : Rotary(at.site(), dim) {
    const io::RopeConfig& rope = config.rope;
    const auto original =
        static_cast<double>(rope.original_context > 0 ? rope.original_context : config.max_context);
    std::vector<double> inv_freq;
    for (std::int64_t i = 0; i < dim; i += 2) {
      inv_freq.push_back(std::pow(rope.theta, -static_cast<double>(i) / static_cast<double>(dim)));
    }
    switch (rope.kind) {
      case io::RopeKind::kDefault: break;
      case io::RopeKind::kLinear:
        for (double& f : inv_freq) f /= rope.factor;
        break;
      case io::RopeKind::kLlama3: scale_llama3(rope, original, inv_freq); break;
      case io::RopeKind::kYarn:
        scale_yarn(rope, original, dim, inv_freq);
        magnitude_ = static_cast<float>(yarn_magnitude(rope));
        break;
    }
    for (std::size_t i = 0; i < inv_freq.size(); ++i) {
      const double divisor =
          rope.freq_factors.empty() ? 1.0 : static_cast<double>(rope.freq_factors[i]);
      inv_freq_.push_back(static_cast<float>(inv_freq[i] / divisor));
    }
  }

 private:
  void do_prepare(Step& step) noexcept override {
    const std::int64_t half = dim() / 2;
    const MatrixF cos = cos_.emplace(step, step.n_rows(), half).write();
    const MatrixF sin = sin_.emplace(step, step.n_rows(), half).write();
    step.cpu.pool.run(step.n_rows(), [&](std::int64_t r, int) {
      const auto position = static_cast<float>(step.batch.positions[static_cast<std::size_t>(r)]);
      for (std::int64_t i = 0; i < half; ++i) {
        const auto angle = static_cast<double>(position * inv_freq_[static_cast<std::size_t>(i)]);
        cos.row(r)[i] = static_cast<float>(std::cos(angle)) * magnitude_;
        sin.row(r)[i] = static_cast<float>(std::sin(angle)) * magnitude_;
      }
    });
  }

  static double yarn_magnitude(const io::RopeConfig& rope) {
    if (rope.attention_factor > 0.0) return rope.attention_factor;
    if (rope.mscale != 0.0 && rope.mscale_all_dim != 0.0) {
      return yarn_mscale(rope.factor, rope.mscale) / yarn_mscale(rope.factor, rope.mscale_all_dim);
    }
    return yarn_mscale(rope.factor, 1.0);
  }

  std::vector<float> inv_freq_;
  float magnitude_ = 1.0f;
};

std::string_view rope_name(io::RopeKind kind) {
  switch (kind) {
    case io::RopeKind::kDefault: return "unscaled";
    case io::RopeKind::kLinear: return "linear";
    case io::RopeKind::kLlama3: return "llama3";
    case io::RopeKind::kYarn: return "yarn";
  }
  return "unknown";
}

std::unique_ptr<Rotary> make_only(const Builder& at, const RotarySpec& spec, bool fits,
                                  std::string_view wanted) {
  if (!fits) {
    fail(ErrorCode::kUnsupported, at.path(),
         "{} computes {} rotary embeddings, this model's are {}: use RoPE.KRotaryEmbedding, which "
         "follows the configuration",
         at.site().op, wanted, rope_name(spec.config.rope.kind));
  }
  return make_rotary(at, spec);
}

}  // namespace

std::unique_ptr<Rotary> make_rotary(const Builder& at, const RotarySpec& spec) {
  const std::size_t n_factors = spec.config.rope.freq_factors.size();
  if (n_factors != 0 && n_factors != static_cast<std::size_t>(spec.dim / 2)) {
    fail(ErrorCode::kMismatch, at.path(), "the file has {} rotary frequency factors; {} are wanted",
         n_factors, spec.dim / 2);
  }
  return std::make_unique<RotaryEmbedding>(at, spec.config, spec.dim);
}

std::unique_ptr<Rotary> make_plain_rotary(const Builder& at, const RotarySpec& spec) {
  return make_only(at, spec, spec.config.rope.kind == io::RopeKind::kDefault, "unscaled");
}

std::unique_ptr<Rotary> make_scaled_rotary(const Builder& at, const RotarySpec& spec) {
  return make_only(at, spec, spec.config.rope.kind != io::RopeKind::kYarn,
                   "unscaled, linear or llama3");
}

std::unique_ptr<Rotary> make_yarn_rotary(const Builder& at, const RotarySpec& spec) {
  return make_only(at, spec, spec.config.rope.kind == io::RopeKind::kYarn, "yarn");
}

}  // namespace kt::operators
