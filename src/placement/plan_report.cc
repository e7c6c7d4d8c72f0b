#include "placement/plan_report.h"

#include <set>

#include "base/bytes.h"
#include "placement/explain.h"

namespace kt::placement {
namespace {

std::string rate_text(double tokens) {
  return tokens >= 100.0 ? fmt::format("{:.0f}", tokens) : fmt::format("{:.1f}", tokens);
}

std::string duration(double seconds) {
  if (seconds < 1.0) return "below 1 s";
  const auto whole = static_cast<std::int64_t>(seconds + 0.5);
  return whole < 90 ? fmt::format("{} s", whole)
                    : fmt::format("{} min {:02} s", whole / 60, whole % 60);
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
  std::set<std::size_t> right;
  for (std::size_t i = 1; i < lines[0].size(); ++i) right.insert(i);
  return align(lines, right);
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
  return align(lines, {1});
}

std::string module_table(const Plan& plan) {
  std::vector<ExplainRow> rows;
  for (const ModuleCost& m : plan.modules)
    rows.push_back({m.path, m.op, m.device, m.format, m.bytes, m.reason});
  Lines lines = {{"module", "operator", "device", "format", "bytes", "why"}};
  for (const ExplainRow& r : merge_layers(rows))
    lines.push_back({r.path, r.op, r.device, r.format, human_bytes(r.bytes), r.reason});
  return align(lines, {4});
}

}  // namespace kt::placement
