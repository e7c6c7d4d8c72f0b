#include "session/trace_file.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "io/atomic_file.h"
#include "operators/module.h"

namespace kt::session {

void write_chrome_trace(const operators::Trace& trace, const std::string& path) {
  io::AtomicFile file(path);
  std::map<std::string, int> tracks;
  file.write("{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n");
  for (const operators::Trace::Zone& zone : trace.zones()) {
    const operators::Site& site = zone.module->site();
    const auto [track, fresh] = tracks.emplace(site.device, static_cast<int>(tracks.size()));
    if (fresh) {
      const nlohmann::ordered_json name = {{"name", "thread_name"},
                                           {"ph", "M"},
                                           {"pid", 1},
                                           {"tid", track->second},
                                           {"args", {{"name", site.device}}}};
      file.write(name.dump() + ",\n");
    }
    const nlohmann::ordered_json event = {
        {"name", site.path.empty() ? "(model)" : site.path},
        {"cat", zone.module->kind()},
        {"ph", "X"},
        {"ts", static_cast<double>(zone.begin) / 1e3},
        {"dur", static_cast<double>(zone.end - zone.begin) / 1e3},
        {"pid", 1},
        {"tid", track->second},
        {"args",
         {{"op", site.op},
          {"class", site.rule_class.empty() ? site.op : site.rule_class},
          {"device", site.device},
          {"format", zone.module->weight_format()},
          {"kernel", zone.module->kernel_name()},
          {"rows", zone.n_rows}}}};
    file.write(event.dump() + ",\n");
  }
  const nlohmann::ordered_json last = {{"name", "process_name"},
                                       {"ph", "M"},
                                       {"pid", 1},
                                       {"args", {{"name", "kt"}, {"dropped", trace.n_dropped()}}}};
  file.write(last.dump() + "\n]}\n");
  file.finish();
}

std::vector<SelfTime> self_times(const operators::Trace& trace) {
  const std::vector<operators::Trace::Zone>& zones = trace.zones();
  std::vector<std::size_t> order(zones.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  // Zones were added when they ended: of two with the same begin the later one is the outer.
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return zones[a].begin != zones[b].begin ? zones[a].begin < zones[b].begin : a > b;
  });
  std::vector<SelfTime> times(zones.size());
  std::vector<std::size_t> open;
  for (const std::size_t i : order) {
    const operators::Trace::Zone& zone = zones[i];
    times[i] = {zone.module, zone.end - zone.begin, zone.n_rows};
    while (!open.empty() && zones[open.back()].end <= zone.begin) open.pop_back();
    if (!open.empty()) times[open.back()].nanoseconds -= zone.end - zone.begin;
    open.push_back(i);
  }
  return times;
}

}  // namespace kt::session
