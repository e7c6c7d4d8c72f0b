#include "placement/explain.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "base/bytes.h"
#include "placement/layer_path.h"

namespace kt::placement {

std::string align(const Lines& lines, const std::set<std::size_t>& right) {
  std::vector<std::size_t> width(lines.front().size());
  for (const auto& line : lines) {
    for (std::size_t i = 0; i < line.size(); ++i) width[i] = std::max(width[i], line[i].size());
  }
  std::string text;
  for (const auto& line : lines) {
    std::string out;
    for (std::size_t i = 0; i < line.size(); ++i) {
      out += right.contains(i) ? fmt::format("{:>{}}  ", line[i], width[i])
                               : fmt::format("{:<{}}  ", line[i], width[i]);
    }
    out.erase(out.find_last_not_of(' ') + 1);
    text += out + "\n";
  }
  return text;
}

std::vector<ExplainRow> merge_layers(const std::vector<ExplainRow>& rows) {
  LayerGroups<ExplainRow> merged;
  for (const ExplainRow& row : rows) {
    ExplainRow fresh = row;
    fresh.bytes = 0;
    merged
        .at(row.path, fmt::format("{}|{}|{}|{}", row.op, row.device, row.format, row.reason),
            std::move(fresh))
        .bytes += row.bytes;
  }
  std::vector<ExplainRow> result;
  for (const auto& group : merged.groups()) {
    result.push_back(group.value);
    result.back().path = split_layer(group.path).with(layer_ranges(group.layers));
  }
  return result;
}

std::vector<ExplainRow> explain_modules(operators::Module& root,
                                        const operators::Placement& placement) {
  std::vector<ExplainRow> rows;
  operators::walk(root, [&](operators::Module& module) {
    if (module.weights().empty() && module.weight_bytes() == 0) return;
    rows.push_back({module.path(), std::string(module.op()), module.site().device,
                    module.weight_format(), module.weight_bytes(),
                    placement.at(module.path()).reason});
  });
  return rows;
}

std::vector<ExplainRow> explain(operators::Module& root, const operators::Placement& placement) {
  return merge_layers(explain_modules(root, placement));
}

std::string explain_summary(operators::Module& root) {
  struct Group {
    std::set<std::string> formats, kernels;
    std::uint64_t bytes = 0;
    std::int64_t n = 0;
  };
  std::vector<std::pair<std::array<std::string, 3>, Group>> groups;  // {kind, operator, device}
  operators::walk(root, [&](operators::Module& module) {
    if (module.weights().empty() && module.weight_bytes() == 0) return;
    const std::array<std::string, 3> key = {std::string(module.kind()), std::string(module.op()),
                                            module.site().device};
    auto it =
        std::find_if(groups.begin(), groups.end(), [&](const auto& g) { return g.first == key; });
    if (it == groups.end()) it = groups.insert(groups.end(), {key, {}});
    Group& group = it->second;
    ++group.n;
    group.bytes += module.weight_bytes();
    if (!module.weight_format().empty()) group.formats.insert(module.weight_format());
    if (!module.kernel_name().empty()) group.kernels.insert(module.kernel_name());
  });
  Lines lines = {{"kind", "operator", "device", "modules", "memory", "format", "kernels"}};
  for (const auto& [key, g] : groups) {
    lines.push_back({key[0], key[1], key[2], std::to_string(g.n), human_bytes(g.bytes),
                     fmt::format("{}", fmt::join(g.formats, " ")),
                     fmt::format("{}", fmt::join(g.kernels, " "))});
  }
  return align(lines, {3, 4});
}

std::string explain_table(operators::Module& root, const operators::Placement& placement) {
  Lines lines = {{"module", "operator", "device", "format", "memory", "why"}};
  std::uint64_t total = 0;
  for (const ExplainRow& row : explain(root, placement)) {
    total += row.bytes;
    lines.push_back({row.path, row.op, row.device, row.format, human_bytes(row.bytes), row.reason});
  }
  lines.push_back({"total", "", "", "", human_bytes(total), ""});
  return align(lines, {4});
}

}  // namespace kt::placement
