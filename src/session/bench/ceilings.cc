#include "session/bench/ceilings.h"

#include <algorithm>
#include <chrono>

namespace kt::session::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kTaskSeconds = 100e-6;

Peak measure_peak(backend::Cpu& cpu, const kernels::peak::Kernel& kernel) {
  constexpr int kPasses = 7;
  constexpr double kPassSeconds = 20e-3;
  Peak peak{&kernel, 1000, {}};
  for (;; peak.rounds *= 2) {
    const auto start = Clock::now();
    kernel.run(peak.rounds);
    if (std::chrono::duration<double>(Clock::now() - start).count() >= kTaskSeconds) break;
  }
  std::vector<double> rates;
  for (int pass = 0; pass < kPasses; ++pass) rates.push_back(peak_rate(cpu, peak, kPassSeconds));
  peak.rate = summarize(rates);
  return peak;
}

}  // namespace

double peak_rate(backend::Cpu& cpu, const Peak& peak, double seconds_wanted) {
  // Many short tasks, so that a thread that starts late or is disturbed holds up nobody.
  const double per_thread = std::clamp(seconds_wanted / kTaskSeconds, 10.0, 200.0);
  const std::int64_t n_tasks = static_cast<std::int64_t>(per_thread) * cpu.pool.size();
  const auto start = Clock::now();
  cpu.pool.run(n_tasks, [&](std::int64_t, int) { peak.kernel->run(peak.rounds); });
  const std::chrono::duration<double> seconds = Clock::now() - start;
  return peak.kernel->ops_per_round * static_cast<double>(peak.rounds * n_tasks) / seconds.count();
}

const Peak* Ceilings::peak(Arithmetic arithmetic) const {
  const Peak* best = nullptr;
  for (const Peak& p : peaks) {
    const bool serves =
        p.kernel->arithmetic == arithmetic ||
        (arithmetic == Arithmetic::kBf16 && p.kernel->arithmetic == Arithmetic::kF32);
    if (serves && (best == nullptr || p.rate.median > best->rate.median)) best = &p;
  }
  return best;
}

Ceilings measure_ceilings(backend::Cpu& cpu, const Topology& topology,
                          const std::function<void(const std::string&)>& progress) {
  Ceilings ceilings;
  if (progress) progress(fmt::format("reading {} MiB of memory", cold_bytes(topology) >> 20));
  ceilings.read = measure_read_bandwidth(topology, cpu.pool.size());
  for (const kernels::peak::Kernel& kernel : kernels::peak::kernels()) {
    if ((cpu.caps & kernel.caps) != kernel.caps) continue;
    if (progress) progress(fmt::format("running {}", kernel.name));
    ceilings.peaks.push_back(measure_peak(cpu, kernel));
  }
  return ceilings;
}

}  // namespace kt::session::bench
