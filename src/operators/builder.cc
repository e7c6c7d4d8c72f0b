#include "operators/builder.h"

#include "operators/phased.h"

namespace kt::operators {

void Builder::check_device(const std::string& path, const std::string& device) const {
  if (device == "cpu") return;
  const std::optional<int> gpu = gpu_index(device);
  if (gpu && (*gpu < placement_->devices.n_gpus || placement_->devices.emulated)) return;
  fail(ErrorCode::kUnsupported, path, "device '{}' does not exist: there are {} GPUs here", device,
       placement_->devices.n_gpus);
}

template <class Kind, class Spec>
std::unique_ptr<Kind> Builder::make_with(const std::string& path, const std::string& op,
                                         const std::string& device, const Spec& spec) const {
  check_device(path, device);
  const OperatorRow* row = op.empty() ? placement_->catalogue->first<Kind, Spec>(device)
                                      : placement_->catalogue->find(op);
  if constexpr (std::is_same_v<Kind, Gate>) {
    if (row != nullptr && row->kind == "Linear")
      row = placement_->catalogue->first<Kind, Spec>(device);
  }
  const auto* maker = row == nullptr ? nullptr : std::get_if<Make<Kind, Spec>>(&row->maker);
  if (maker == nullptr || !row->runs_on(device)) {
    fail(ErrorCode::kUnsupported, path, "no operator '{}' for this module runs on device '{}'",
         op.empty() ? "default" : op, device);
  }
  Builder at(path, *placement_, nullptr);
  at.site_ = {path, row->name, placement_->at(path).rule_class, device};
  return (*maker)(at, spec);
}

template <class Kind, class Spec>
std::unique_ptr<Kind> Builder::make(const std::string& name, const Spec& spec) const {
  const std::string path = child(name);
  const Placement::Entry& entry = placement_->at(path);
  auto module = make_with<Kind>(path, entry.op, entry.device, spec);
  if constexpr (std::is_same_v<Kind, Linear> || std::is_same_v<Kind, Experts>) {
    if (placement_->layer_wise_threshold > 0 && !entry.prefill_op.empty() &&
        (entry.prefill_op != module->op() || entry.prefill_device != entry.device)) {
      auto prefill = make_with<Kind>(path, entry.prefill_op, entry.prefill_device, spec);
      const bool gpus = !placement_->devices.emulated &&
                        (gpu_index(entry.device) || gpu_index(entry.prefill_device));
      return adopt(make_phased(std::move(module), std::move(prefill), gpus));
    }
  }
  return adopt(std::move(module));
}

Builder Builder::structural(const std::string& name, std::string_view kind) const {
  const std::string path = name.empty() ? path_ : child(name);
  const Placement::Entry& entry = placement_->at(path);
  check_device(path, entry.device);
  const OperatorRow* row = nullptr;
  for (const OperatorRow& r : placement_->catalogue->rows()) {
    if (row == nullptr && r.kind == kind && std::holds_alternative<Structural>(r.maker) &&
        (entry.op.empty() || r.name == entry.op)) {
      row = &r;
    }
  }
  if (row == nullptr) {
    fail(ErrorCode::kUnsupported, path, "operator '{}' cannot be a {}", entry.op, kind);
  }
  Builder at(path, *placement_, parent_);
  at.site_ = {path, row->name, entry.rule_class, entry.device};
  return at;
}

std::optional<int> Builder::experts_gpu() const {
  const std::size_t dot = path_.rfind('.');
  // Operators that make room for others of the CPU would be pinned anew each time.
  const Placement::Entry& entry = placement_->at(path_);
  const bool changes = placement_->layer_wise_threshold > 0 && !entry.prefill_op.empty() &&
                       !gpu_index(entry.prefill_device);
  if (changes || placement_->devices.emulated || dot == std::string::npos) return {};
  return gpu_index(placement_->at(std::string_view(path_).substr(0, dot)).device);
}

const Value* Builder::kwarg(std::string_view name) const {
  const Kwargs& kwargs = placement_->at(path_).kwargs;
  const auto it = kwargs.find(name);
  if (it == kwargs.end() || std::holds_alternative<std::monostate>(it->second)) return nullptr;
  return &it->second;
}

std::int64_t Builder::whole(std::string_view name, std::int64_t fallback) const {
  const Value* value = kwarg(name);
  if (value == nullptr) return fallback;
  if (const auto* number = std::get_if<std::int64_t>(value)) return *number;
  fail(ErrorCode::kUsage, path_, "{} is not a whole number", name);
}

bool Builder::flag(std::string_view name, bool fallback) const {
  const Value* value = kwarg(name);
  if (value == nullptr) return fallback;
  if (const auto* set = std::get_if<bool>(value)) return *set;
  fail(ErrorCode::kUsage, path_, "{} is neither true nor false", name);
}

std::string Builder::text(std::string_view name, const std::string& fallback) const {
  const Value* value = kwarg(name);
  if (value == nullptr) return fallback;
  if (const auto* words = std::get_if<std::string>(value)) return *words;
  fail(ErrorCode::kUsage, path_, "{} is not text", name);
}

std::unique_ptr<Linear> Builder::linear(const std::string& name, std::int64_t n_out,
                                        std::int64_t n_in, bool bias) const {
  const std::string path = child(name);
  return make<Linear>(name,
                      LinearSpec{n_out, n_in, path + ".weight", bias ? path + ".bias" : "", false});
}

std::unique_ptr<Linear> Builder::product(std::int64_t n_out, std::int64_t n_in) const {
  const Placement::Entry& entry = placement_->at(path_);
  const OperatorRow* row = placement_->catalogue->find(entry.op);
  const std::string op = row != nullptr && row->kind == "Linear" ? row->name : "";
  return make_with<Linear>(path_, op, entry.device,
                           LinearSpec{n_out, n_in, path_ + ".weight", "", false});
}

std::unique_ptr<Linear> Builder::tied_linear(const std::string& name,
                                             const std::string& weight_name, std::int64_t n_out,
                                             std::int64_t n_in) const {
  return make<Linear>(name, LinearSpec{n_out, n_in, weight_name, "", true});
}

std::unique_ptr<Embedding> Builder::embedding(const std::string& name, std::int64_t n,
                                              std::int64_t dim) const {
  return make<Embedding>(name, EmbeddingSpec{n, dim});
}

std::unique_ptr<Norm> Builder::norm(const std::string& name, std::int64_t dim, double eps) const {
  return make<Norm>(name, NormSpec{dim, eps});
}

std::unique_ptr<Rotary> Builder::rotary(const std::string& name, const RotarySpec& spec) const {
  return make<Rotary>(name, spec);
}

std::unique_ptr<Gate> Builder::gate(const std::string& name, const io::ModelConfig& config) const {
  return make<Gate>(name, GateSpec{config});
}

std::unique_ptr<Experts> Builder::experts(const std::string& name, const ExpertsSpec& spec) const {
  return make<Experts>(name, spec);
}

std::unique_ptr<Mlp> Builder::mlp(const std::string& name, const MlpSpec& spec) const {
  return make<Mlp>(name, spec);
}

std::unique_ptr<Mlp> Builder::moe(const std::string& name, const io::ModelConfig& config,
                                  const MoeNames& names) const {
  return make<Mlp>(name, MoeSpec{config, names});
}

std::unique_ptr<Attention> Builder::gqa_attention(const std::string& name,
                                                  const GqaSpec& spec) const {
  return make<Attention>(name, spec);
}

std::unique_ptr<Attention> Builder::mla_attention(const std::string& name,
                                                  const MlaSpec& spec) const {
  return make<Attention>(name, spec);
}

}  // namespace kt::operators
