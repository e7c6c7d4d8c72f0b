// What a kernel bench can measure, as a list: the rows of the kernel tables that this CPU can run,
// and MoE layers and attention in the shapes of published models.
//
//   case name = "<kernel row> <shape>", "moe <format> <shape>" or "attention <format> <shape>
//   <context>"; a filter is a regular expression that is searched in it, letters of any case
//
// Thread rule: pure.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/cpu/cpu.h"
#include "operators/loader.h"

namespace kt::session::bench {

/// Attention of a layer over its cache.
struct AttentionShape {
  std::int64_t n_heads = 0;  // 0: unknown
  std::int64_t n_kv_heads = 0;
  std::int64_t dim_qk = 0;
  std::int64_t dim_v = 0;
  /// One stream holds keys, and in their first dim_v values what is summed (absorbed MLA).
  bool latent() const { return dim_qk != dim_v; }
};

/// Routed experts of a layer, and its attention.
struct LayerShape {
  std::string name;
  std::int64_t d_model = 0;
  std::int64_t d_ff = 0;
  std::int64_t n_experts = 0;
  std::int64_t n_active = 0;
  AttentionShape attention = {};
};
/// The rows of shapes.inc.
std::span<const LayerShape> layer_shapes();
/// A row of shapes.inc, or "DxF:E:A" (d_model, d_ff, experts, active experts). Throws kUsage.
LayerShape parse_shape(const std::string& text);

/// How the experts of a layer are stored, and what loading makes of that.
struct LayerFormat {
  std::string name;  // "q4_k"
  formats::Format stored{};
  std::string backend;  // kwarg of KExpertsCPU; empty: none
  operators::Recode recode;
};
/// A weight format ("q4_k"), or "int8", "int4": BF16 requantised at load with one scale per row.
/// Throws kUsage.
LayerFormat parse_format(const std::string& name);

/// "1,2,16-20,64:512": numbers, all numbers of a range, and doubling from a number to another;
/// ascending, without duplicates. Throws kUsage naming `flag`.
std::vector<std::int64_t> parse_sizes(const std::string& flag, const std::string& text);

/// Words between commas; empty for an empty text.
std::vector<std::string> split_list(const std::string& text);

struct Case {
  const kernels::dot::Kernel* kernel = nullptr;  // null: a MoE layer, or attention
  LayerFormat format;                            // of weights, or of the cache
  LayerShape shape;
  std::int64_t context = 0;  // positions that attention sees; 0: not attention
  std::string name() const;
};

struct Selection {
  std::string filter;  // empty: everything
  // Empty: all rows; q4_k, q8_0 and bf16 for MoE layers; f16, bf16 and q8_0 for attention.
  std::vector<std::string> formats;
  std::vector<std::string> shapes;  // empty: qwen3-30b
};

/// MoE layers first, then attention in those of the formats that a cache can have, then kernel rows
/// in table order, each on the matrix [d_ff, d_model] of the
/// shapes that suit it. Reference rows only count when `caps` has nothing better or the filter
/// names "ref". Throws kUsage for unknown names, a layer whose widths do not suit a format asked
/// for, and a filter that is no regular expression or matches nothing.
std::vector<Case> select_cases(const Selection& selection, CpuCaps caps);

}  // namespace kt::session::bench
