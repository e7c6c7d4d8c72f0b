#include "module_report.h"

#include <algorithm>
#include <chrono>
#include <map>

#include "base/topology.h"
#include "operators/trace.h"
#include "placement/layer_path.h"
#include "print.h"
#include "session/bandwidth.h"
#include "session/trace_file.h"

namespace kt::app {
namespace {

using Clock = std::chrono::steady_clock;

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

// Best rate of a product whose weights and activations stay in cache.
double product_peak(backend::Cpu& cpu, tensor::Format format) {
  constexpr std::int64_t kRows = 256, kWidth = 1024;
  constexpr auto kWindow = std::chrono::milliseconds(25);
  constexpr int kWindows = 4;
  const std::int64_t n_out = 128 * cpu.pool.size();
  backend::PackedMatrix matrix(cpu, format, n_out, kWidth);
  matrix.own(tensor::Buffer(matrix.bytes()));
  const std::vector<std::byte> zeros(formats::row_bytes(format, kWidth) *
                                     static_cast<std::size_t>(n_out));
  matrix.pack_rows(0, n_out, zeros.data());
  tensor::Arena arena;
  const std::vector<float> x(static_cast<std::size_t>(kRows * kWidth), 0.5f);
  std::vector<float> y(static_cast<std::size_t>(kRows * n_out));
  backend::Activation input({x.data(), kRows, kWidth, kWidth});
  const backend::GemmCall call{
      &matrix, input.rows_for(matrix, cpu, arena), kRows, nullptr, {y.data(), kRows, n_out, n_out}};
  double best = 0.0;
  for (int w = 0; w < kWindows; ++w) {
    const auto start = Clock::now();
    std::int64_t n = 0;
    while (Clock::now() - start < kWindow) {
      backend::gemm(cpu, {&call, 1});
      ++n;
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, 2.0 * static_cast<double>(n * kRows * n_out * kWidth) / seconds);
  }
  return best;
}

}  // namespace

Ceilings measure_ceilings(session::Session& session) {
  constexpr std::uint64_t kBytes = std::uint64_t{256} << 20;
  const int n_threads = session.cpu().pool.size();
  Ceilings ceilings;
  for (const session::BandwidthPoint& p :
       session::measure_read_bandwidth(detect_topology().cores, n_threads, kBytes)) {
    ceilings.bytes_per_second = std::max(ceilings.bytes_per_second, p.bytes_per_second);
  }
  for (const auto format : {tensor::Format::kQ8_0, tensor::Format::kQ4_0, tensor::Format::kQ4_K}) {
    ceilings.flops = std::max(ceilings.flops, product_peak(session.cpu(), format));
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
               weighs ? fmt::format("{:.0f} %", 100.0 * rate / ceiling) : ""});
  }
  return table.markdown() + fmt::format("ceiling: {:.1f} {}\n", ceiling / 1e9,
                                        prefill ? "GFLOP/s, the product kernel in cache"
                                                : "GB/s, memory read by all threads");
}

}  // namespace kt::app
