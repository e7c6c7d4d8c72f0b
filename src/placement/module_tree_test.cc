// The module tree against the modules of Hugging Face Transformers, as
// tools/goldens/make_module_trees.py dumped them: every path with every class a rule can name
// there, and nothing else but the known differences.
#include "placement/module_tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "io/hf_config.h"

namespace kt::placement {
namespace {

const std::filesystem::path kData = std::filesystem::path(KT_SOURCE_DIR) / "tests/data";

std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kData / "golden_configs")) {
    names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::map<std::string, std::vector<std::string>> tree_here(const std::string& name) {
  const auto text = read_text(kData / "golden_configs" / (name + ".json"));
  std::map<std::string, std::vector<std::string>> out;
  for (ModuleNode& node : module_tree(io::parse_hf_config(text, "", name).model)) {
    EXPECT_TRUE(out.emplace(node.path, node.classes).second) << node.path << " twice";
  }
  return out;
}

// Known differences. Routed experts are one module without children, and Mixtral's blocks have the
// name that its checkpoints and historic rule files have.
std::string path_here(const std::string& name, std::string path) {
  if (path.ends_with(".experts.act_fn")) return "";
  const std::size_t mlp = path.find(".mlp");
  if (name == "mixtral" && mlp != std::string::npos) path.replace(mlp, 4, ".block_sparse_moe");
  return path;
}

// One rotary embedding per layer, as older models had them.
bool only_here(const std::string& path) { return path.ends_with(".self_attn.rotary_emb"); }

class ModuleTree : public testing::TestWithParam<std::string> {};

TEST_P(ModuleTree, HasThePathsAndClassesOfTransformers) {
  const std::string& name = GetParam();
  const auto golden = nlohmann::json::parse(read_text(kData / "module_trees" / (name + ".json")));
  auto here = tree_here(name);
  std::size_t n_compared = 0;
  for (const auto& [golden_path, index] : golden["modules"].items()) {
    const std::string path = path_here(name, golden_path);
    if (path.empty() && !golden_path.empty()) continue;
    const auto it = here.find(path);
    if (it == here.end()) {
      ADD_FAILURE() << "no module '" << path << "'";
      continue;
    }
    std::vector<std::string> common;  // in the order here
    const auto wanted = golden["classes"][index.get<std::size_t>()].get<std::vector<std::string>>();
    for (const std::string& c : it->second) {
      if (std::find(wanted.begin(), wanted.end(), c) != wanted.end()) common.push_back(c);
    }
    EXPECT_EQ(common, wanted) << "classes of '" << path << "'";
    here.erase(it);
    ++n_compared;
  }
  EXPECT_GE(n_compared, 29u);
  for (const auto& [path, classes] : here) {
    EXPECT_TRUE(only_here(path)) << "'" << path << "' is not in Transformers";
  }
}

TEST_P(ModuleTree, IsDepthFirstWithParentsFirst) {
  const auto text = read_text(kData / "golden_configs" / (GetParam() + ".json"));
  const auto tree = module_tree(io::parse_hf_config(text, "", GetParam()).model);
  std::set<std::string> seen;
  std::vector<std::string> open;  // the path from the root to the node before
  ASSERT_EQ(tree.front().path, "");
  for (const ModuleNode& node : tree) {
    if (!node.path.empty()) {
      const std::size_t dot = node.path.rfind('.');
      const std::string parent = dot == std::string::npos ? "" : node.path.substr(0, dot);
      while (!open.empty() && open.back() != parent) open.pop_back();
      EXPECT_FALSE(open.empty()) << "'" << node.path << "' does not follow its parent";
    }
    open.push_back(node.path);
    EXPECT_TRUE(seen.insert(node.path).second);
  }
}

TEST_P(ModuleTree, EveryClassIsKnown) {
  const auto known = known_module_classes();
  EXPECT_TRUE(std::is_sorted(known.begin(), known.end()));
  for (const auto& [path, classes] : tree_here(GetParam())) {
    for (const std::string& c : classes) {
      EXPECT_TRUE(std::binary_search(known.begin(), known.end(), c)) << c;
    }
    EXPECT_TRUE(std::set<std::string>(classes.begin(), classes.end()).contains("torch.nn.Module"));
  }
}

INSTANTIATE_TEST_SUITE_P(Goldens, ModuleTree, testing::ValuesIn(golden_names()),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace kt::placement
