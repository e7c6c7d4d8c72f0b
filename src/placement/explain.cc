#include "placement/explain.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

namespace kt::placement {
namespace {

// "model.layers.7.mlp" → ("model.layers.#.mlp", 7); paths without a layer keep their text and -1.
std::pair<std::string, std::int64_t> split_layer(const std::string& path) {
  constexpr std::string_view kLayers = "layers.";
  const auto at = path.find(kLayers);
  if (at == std::string::npos) return {path, -1};
  const auto begin = at + kLayers.size();
  const auto end = path.find_first_not_of("0123456789", begin);
  const std::string rest = end == std::string::npos ? "" : path.substr(end);
  return {path.substr(0, begin) + "#" + rest, std::stoll(path.substr(begin, end - begin))};
}

}  // namespace

std::string layer_ranges(const std::vector<std::int64_t>& numbers) {
  if (numbers.size() == 1) return std::to_string(numbers.front());
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t j = i;
    while (j + 1 < numbers.size() && numbers[j + 1] == numbers[j] + 1) ++j;
    text += (text.empty() ? "" : ",") + std::to_string(numbers[i]);
    if (j > i) text += "-" + std::to_string(numbers[j]);
    i = j + 1;
  }
  return "{" + text + "}";
}

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

std::string human_bytes(std::uint64_t bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < kUnits.size()) {
    value /= 1024.0;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::vector<ExplainRow> explain(operators::Module& root, const operators::Placement& placement) {
  struct Group {
    ExplainRow row;
    std::vector<std::int64_t> layers;
  };
  std::vector<Group> groups;
  std::map<std::string, std::size_t> index;
  operators::walk(root, [&](operators::Module& module) {
    if (module.weights().empty() && module.weight_bytes() == 0) return;
    const auto [pattern, layer] = split_layer(module.path());
    const auto& entry = placement.at(module.path());
    const std::string key = fmt::format("{}|{}|{}|{}", pattern, module.op(), module.site().device,
                                        module.weight_format());
    const auto [it, fresh] = index.emplace(key, groups.size());
    if (fresh) {
      groups.push_back({{pattern, std::string(module.op()), module.site().device,
                         module.weight_format(), 0, entry.reason},
                        {}});
    }
    Group& group = groups[it->second];
    group.row.bytes += module.weight_bytes();
    if (layer >= 0) group.layers.push_back(layer);
  });
  std::vector<ExplainRow> rows;
  for (Group& g : groups) {
    if (!g.layers.empty()) g.row.path.replace(g.row.path.find('#'), 1, layer_ranges(g.layers));
    rows.push_back(std::move(g.row));
  }
  return rows;
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
