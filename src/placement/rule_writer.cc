#include "placement/rule_writer.h"

#include <algorithm>

#include "placement/layer_path.h"

namespace kt::placement {
namespace {

using operators::Placement;

// Text as a pattern that matches it.
std::string escaped(std::string_view text) {
  std::string pattern;
  for (const char c : text) pattern += c == '.' ? std::string("\\.") : std::string(1, c);
  return pattern;
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

struct Rule {
  std::string replace;
  std::string reason;
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
  LayerGroups<Rule> rules;
  operators::walk(root, [&](operators::Module& module) {
    if (module.path().empty()) return;
    const Placement::Entry& entry = placement.at(module.path());
    if (entry.device == "cpu" && entry.op.empty() && entry.kwargs.empty()) return;
    const std::string replace = replace_text(module, placement);
    rules.at(module.path(), replace, {replace, entry.reason});
  });
  std::string text;
  for (std::size_t at = 0; at < heading.size();) {
    const std::size_t end = std::min(heading.find('\n', at), heading.size());
    text += "# " + heading.substr(at, end - at) + "\n";
    at = end + 1;
  }
  if (rules.groups().empty()) {  // a file must hold a rule: the one that changes nothing
    return text +
           "- match:\n    name: \"^model$\"\n  replace:\n    class: default\n    kwargs:\n"
           "      generate_device: \"cpu\"\n      prefill_device: \"cpu\"\n";
  }
  for (const auto& group : rules.groups()) {
    LayerPath path = split_layer(group.path);
    const std::string before = escaped(path.before), after = escaped(path.after);
    path.before = before;
    path.after = after;
    text += fmt::format("\n# {}\n- match:\n    name: '^{}$'\n{}", group.value.reason,
                        path.with(alternatives(group.layers)), group.value.replace);
  }
  return text;
}

}  // namespace kt::placement
