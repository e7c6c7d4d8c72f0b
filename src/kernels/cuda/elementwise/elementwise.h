// Row-wise kernels between matrix products: norms, rotary embedding, activations, routing, rows of
// a table.
//
//   add_rms_norm   residual += delta;  out = residual / sqrt(mean(residual²) + eps) · weight
//   rope           pairs (i, i + d/2), or (2i, 2i + 1), turned by the angles of a table
//   silu_mul       out = gate · sigmoid(gate) · up
//   add            y += x;   scale_rows: y[i] *= sigmoid(gate[i])
//   route          scores → the best experts and their weights, as KMoEGate defines it
//   (operators/gate.cc)
// Every row is computed alone and in a fixed order. Thread rule: status.h.
#pragma once
#include "kernels/cuda/status.h"

namespace kt::kernels::cuda {

struct NormArgs {
  void* residual = nullptr;  // [m, d], read; written when there is a delta
  Type residual_type = Type::kF32;
  const void* delta = nullptr;  // [m, d], or null
  Type delta_type = Type::kF32;
  const float* weight = nullptr;  // [d]
  void* out = nullptr;            // [m, d]; may be the residual when there is no delta
  Type out_type = Type::kBF16;
  std::int64_t m = 0, d = 0;
  std::int64_t residual_stride = 0, delta_stride = 0, out_stride = 0;  // elements between rows
  float eps = 1e-6f;
};
Status add_rms_norm(const NormArgs& args, Stream stream);

struct RopeArgs {
  void* x = nullptr;  // [n_tokens, n_heads, d], in place
  Type type = Type::kBF16;
  std::int64_t n_tokens = 0, n_heads = 0, d = 0;
  std::int64_t token_stride = 0, head_stride = 0;
  const std::int32_t* positions = nullptr;  // [n_tokens]
  const float* cos = nullptr;  // [positions, d / 2]; any scaling (yarn) is in the table
  const float* sin = nullptr;
  bool interleaved = false;  // pairs (2i, 2i + 1)
};
Status rope(const RopeArgs& args, Stream stream);

struct SiluArgs {
  const void* gate = nullptr;  // [m, d], stride elements apart
  const void* up = nullptr;    // the same
  Type type = Type::kBF16;
  std::int64_t stride = 0;
  void* out = nullptr;  // [m, d], contiguous
  Type out_type = Type::kBF16;
  std::int64_t m = 0, d = 0;
};
Status silu_mul(const SiluArgs& args, Stream stream);

/// y += x.
struct AddArgs {
  void* y = nullptr;  // [m, n], contiguous
  Type y_type = Type::kF32;
  const void* x = nullptr;  // [m, n], x_stride elements apart; 0: one row for all (a bias)
  Type x_type = Type::kF32;
  std::int64_t x_stride = 0;
  std::int64_t m = 0, n = 0;
};
Status add(const AddArgs& args, Stream stream);

/// y[i] *= sigmoid(gate[i]).
struct ScaleArgs {
  void* y = nullptr;  // [m, n], contiguous
  Type y_type = Type::kF32;
  const float* gate = nullptr;  // [m]
  std::int64_t m = 0, n = 0;
};
Status scale_rows(const ScaleArgs& args, Stream stream);

inline constexpr std::int64_t kMaxExperts = 1024;
inline constexpr std::int64_t kMaxGroups = 64;

struct RouteArgs {
  const float* scores = nullptr;  // [m, n_experts], before softmax or sigmoid
  const float* bias = nullptr;    // [n_experts] added for the choice alone, or null
  std::int64_t m = 0, n_experts = 0, n_active = 0;
  std::int64_t n_groups = 1, n_groups_used = 1;  // n_groups divides n_experts
  bool sigmoid = false;
  bool group_top2 = false;  // a group counts as the sum of its two best, else as its best
  bool normalize = false;
  float weight_scale = 1.0f;
  std::int32_t* ids = nullptr;  // [m, n_active], best first; ties to the lower id
  float* weights = nullptr;     // [m, n_active]
};
Status route(const RouteArgs& args, Stream stream);

/// out[i] = table[ids[i]]: rows of d values of one type.
struct RowsArgs {
  const void* table = nullptr;
  Type table_type = Type::kBF16;
  const std::int32_t* ids = nullptr;  // [m]
  void* out = nullptr;                // [m, d]
  Type out_type = Type::kF32;
  std::int64_t m = 0, d = 0;
};
Status gather_rows(const RowsArgs& args, Stream stream);

/// y[rows[i]] += x[begins[i]] + … + x[begins[i + 1] - 1], in that order: rows of d floats.
struct ScatterAddArgs {
  const float* x = nullptr;
  const std::int32_t* rows = nullptr;    // [m], all different
  const std::int32_t* begins = nullptr;  // [m + 1]
  float* y = nullptr;
  std::int64_t m = 0, d = 0;
};
Status scatter_add(const ScatterAddArgs& args, Stream stream);

}  // namespace kt::kernels::cuda
