#include "operators/builder.h"

#include "operators/composite.h"
#include "operators/cpu_operators.h"

namespace kt::operators {
namespace {

struct OperatorRow {
  std::string_view name;
  std::string_view kind;
  std::string_view device;
};
constexpr OperatorRow kOperators[] = {
#define OPERATOR(name, kind, device) {#name, #kind, #device},
#include "operators/operators.inc"
#undef OPERATOR
};

}  // namespace

void Builder::check_operator(const std::string& path, std::string_view kind) const {
  const Placement::Entry& entry = placement_->at(path);
  for (const OperatorRow& row : kOperators) {
    if (row.kind != kind) continue;
    if (row.device == entry.device && (entry.op.empty() || entry.op == row.name)) return;
  }
  fail(ErrorCode::kUnsupported, path,
       "no operator '{}' of kind {} runs on device '{}' in this build",
       entry.op.empty() ? "default" : entry.op, kind, entry.device);
}

std::string Builder::checked(const std::string& name, std::string_view kind) const {
  std::string path = child(name);
  check_operator(path, kind);
  return path;
}

std::unique_ptr<Linear> Builder::linear(const std::string& name, std::int64_t n_out,
                                        std::int64_t n_in, bool bias) const {
  const std::string path = checked(name, "Linear");
  return adopt(
      make_cpu_linear(path, n_out, n_in, {path + ".weight", bias ? path + ".bias" : "", false}));
}

std::unique_ptr<Linear> Builder::tied_linear(const std::string& name,
                                             const std::string& weight_name, std::int64_t n_out,
                                             std::int64_t n_in) const {
  return adopt(make_cpu_linear(checked(name, "Linear"), n_out, n_in, {weight_name, "", true}));
}

std::unique_ptr<Embedding> Builder::embedding(const std::string& name, std::int64_t n,
                                              std::int64_t dim) const {
  return adopt(make_cpu_embedding(checked(name, "Embedding"), n, dim));
}

std::unique_ptr<Norm> Builder::norm(const std::string& name, std::int64_t dim, double eps) const {
  return adopt(make_rms_norm(checked(name, "Norm"), dim, eps));
}

std::unique_ptr<Rotary> Builder::rotary(const std::string& name, const io::ModelConfig& config,
                                        std::int64_t dim) const {
  return adopt(make_rotary(checked(name, "Rotary"), config, dim));
}

std::unique_ptr<Gate> Builder::gate(const std::string& name, const io::ModelConfig& config) const {
  return adopt(make_cpu_gate(checked(name, "Gate"), config));
}

std::unique_ptr<Experts> Builder::experts(const std::string& name, const io::ModelConfig& config,
                                          const std::array<std::string, 3>& projections) const {
  return adopt(make_cpu_experts(checked(name, "Experts"), config, projections));
}

std::unique_ptr<Mlp> Builder::mlp(const std::string& name, const MlpSpec& spec) const {
  checked(name, "Mlp");
  return adopt(make_gated_mlp(at(name), spec));
}

std::unique_ptr<Mlp> Builder::moe(const std::string& name, const io::ModelConfig& config,
                                  const MoeNames& names) const {
  checked(name, "Moe");
  return adopt(make_sparse_moe(at(name), config, names));
}

std::unique_ptr<Attention> Builder::gqa_attention(const std::string& name,
                                                  const io::ModelConfig& config,
                                                  const GqaSpec& spec, Rotary& rotary) const {
  checked(name, "Attention");
  return adopt(make_gqa_attention(at(name), config, spec, rotary));
}

std::unique_ptr<Attention> Builder::mla_attention(const std::string& name,
                                                  const io::ModelConfig& config,
                                                  Rotary& rotary) const {
  checked(name, "Attention");
  return adopt(make_mla_attention(at(name), config, rotary));
}

}  // namespace kt::operators
