#include "placement/plan_report.h"

#include <algorithm>
#include <map>

#include "placement/explain.h"

namespace kt::placement {
namespace {

using Lines = std::vector<std::vector<std::string>>;

// Columns from `first_right` on are right-aligned up to `last_right`.
std::string aligned(const Lines& lines, std::size_t first_right, std::size_t last_right) {
  std::vector<std::size_t> width;
  for (const auto& line : lines) {
    width.resize(std::max(width.size(), line.size()), 0);
    for (std::size_t i = 0; i < line.size(); ++i) width[i] = std::max(width[i], line[i].size());
  }
  std::string text;
  for (const auto& line : lines) {
    std::string out;
    for (std::size_t i = 0; i < line.size(); ++i) {
      const bool right = i >= first_right && i <= last_right;
      out += right ? fmt::format("{:>{}}  ", line[i], width[i])
                   : fmt::format("{:<{}}  ", line[i], width[i]);
    }
    out.erase(out.find_last_not_of(' ') + 1);
    text += out + "\n";
  }
  return text;
}

std::string rate_text(double tokens) {
  return tokens >= 100.0 ? fmt::format("{:.0f}", tokens) : fmt::format("{:.1f}", tokens);
}

std::string duration(double seconds) {
  if (seconds < 1.0) return "below 1 s";
  if (seconds < 90.0) return fmt::format("{:.0f} s", seconds);
  return fmt::format("{:.0f} min {:02.0f} s", seconds / 60 - 0.5,
                     static_cast<double>(static_cast<long long>(seconds) % 60));
}

// {0, 1, 2, 5} → "{0-2,5}"; a single number stays plain.
std::string ranges(const std::vector<std::int64_t>& numbers) {
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

}  // namespace

std::string device_table(const Plan& plan) {
  Lines lines = {{""}};
  for (const DevicePlan& d : plan.devices) lines[0].push_back(d.name);
  const auto row = [&](std::string_view name, auto&& get, bool always) {
    std::vector<std::string> line = {std::string(name)};
    std::uint64_t sum = 0;
    for (const DevicePlan& d : plan.devices) {
      const std::uint64_t bytes = get(d);
      sum += bytes;
      line.push_back(bytes == 0 ? "-" : human_bytes(bytes));
    }
    if (sum > 0 || always) lines.push_back(std::move(line));
  };
  for (int p = 0; p < kParts; ++p) {
    row(
        part_name(static_cast<Part>(p)),
        [p](const DevicePlan& d) { return d.parts[static_cast<std::size_t>(p)]; }, false);
  }
  row(
      fmt::format("cache, {} tokens", plan.context), [](const DevicePlan& d) { return d.kv; },
      true);
  row("workspace", [](const DevicePlan& d) { return d.workspace; }, true);
  row("margin", [](const DevicePlan& d) { return d.margin; }, true);
  row("free", [](const DevicePlan& d) { return d.free(); }, true);
  row("capacity", [](const DevicePlan& d) { return d.capacity; }, true);
  return aligned(lines, 1, lines[0].size());
}

std::string speed_text(const Plan& plan) {
  if (!plan.speed) return {};
  const Speed& s = *plan.speed;
  Lines lines;
  lines.push_back({"load", duration(s.load_seconds), "limited by " + s.load_limit});
  lines.push_back({fmt::format("prefill, {} tokens", s.prompt), rate_text(s.prefill) + " tokens/s",
                   "limited by " + std::string(resource_name(s.prefill_limit))});
  lines.push_back({fmt::format("decode after {} tokens", s.decode_position),
                   rate_text(s.decode) + " tokens/s",
                   "limited by " + std::string(resource_name(s.decode_limit))});
  lines.push_back({fmt::format("decode after {} tokens", plan.context - 1),
                   rate_text(s.decode_full) + " tokens/s", ""});
  return aligned(lines, 1, 1);
}

std::vector<ModuleRow> module_rows(const Plan& plan) {
  struct Group {
    ModuleRow row;
    std::vector<std::int64_t> layers;
  };
  std::vector<Group> groups;
  std::map<std::string, std::size_t> index;
  for (const ModuleCost& m : plan.modules) {
    std::string pattern = m.path;
    if (m.layer >= 0) {
      const std::string number = std::to_string(m.layer);
      pattern.replace(pattern.find("layers.") + 7, number.size(), "#");
    }
    const std::string key =
        fmt::format("{}|{}|{}|{}|{}", pattern, m.op, m.device, m.format, m.reason);
    const auto [it, fresh] = index.emplace(key, groups.size());
    if (fresh) groups.push_back({{pattern, m.op, m.device, m.format, 0, m.reason}, {}});
    groups[it->second].row.bytes += m.bytes;
    if (m.layer >= 0) groups[it->second].layers.push_back(m.layer);
  }
  std::vector<ModuleRow> rows;
  for (Group& g : groups) {
    if (!g.layers.empty()) g.row.path.replace(g.row.path.find('#'), 1, ranges(g.layers));
    rows.push_back(std::move(g.row));
  }
  return rows;
}

std::string module_table(const Plan& plan) {
  Lines lines = {{"module", "operator", "device", "format", "bytes", "why"}};
  for (const ModuleRow& r : module_rows(plan))
    lines.push_back({r.path, r.op, r.device, r.format, human_bytes(r.bytes), r.reason});
  return aligned(lines, 4, 4);
}

}  // namespace kt::placement
