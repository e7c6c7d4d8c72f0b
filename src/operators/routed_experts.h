// What routed experts share on every device: their shape, their tensors and what is made of them.
// Thread rule: as Module.
#pragma once
#include <array>
#include <string>
#include <vector>

#include "operators/builder.h"

namespace kt::operators {

class RoutedExperts : public Experts {
 public:
  RoutedExperts(const Builder& at, const ExpertsSpec& spec, const Recode& recode)
      : Experts(at.site()),
        n_experts_(spec.config.moe.n_experts),
        d_model_(spec.config.d_model),
        d_ff_(spec.config.moe.d_ff),
        projections_(spec.projections),
        recode_(recode) {}

  std::vector<WeightSpec> weights() const override {
    std::vector<WeightSpec> specs;
    for (std::int64_t e = 0; e < n_experts_; ++e) {
      for (int p = 0; p < 3; ++p) specs.push_back(weight(e, p));
    }
    return specs;
  }

  void check(const io::WeightSource& source) const override {
    for (const WeightSpec& spec : weights()) {
      check_recode(source, require_tensor(source, spec), recode_);
    }
  }

  Kept kept(const io::WeightSource& source, backend::ActPolicy) const override {
    Kept kept;
    for (const WeightSpec& spec : weights()) kept.add(source, spec, recode_);
    return kept;
  }

 protected:
  /// 0 gate, 1 up [d_ff, d_model], 2 down [d_model, d_ff].
  WeightSpec weight(std::int64_t expert, int projection) const {
    const bool down = projection == 2;
    return {path() + "." + std::to_string(expert) + "." +
                projections_[static_cast<std::size_t>(projection)] + ".weight",
            {down ? d_model_ : d_ff_, down ? d_ff_ : d_model_}};
  }

  /// "Q4_K", or "Q4_K+Q6_K" when down differs.
  static std::string format_text(tensor::Format gate, tensor::Format down) {
    const std::string first(formats::traits(gate).name);
    return gate == down ? first : first + "+" + std::string(formats::traits(down).name);
  }

  std::int64_t n_experts_, d_model_, d_ff_;
  std::array<std::string, 3> projections_;
  Recode recode_;
};

}  // namespace kt::operators
