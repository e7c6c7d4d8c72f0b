// The routed experts that live on the GPU: y[i] = Σ_j weights[i, j] · expert(ids[i, j], x[i]),
// where
//
//   expert(e, x) = down[e] · (silu(gate[e]·x) · (up[e]·x))
//
// Weights are packed by gemm/gemm.h, one expert after the other. About as many (token, expert)
// pairs as experts, or fewer: one launch computes gate, up and the activation of all, one down and
// the weighted sum. More: pairs are grouped by expert on the device, so that up to 32 rows share
// each read of the weights (128 on Hopper, gemm/many_rows.h), and the weighted results are added by
// a launch of their own. Sums are in the order of the slots. Ids outside [0, n_experts) are
// computed elsewhere and left out here. moe_reference() is the slow twin. Thread rule: status.h.
#pragma once
#include "formats/format.h"
#include "kernels/cuda/status.h"

namespace kt::kernels::cuda {

/// All experts' matrices of one kind, packed_bytes() apart.
struct ExpertMatrices {
  formats::Format format{};
  const void* tiles = nullptr;
};

struct MoeArgs {
  ExpertMatrices gate, up;  // [n_experts][d_ff, d_model], one format
  ExpertMatrices down;      // [n_experts][d_model, d_ff]
  std::int64_t n_experts = 0, d_model = 0, d_ff = 0;
  const void* x = nullptr;  // [m, d_model] bf16, x_stride elements apart
  std::int64_t x_stride = 0;
  std::int64_t m = 0, n_active = 0;
  const std::int32_t* ids = nullptr;  // [m, n_active]
  const float* weights = nullptr;     // [m, n_active]
  void* y = nullptr;                  // [m, d_model], y_stride elements apart
  Type y_type = Type::kF32;
  std::int64_t y_stride = 0;
  bool add = false;       // to what y holds, instead of overwriting it
  bool portable = false;  // without Hopper's instructions, on any device
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};

/// Whether moe/kernels.inc lists this format.
bool has_moe(formats::Format format);

/// Work memory; pointers in args are not looked at.
std::size_t moe_workspace(const MoeArgs& args);
std::size_t moe_reference_workspace(const MoeArgs& args);

Status moe(const MoeArgs& args, Stream stream);
Status moe_reference(const MoeArgs& args, Stream stream);

}  // namespace kt::kernels::cuda
