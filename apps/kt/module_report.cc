#include "module_report.h"

#include <algorithm>
#include <map>

#include "base/topology.h"
#include "operators/trace.h"
#include "placement/layer_path.h"
#include "print.h"
#include "session/bench/ceilings.h"
#include "session/trace_file.h"

namespace kt::app {
namespace {

// "model.layers.3.mlp.experts" → "mlp.experts".
std::string place_of(const std::string& path) {
  const placement::LayerPath parts = placement::split_layer(path);
  if (parts.number < 0) return path.empty() ? "(model)" : path;
  return parts.after.empty() ? "(layer)" : std::string(parts.after.substr(1));
}

// Part of a module's weights that one row uses.
double active_share(const operators::Module& module, const io::ModelConfig& config) {
  if (module.kind() != "Experts") return 1.0;
  return static_cast<double>(config.moe.n_active) / static_cast<double>(config.moe.n_experts);
}

// Whether its time goes into products with its own weights.
bool multiplies(const operators::Module& module) {
  return module.kind() == "Linear" || module.kind() == "Experts";
}

double n_weights(const operators::Module& module) {
  double n = 0.0;
  for (const operators::WeightSpec& spec : module.weights())
    n += static_cast<double>(spec.shape.count());
  return n;
}

// What the products of prompts are made of.
kernels::peak::Arithmetic arithmetic_of(const backend::Cpu& cpu) {
  using kernels::peak::Arithmetic;
  if ((cpu.caps & kAmx) != 0 && cpu.act != backend::ActPolicy::kF32) return Arithmetic::kBf16;
  return cpu.act == backend::ActPolicy::kF32 ? Arithmetic::kF32 : Arithmetic::kInt8;
}

}  // namespace

Ceilings measure_ceilings(session::Session& session) {
  const session::bench::Ceilings all =
      session::bench::measure_ceilings(session.cpu(), detect_topology(), nullptr);
  Ceilings ceilings;
  for (const session::BandwidthPoint& p : all.read)
    ceilings.bytes_per_second = std::max(ceilings.bytes_per_second, p.bytes_per_second);
  if (const session::bench::Peak* peak = all.peak(arithmetic_of(session.cpu()))) {
    ceilings.flops = peak->rate.median;
    ceilings.peak = peak->kernel->name;
  }
  return ceilings;
}

std::string module_report(session::Session& session, const Ceilings& ceilings, bool prefill) {
  struct Row {
    double seconds = 0.0;
    double work = 0.0;  // bytes or operations
    std::int64_t n = 0;
  };
  std::map<std::pair<std::string, std::string>, Row> rows;  // {kind, place}
  double total = 0.0;
  for (const session::SelfTime& t : session::self_times(*session.trace())) {
    Row& row = rows[{std::string(t.module->kind()), place_of(t.module->path())}];
    const double seconds = static_cast<double>(t.nanoseconds) / 1e9;
    row.seconds += seconds;
    total += seconds;
    ++row.n;
    if (!multiplies(*t.module)) continue;
    const double share = active_share(*t.module, session.config());
    row.work += prefill ? 2.0 * n_weights(*t.module) * share * static_cast<double>(t.n_rows)
                        : static_cast<double>(t.module->weight_bytes()) * share;
  }
  std::vector<std::pair<std::pair<std::string, std::string>, Row>> sorted(rows.begin(), rows.end());
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
    return a.second.seconds > b.second.seconds;
  });
  const double ceiling = prefill ? ceilings.flops : ceilings.bytes_per_second;
  Table table("llrrrrr");
  table.row({"kind", "module", "calls", "ms", "time", prefill ? "GFLOP/s" : "GB/s", "of ceiling"});
  for (const auto& [key, row] : sorted) {
    const double rate = row.seconds > 0.0 ? row.work / row.seconds : 0.0;
    const bool weighs = row.work > 0.0;
    table.row({key.first, key.second, std::to_string(row.n),
               fmt::format("{:.2f}", row.seconds * 1e3),
               fmt::format("{:.1f} %", 100.0 * row.seconds / total),
               weighs ? fmt::format("{:.1f}", rate / 1e9) : "",
               weighs && ceiling > 0.0 ? fmt::format("{:.0f} %", 100.0 * rate / ceiling) : ""});
  }
  const std::string what = prefill ? fmt::format("GFLOP/s, {} on all threads", ceilings.peak)
                                   : std::string("GB/s, memory read by all threads");
  return table.markdown() +
         (ceiling > 0.0 ? fmt::format("ceiling: {:.1f} {}\n", ceiling / 1e9, what) : "");
}

}  // namespace kt::app
