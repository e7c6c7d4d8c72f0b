// Builds modules at a path with the operator that the placement names for it.
//
//   const Builder b = builder.under(*this);          // children of this module
//   q_proj_ = b.linear("q_proj", n_out, n_in, bias);
//
// Placement: path → operator class, device, reason; a path without an entry gets the kind's
// default. Thread rule: used from one thread.
#pragma once
#include <array>
#include <map>
#include <memory>
#include <string>

#include "io/model_config.h"
#include "operators/kinds.h"

namespace kt::operators {

/// What runs where, decided by rules or the planner before anything is built.
struct Placement {
  struct Entry {
    std::string op;      // operator class; empty: the kind's default
    std::string device;  // "cpu"
    std::string reason;
  };
  std::map<std::string, Entry> entries;
  Entry default_entry{"", "cpu", "default: everything on the CPU"};
  const Entry& at(const std::string& path) const {
    const auto it = entries.find(path);
    return it == entries.end() ? default_entry : it->second;
  }
};

/// Shape of a gated MLP.
struct MlpSpec {
  std::int64_t d_model = 0;
  std::int64_t d_ff = 0;
  bool bias = false;
};

/// How an architecture names the parts of its sparse block.
struct MoeNames {
  std::array<std::string, 3> projections = {"gate_proj", "up_proj", "down_proj"};
  std::string shared = "shared_experts";  // used when the configuration has shared experts
  std::string shared_gate = "shared_expert_gate";
};

struct GqaSpec {
  bool qk_norm = false;     // RMS norms on the q and k heads (Qwen3)
  std::int64_t window = 0;  // tokens a query looks back; 0: all
};

class Builder {
 public:
  Builder(std::string path, const Placement& placement, Module* parent)
      : path_(std::move(path)), placement_(&placement), parent_(parent) {}
  /// The path that modules made here hang below, or that a composite takes for itself.
  const std::string& path() const { return path_; }
  /// Builder whose path is the child `name`, for a composite that will live there.
  Builder at(const std::string& name) const { return Builder(child(name), *placement_, parent_); }
  /// Builder for the children of `module`, registering them under it.
  Builder under(Module& module) const { return Builder(module.path(), *placement_, &module); }

  std::unique_ptr<Linear> linear(const std::string& name, std::int64_t n_out, std::int64_t n_in,
                                 bool bias = false) const;
  /// A linear whose weights are those of another module's tensor (tied lm_head).
  std::unique_ptr<Linear> tied_linear(const std::string& name, const std::string& weight_name,
                                      std::int64_t n_out, std::int64_t n_in) const;
  std::unique_ptr<Embedding> embedding(const std::string& name, std::int64_t n,
                                       std::int64_t dim) const;
  std::unique_ptr<Norm> norm(const std::string& name, std::int64_t dim, double eps) const;
  std::unique_ptr<Rotary> rotary(const std::string& name, const io::ModelConfig& config,
                                 std::int64_t dim) const;
  std::unique_ptr<Gate> gate(const std::string& name, const io::ModelConfig& config) const;
  std::unique_ptr<Experts> experts(const std::string& name, const io::ModelConfig& config,
                                   const std::array<std::string, 3>& projections) const;
  std::unique_ptr<Mlp> mlp(const std::string& name, const MlpSpec& spec) const;
  std::unique_ptr<Mlp> moe(const std::string& name, const io::ModelConfig& config,
                           const MoeNames& names) const;
  std::unique_ptr<Attention> gqa_attention(const std::string& name, const io::ModelConfig& config,
                                           const GqaSpec& spec, Rotary& rotary) const;
  std::unique_ptr<Attention> mla_attention(const std::string& name, const io::ModelConfig& config,
                                           Rotary& rotary) const;
  /// Registers a module made elsewhere (decoder layers) and hands it back.
  template <class M>
  std::unique_ptr<M> adopt(std::unique_ptr<M> module) const {
    if (parent_ != nullptr) parent_->add_child(*module);
    return module;
  }

 private:
  std::string child(const std::string& name) const {
    return path_.empty() ? name : path_ + "." + name;
  }
  /// Path of the child `name`, after checking that the placement's operator exists; throws
  /// kUnsupported.
  std::string checked(const std::string& name, std::string_view kind) const;
  void check_operator(const std::string& path, std::string_view kind) const;
  std::string path_;
  const Placement* placement_;
  Module* parent_;
};

}  // namespace kt::operators
