// The module tree that rules match against: every path that the Hugging Face model has, in its
// order (depth first, parents first), with the classes that each module is an instance of.
//
// Most nodes are modules of the native tree. The others exist in the published model only (the
// module lists, kv_b_proj inside latent attention, activation functions, one rotary embedding per
// layer): a rule may match them, and `stands_for` says which native module, if any, follows.
// Thread rule: pure.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "io/model_config.h"

namespace kt::placement {

struct ModuleNode {
  std::string path;
  std::string_view kind;             // "Linear", …; "List" and "Other" for what is not built
  std::vector<std::string> classes;  // class paths it is an instance of, most derived first
  std::string stands_for;            // native path, or empty
  bool is_native = false;            // whether it is that native module itself
  bool has_weights = false;          // has tensors of its own
};

/// The tree of a supported architecture; throws as models::build_model.
std::vector<ModuleNode> module_tree(const io::ModelConfig& config);

struct ForeignModule {
  std::string path;
  std::vector<std::string> classes;
  bool has_weights = false;
};

/// The tree of another program's model of this configuration, depth first, parents first: which
/// native module each path is. A block may have the other of its two names there (Mixtral's mlp and
/// block_sparse_moe).
std::vector<ModuleNode> foreign_nodes(const io::ModelConfig& config,
                                      const std::vector<ForeignModule>& modules);

/// Every class path that any supported architecture has, for telling unknown names from ones that
/// this model lacks.
std::vector<std::string> known_module_classes();

}  // namespace kt::placement
