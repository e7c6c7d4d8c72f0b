#include "placement/rule_writer.h"

#include <algorithm>
#include <map>
#include <vector>

namespace kt::placement {
namespace {

using operators::Placement;

constexpr std::string_view kLayers = "layers.";

// "model.layers.7.mlp" → "^model\.layers\.#\.mlp$" and 7; -1 without a layer.
std::pair<std::string, std::int64_t> pattern_of(const std::string& path) {
  std::string pattern = "^";
  std::int64_t layer = -1;
  const auto at = path.find(kLayers);
  const auto digits = at == std::string::npos ? at : at + kLayers.size();
  for (std::size_t i = 0; i < path.size(); ++i) {
    if (i == digits) {
      const auto end = std::min(path.find_first_not_of("0123456789", i), path.size());
      layer = std::stoll(path.substr(i, end - i));
      pattern += "#";
      i = end - 1;
    } else {
      pattern += path[i] == '.' ? std::string("\\.") : std::string(1, path[i]);
    }
  }
  return {pattern + "$", layer};
}

std::string alternatives(const std::vector<std::int64_t>& layers) {
  std::string text;
  for (const std::int64_t layer : layers) text += (text.empty() ? "" : "|") + std::to_string(layer);
  return layers.size() == 1 ? text : "(" + text + ")";
}

std::string value_text(const operators::Value& value) {
  struct Visitor {
    std::string operator()(std::monostate) const { return "null"; }
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(std::int64_t v) const { return std::to_string(v); }
    std::string operator()(double v) const { return fmt::format("{}", v); }
    std::string operator()(const std::string& v) const { return '"' + v + '"'; }
    std::string operator()(const std::map<std::int64_t, std::string>& map) const {
      std::string text;
      for (const auto& [layer, device] : map)
        text += fmt::format("{}{}: \"{}\"", text.empty() ? "" : ", ", layer, device);
      return "{" + text + "}";
    }
  };
  return std::visit(Visitor{}, value);
}

struct Group {
  std::string pattern;
  std::string replace;
  std::string reason;
  std::vector<std::int64_t> layers;
};

// The replace part of a rule for this module.
std::string replace_text(const operators::Module& module, const Placement& placement) {
  const Placement::Entry& entry = placement.at(module.path());
  const operators::OperatorRow* row =
      entry.op.empty() ? nullptr : placement.catalogue->find(entry.op);
  std::string kwargs =
      fmt::format("      generate_device: \"{0}\"\n      prefill_device: \"{0}\"\n", entry.device);
  for (const auto& [name, value] : entry.kwargs) {
    if (name != "generate_device" && name != "prefill_device")
      kwargs += fmt::format("      {}: {}\n", name, value_text(value));
  }
  return fmt::format("  replace:\n    class: {}\n    kwargs:\n{}",
                     row == nullptr ? std::string("default") : row->class_path(), kwargs);
}

}  // namespace

std::string rule_text(operators::Module& root, const Placement& placement,
                      const std::string& heading) {
  std::vector<Group> groups;
  std::map<std::string, std::size_t> index;
  operators::walk(root, [&](operators::Module& module) {
    if (module.path().empty()) return;
    const Placement::Entry& entry = placement.at(module.path());
    if (entry.device == "cpu" && entry.op.empty() && entry.kwargs.empty()) return;
    const auto [pattern, layer] = pattern_of(module.path());
    const std::string replace = replace_text(module, placement);
    const auto [it, fresh] = index.emplace(pattern + replace, groups.size());
    if (fresh) groups.push_back({pattern, replace, entry.reason, {}});
    if (layer >= 0) groups[it->second].layers.push_back(layer);
  });
  std::string text;
  for (std::size_t at = 0; at < heading.size();) {
    const std::size_t end = std::min(heading.find('\n', at), heading.size());
    text += "# " + heading.substr(at, end - at) + "\n";
    at = end + 1;
  }
  if (groups.empty()) {  // a file must hold a rule: the one that changes nothing
    return text +
           "- match:\n    name: \"^model$\"\n  replace:\n    class: default\n    kwargs:\n"
           "      generate_device: \"cpu\"\n      prefill_device: \"cpu\"\n";
  }
  for (Group& g : groups) {
    const auto at = g.pattern.find('#');
    if (at != std::string::npos) g.pattern.replace(at, 1, alternatives(g.layers));
    text += fmt::format("\n# {}\n- match:\n    name: '{}'\n{}", g.reason, g.pattern, g.replace);
  }
  return text;
}

}  // namespace kt::placement
