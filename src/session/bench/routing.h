// Which experts the rows of a call use. A single row walks through all experts of all layers before
// any comes again, so that its weights are cold; more rows choose independently and uniformly.
// Thread rule: one thread.
#pragma once
#include <cstdint>
#include <random>
#include <vector>

namespace kt::session::bench {

struct RoutedRows {
  std::int64_t layer = 0;
  std::vector<std::int32_t> ids;  // [m, n_active], distinct within a row
  std::vector<float> weights;     // [m, n_active], sum 1 per row
  std::int64_t n_distinct = 0;    // experts that any row uses
};

class RoutingSequence {
 public:
  RoutingSequence(std::int64_t n_layers, std::int64_t n_experts, std::int64_t n_active)
      : n_layers_(n_layers), n_experts_(n_experts), n_active_(n_active) {}
  /// The next call's rows.
  RoutedRows next(std::int64_t m);

 private:
  std::vector<std::int32_t> next_experts(std::int64_t layer);
  std::int64_t n_layers_;
  std::int64_t n_experts_;
  std::int64_t n_active_;
  std::int64_t calls_ = 0;
  std::mt19937_64 random_{7};
  std::vector<std::vector<std::int32_t>> unused_;  // per layer, shuffled
};

}  // namespace kt::session::bench
