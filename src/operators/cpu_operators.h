// Makers of the CPU operators, one per row of operators.inc; the Builder is their only caller.
// Thread rule: as Module.
#pragma once
#include <array>
#include <memory>
#include <string>

#include "io/model_config.h"
#include "operators/kinds.h"

namespace kt::operators {

/// Tensor names of a linear; empty bias: none. shared_weight: another module declares the tensor.
struct LinearWeights {
  std::string weight;
  std::string bias;
  bool shared_weight = false;
};

std::unique_ptr<Linear> make_cpu_linear(std::string path, std::int64_t n_out, std::int64_t n_in,
                                        const LinearWeights& names);
std::unique_ptr<Embedding> make_cpu_embedding(std::string path, std::int64_t n, std::int64_t dim);
std::unique_ptr<Norm> make_rms_norm(std::string path, std::int64_t dim, double eps);
std::unique_ptr<Rotary> make_rotary(std::string path, const io::ModelConfig& config,
                                    std::int64_t dim);
std::unique_ptr<Gate> make_cpu_gate(std::string path, const io::ModelConfig& config);

/// Routed experts; projections are the names of {gate, up, down} in the checkpoint.
std::unique_ptr<Experts> make_cpu_experts(std::string path, const io::ModelConfig& config,
                                          const std::array<std::string, 3>& projections);

}  // namespace kt::operators
