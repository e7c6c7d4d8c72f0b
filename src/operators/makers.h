// Makers of the operators that ship, named by operators.inc; the catalogue is their only caller.
// Each builds a module at the path, device and keyword arguments of `at`. Thread rule: as Module.
#pragma once
#include <memory>

#include "operators/builder.h"

namespace kt::operators {

/// num_bits, group_size, act_order and is_k_full of `at`; throws kUnsupported.
Recode group_recode(const Builder& at);

std::unique_ptr<Linear> make_stored_linear(const Builder& at, const LinearSpec& spec);
/// Quantised weights decoded to floats at load.
std::unique_ptr<Linear> make_dense_linear(const Builder& at, const LinearSpec& spec);
/// 8 bits, one scale per output row.
std::unique_ptr<Linear> make_q8_linear(const Builder& at, const LinearSpec& spec);
/// num_bits and group_size, as Marlin kernels read them.
std::unique_ptr<Linear> make_group_linear(const Builder& at, const LinearSpec& spec);
/// Weights stored as block FP8, used as they are.
std::unique_ptr<Linear> make_fp8_linear(const Builder& at, const LinearSpec& spec);

std::unique_ptr<Experts> make_gpu_experts(const Builder& at, const ExpertsSpec& spec,
                                          const Recode& recode);

std::unique_ptr<Experts> make_stored_experts(const Builder& at, const ExpertsSpec& spec);
std::unique_ptr<Experts> make_dense_experts(const Builder& at, const ExpertsSpec& spec);
std::unique_ptr<Experts> make_group_experts(const Builder& at, const ExpertsSpec& spec);

/// Router, routed experts, and shared experts that work beside them.
std::unique_ptr<Mlp> make_sparse_moe(const Builder& at, const MoeSpec& spec);
std::unique_ptr<Mlp> make_gated_mlp(const Builder& at, const MlpSpec& spec);

std::unique_ptr<Attention> make_gqa_attention(const Builder& at, const GqaSpec& spec);
std::unique_ptr<Attention> make_mla_attention(const Builder& at, const MlaSpec& spec);

std::unique_ptr<Gate> make_gate(const Builder& at, const GateSpec& spec);

/// Angle tables as the configuration scales them.
std::unique_ptr<Rotary> make_rotary(const Builder& at, const RotarySpec& spec);
/// As make_rotary, and refuse configurations whose scaling the name does not stand for.
std::unique_ptr<Rotary> make_plain_rotary(const Builder& at, const RotarySpec& spec);
std::unique_ptr<Rotary> make_scaled_rotary(const Builder& at, const RotarySpec& spec);
std::unique_ptr<Rotary> make_yarn_rotary(const Builder& at, const RotarySpec& spec);

std::unique_ptr<Norm> make_rms_norm(const Builder& at, const NormSpec& spec);
std::unique_ptr<Embedding> make_embedding(const Builder& at, const EmbeddingSpec& spec);

}  // namespace kt::operators
