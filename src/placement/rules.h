// YAML rule files: which operator and device each module gets.
//
//   - match:                       # both must hold when both are given
//       name: "^model\\.layers\\..*\\.mlp\\.experts$"    # regular expression, searched in the path
//       class: torch.nn.ModuleList                       # or a class it derives from
//     replace:
//       class: ktransformers.operators.experts.KTransformersExperts
//       kwargs: {generate_device: cpu, generate_op: KExpertsCPU}
//     recursive: False
//
// The tree is walked depth first, parents first; the first rule that matches a module decides, and
// a module that no rule matches keeps the default operator on the default device. Files are limited
// to 1 MiB. Thread rule: pure.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "operators/catalogue.h"
#include "operators/placement.h"
#include "placement/diagnostic.h"
#include "placement/module_tree.h"

namespace kt::placement {

/// Where a value of the file stands.
struct Text {
  std::string value;
  Position at;
};

struct Kwarg {
  Text name;
  operators::Value value;
  Position at;
};

struct Rule {
  Position at;
  std::optional<Text> name;
  std::optional<Text> match_class;
  Text replace_class{"default", {}};
  std::vector<Kwarg> kwargs;
  bool recursive = true;
};

struct RuleFile {
  std::string path;
  std::string text;
  std::vector<Rule> rules;
};

/// Reads the grammar. Throws kBadFile with every problem found, one diagnostic each. With a
/// catalogue, keyword arguments of classes that it lacks may be any YAML, for the caller who
/// provides them; only those that an operator of ours could take are in the result.
RuleFile parse_rules(std::string text, const std::string& path,
                     const operators::Catalogue* only = nullptr);

/// The module tree of another program, a Transformers model in Python, for rules to decide instead
/// of module_tree(config), with what its classes are there.
struct ForeignTree {
  std::vector<ModuleNode> nodes;               // of foreign_nodes
  std::map<std::string, std::string> missing;  // class paths of the file that it lacks: why
  /// Classes, not of the catalogue, that it provides, with the class of the catalogue that each is
  /// derived from: it takes that one's keyword arguments too. Empty: from none.
  std::map<std::string, std::string> operators;
};

struct RuleContext {
  const io::ModelConfig& config;
  std::shared_ptr<const operators::Catalogue> catalogue;
  operators::Devices devices;
  std::string default_device = "cpu";  // of modules that no rule matches
  const ForeignTree* foreign = nullptr;
  /// What to do about a GPU that a rule names and that does not exist; a format, of how many it
  /// wants.
  std::string gpu_hint = "--emulate-gpus {} lets the CPU stand in for GPUs";
};

struct RuleResult {
  operators::Placement placement;
  std::vector<std::string> warnings;  // formatted diagnostics
  /// For every node of the tree the index of the rule that decided it; kNoRule, or kNotVisited
  /// below a rule with `recursive: False`.
  static constexpr int kNoRule = -1, kNotVisited = -2;
  std::vector<int> decided_by;
};

/// Decides every module. Throws kBadFile with every problem found: classes and operators nobody
/// provides, devices that do not exist, keyword arguments that the operator does not take.
RuleResult apply_rules(const RuleFile& file, const RuleContext& context);

/// parse_rules and apply_rules on a file. Throws kNotFound, kIo, kBadFile.
RuleResult read_rules(const std::string& path, const RuleContext& context);

}  // namespace kt::placement
