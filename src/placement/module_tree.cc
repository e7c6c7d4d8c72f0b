#include "placement/module_tree.h"

#include <algorithm>
#include <map>
#include <set>

#include "models/model.h"

namespace kt::placement {
namespace {

using io::RopeKind;

struct Family {
  std::string_view model_type, historic, package, prefix, moe;
};
constexpr Family kFamilies[] = {
#define MODULE_CLASSES(model_type, historic, package, prefix, moe) \
  {#model_type, historic, package, prefix, moe},
#include "placement/module_classes.inc"
#undef MODULE_CLASSES
};

const Family& family_of(const io::ModelConfig& config) {
  const auto* row = std::find_if(std::begin(kFamilies), std::end(kFamilies), [&](const Family& f) {
    return f.model_type == config.architecture;
  });
  KT_CHECK(row != std::end(kFamilies));
  return *row;
}

// Both spellings of a class of the family, the bare name first where the historic code has no
// prefix.
void add_class(const Family& f, std::string_view name, std::vector<std::string>& out) {
  if (!f.historic.empty())
    out.push_back(fmt::format("ktransformers.models.{}.{}", f.historic, name));
  out.push_back(fmt::format("transformers.models.{0}.modeling_{0}.{1}", f.package, name));
}

void add_suffixes(const Family& f, std::string_view suffixes, std::vector<std::string>& out) {
  while (!suffixes.empty()) {
    const std::size_t end = std::min(suffixes.find(' '), suffixes.size());
    add_class(f, std::string(f.prefix) + std::string(suffixes.substr(0, end)), out);
    suffixes.remove_prefix(std::min(end + 1, suffixes.size()));
  }
}

void add_rotary(const Family& f, RopeKind rope, std::vector<std::string>& out) {
  if (rope == RopeKind::kYarn) add_suffixes(f, "YarnRotaryEmbedding", out);
  if (rope == RopeKind::kLinear) add_suffixes(f, "LinearScalingRotaryEmbedding", out);
  add_suffixes(f, "RotaryEmbedding", out);
}

constexpr const char* kLinearClasses[] = {"torch.nn.Linear", "torch.nn.modules.linear.Linear"};

std::vector<std::string> classes_of(const Family& f, std::string_view kind, RopeKind rope) {
  std::vector<std::string> out;
  const bool deepseek = f.prefix.starts_with("Deepseek");
  const auto torch = [&](std::initializer_list<const char*> names) {
    out.insert(out.end(), names.begin(), names.end());
  };
  if (kind == "Model") add_suffixes(f, "ForCausalLM", out);
  if (kind == "Decoder") add_suffixes(f, "Model", out);
  if (kind == "Model" || kind == "Decoder") {
    add_suffixes(f, "PreTrainedModel", out);
    torch({"transformers.modeling_utils.PreTrainedModel"});
  }
  if (kind == "DecoderLayer") {
    add_suffixes(f, "DecoderLayer", out);
    torch({"transformers.modeling_layers.GradientCheckpointingLayer"});
  }
  if (kind == "Attention") add_suffixes(f, "Attention FlashAttention2 SdpaAttention", out);
  if (kind == "Mlp") add_suffixes(f, "MLP", out);
  if (kind == "Moe") add_suffixes(f, f.moe, out);
  if (kind == "Norm") add_suffixes(f, "RMSNorm", out);
  if (kind == "Rotary") add_rotary(f, rope, out);
  if (kind == "Gate") {
    if (deepseek) add_class(f, "MoEGate", out);
    add_suffixes(f, deepseek ? "TopkRouter" : "TopKRouter", out);
  }
  if (kind == "Linear" || (kind == "Gate" && !deepseek)) {
    out.insert(out.end(), std::begin(kLinearClasses), std::end(kLinearClasses));
  }
  if (kind == "Embedding") torch({"torch.nn.Embedding", "torch.nn.modules.sparse.Embedding"});
  if (kind == "Experts") add_suffixes(f, "Experts", out);
  if (kind == "Experts" || kind == "List") {
    torch({"torch.nn.ModuleList", "torch.nn.modules.container.ModuleList"});
  }
  if (kind == "Other") {
    torch({"torch.nn.SiLU", "torch.nn.modules.activation.SiLU",
           "transformers.activations.SiLUActivation"});
  }
  torch({"torch.nn.Module", "torch.nn.modules.module.Module"});
  return out;
}

class TreeMaker {
 public:
  explicit TreeMaker(const io::ModelConfig& config) : config_(config), family_(family_of(config)) {}

  void visit(operators::Module& module) {
    const std::string& path = module.path();
    if (module.kind() == "DecoderLayer" && !has_list_) {
      add(path.substr(0, path.rfind('.')), "List", "", false);
      has_list_ = true;
    }
    add(path, module.kind(), path, !module.weights().empty());
    if (module.kind() == "Attention") {
      if (config_.mla.kv_lora_rank > 0) add(path + ".kv_b_proj", "Linear", path, true);
      add(path + ".rotary_emb", "Rotary", "model.rotary_emb", false);
    }
    for (operators::Module* child : module.children()) visit(*child);
    if (module.kind() == "Mlp") add(path + ".act_fn", "Other", "", false);
  }

  std::vector<ModuleNode> take() { return std::move(nodes_); }

 private:
  void add(std::string path, std::string_view kind, std::string stands_for, bool has_weights) {
    const bool is_native = stands_for == path;
    nodes_.push_back({std::move(path), kind, classes_of(family_, kind, config_.rope.kind),
                      std::move(stands_for), is_native, has_weights});
  }

  const io::ModelConfig& config_;
  const Family& family_;
  std::vector<ModuleNode> nodes_;
  bool has_list_ = false;
};

}  // namespace

std::vector<ModuleNode> module_tree(const io::ModelConfig& config) {
  const operators::Placement placement;
  const auto model = models::build_model(config, placement);
  TreeMaker maker(config);
  maker.visit(*model);
  return maker.take();
}

std::vector<ModuleNode> foreign_nodes(const io::ModelConfig& config,
                                      const std::vector<ForeignModule>& modules) {
  std::map<std::string, ModuleNode> here;
  for (ModuleNode& node : module_tree(config)) {
    std::string path = node.path;
    here.emplace(std::move(path), std::move(node));
  }
  const auto find = [&](std::string path) {
    auto it = here.find(path);
    constexpr std::string_view kName = ".mlp", kOther = ".block_sparse_moe";
    const std::size_t at = path.find(kName);
    if (it != here.end() || at == std::string::npos) return it;
    return here.find(path.replace(at, kName.size(), kOther));
  };
  std::vector<ModuleNode> nodes;
  for (const ForeignModule& module : modules) {
    ModuleNode& node = nodes.emplace_back();
    const auto it = find(module.path);
    if (it != here.end()) node = it->second;
    if (it == here.end()) node.kind = "Other";
    node.path = module.path;
    node.classes = module.classes;
    node.has_weights = module.has_weights;
  }
  return nodes;
}

std::vector<std::string> known_module_classes() {
  std::set<std::string> names;
  for (const Family& f : kFamilies) {
    for (const char* kind : {"Model", "Decoder", "DecoderLayer", "Attention", "Mlp", "Moe", "Norm",
                             "Rotary", "Gate", "Linear", "Embedding", "Experts", "List", "Other"}) {
      for (const RopeKind rope : {RopeKind::kDefault, RopeKind::kYarn, RopeKind::kLinear}) {
        for (std::string& name : classes_of(f, kind, rope)) names.insert(std::move(name));
      }
    }
    std::vector<std::string> dynamic;
    add_suffixes(f, "DynamicNTKScalingRotaryEmbedding", dynamic);
    names.insert(dynamic.begin(), dynamic.end());
  }
  return {names.begin(), names.end()};
}

}  // namespace kt::placement
