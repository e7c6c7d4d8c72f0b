// Builds modules at a path with the operator that the placement names for it.
//
//   const Builder b = at.under(*this);          // children of this module
//   q_proj_ = b.linear("q_proj", n_out, n_in, bias);
//
// A path without an entry gets the kind's first operator for the default device. Thread rule: used
// from one thread.
#pragma once
#include <array>
#include <memory>
#include <optional>
#include <string>

#include "operators/catalogue.h"
#include "operators/placement.h"

namespace kt::operators {

class Builder {
 public:
  /// Builder at `path`, whose modules become children of `parent` (null: of nobody). The placement
  /// must outlive it.
  Builder(std::string path, const Placement& placement, Module* parent)
      : path_(std::move(path)), placement_(&placement), parent_(parent) {}
  const std::string& path() const { return path_; }
  /// Path, operator and device of the module to be made here.
  const Site& site() const { return site_; }
  const Placement& placement() const { return *placement_; }
  /// Builder for the children of `module`, registering them under it.
  Builder under(Module& module) const { return Builder(module.path(), *placement_, &module); }
  /// Builder at the path of a child that the model file makes itself: its operator must be a
  /// structural one of this kind.
  Builder structural(const std::string& name, std::string_view kind) const;

  /// The product inside a module that routes by one (a gate): a linear at the same path, of the
  /// operator that the rule names when that is a linear. The caller owns it; it is nobody's child.
  std::unique_ptr<Linear> product(std::int64_t n_out, std::int64_t n_in) const;

  /// The GPU that this path is on; nothing on the CPU, which may stand in for a GPU.
  std::optional<int> gpu() const {
    return placement_->devices.emulated ? std::nullopt : gpu_index(site_.device);
  }

  /// The GPU of the module above, when experts here may go to it.
  std::optional<int> experts_gpu() const;

  /// Keyword arguments of this path; the fallback when the rule does not give them.
  std::int64_t whole(std::string_view name, std::int64_t fallback) const;
  bool flag(std::string_view name, bool fallback) const;
  std::string text(std::string_view name, const std::string& fallback) const;

  std::unique_ptr<Linear> linear(const std::string& name, std::int64_t n_out, std::int64_t n_in,
                                 bool bias = false) const;
  /// A linear whose weights are those of another module's tensor (tied lm_head).
  std::unique_ptr<Linear> tied_linear(const std::string& name, const std::string& weight_name,
                                      std::int64_t n_out, std::int64_t n_in) const;
  std::unique_ptr<Embedding> embedding(const std::string& name, std::int64_t n,
                                       std::int64_t dim) const;
  std::unique_ptr<Norm> norm(const std::string& name, std::int64_t dim, double eps) const;
  std::unique_ptr<Rotary> rotary(const std::string& name, const RotarySpec& spec) const;
  std::unique_ptr<Gate> gate(const std::string& name, const io::ModelConfig& config) const;
  std::unique_ptr<Experts> experts(const std::string& name, const ExpertsSpec& spec) const;
  std::unique_ptr<Mlp> mlp(const std::string& name, const MlpSpec& spec) const;
  std::unique_ptr<Mlp> moe(const std::string& name, const io::ModelConfig& config,
                           const MoeNames& names) const;
  std::unique_ptr<Attention> gqa_attention(const std::string& name, const GqaSpec& spec) const;
  std::unique_ptr<Attention> mla_attention(const std::string& name, const MlaSpec& spec) const;
  /// Registers a module made elsewhere (decoder layers) and hands it back.
  template <class M>
  std::unique_ptr<M> adopt(std::unique_ptr<M> module) const {
    if (parent_ != nullptr) parent_->add_child(*module);
    return module;
  }

 private:
  template <class Kind, class Spec>
  std::unique_ptr<Kind> make(const std::string& name, const Spec& spec) const;
  template <class Kind, class Spec>
  std::unique_ptr<Kind> make_with(const std::string& path, const std::string& op,
                                  const std::string& device, const Spec& spec) const;
  void check_device(const std::string& path, const std::string& device) const;
  std::string child(const std::string& name) const {
    return path_.empty() ? name : path_ + "." + name;
  }
  const Value* kwarg(std::string_view name) const;
  std::string path_;
  Site site_;
  const Placement* placement_;
  Module* parent_;
};

}  // namespace kt::operators
