#include "session/bench/kernel_bench.h"

#include <fstream>

#include "base/topology.h"

namespace kt::session::bench {
namespace {

constexpr std::int64_t kKernelSizes[] = {1, 2, 4, 8, 16, 32, 128, 512};
constexpr std::int64_t kAttentionSizes[] = {1, 512};
constexpr std::int64_t kLayerSizes[] = {1, 2, 4, 8, 16, 32, 128, 512, 2048};

// "always [madvise] never" → "madvise".
std::string huge_pages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string word;
  while (file >> word) {
    if (word.size() > 2 && word.front() == '[') return word.substr(1, word.size() - 2);
  }
  return {};
}

// Of one case, with its weights in memory only as long as it lasts.
std::vector<Result> run_case(backend::Cpu& cpu, const Case& what, const Request& request,
                             Sampling sampling, std::uint64_t cache_bytes) {
  const auto take = [&](const auto& sizes) {
    sampling.sizes.assign(std::begin(sizes), std::end(sizes));
  };
  if (!request.sizes.empty()) {
    take(request.sizes);
  } else if (what.kernel != nullptr) {
    take(kKernelSizes);
  } else if (what.context != 0) {
    take(kAttentionSizes);
  } else {
    take(kLayerSizes);
  }
  Limits limits;
  limits.cache_bytes = cache_bytes;
  limits.memory = detect_topology().memory_available / 10 * 8;
  limits.largest = sampling.sizes.back();
  const auto make = what.kernel != nullptr ? make_dot_subject
                    : what.context != 0    ? make_attention_subject
                                           : make_moe_subject;
  const auto subject = make(cpu, what, limits);
  return measure(cpu, what, *subject, sampling);
}

}  // namespace

Report run_kernel_bench(const Request& request) {
  const Topology topology = detect_topology();
  const auto cpu = make_cpu(request.options);
  const std::vector<Case> cases = select_cases(request.selection, cpu->caps);
  std::optional<Baseline> baseline;
  if (!request.baseline.empty()) baseline = Baseline::read(request.baseline);
  constexpr std::uint64_t kUsualCache = std::uint64_t{32} << 20;
  const std::uint64_t cache = topology.cache_bytes != 0 ? topology.cache_bytes : kUsualCache;
  Report report;
  report.machine = {cpu_model_name(),     describe_caps(cpu->caps), request.options.act,
                    huge_pages(),         cpu->pool.size(),         cache,
                    topology.memory_total};
  report.ceilings = measure_ceilings(*cpu, topology, request.progress);
  Sampling sampling;
  sampling.least = request.least_samples;
  sampling.peak_now = [&](Arithmetic arithmetic, double seconds) {
    const Peak* peak = report.ceilings.peak(arithmetic);
    return peak != nullptr ? peak_rate(*cpu, *peak, seconds) : 0.0;
  };
  if (baseline) sampling.doubt = [&](const Result& r) { return baseline->lost(report.machine, r); };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    if (request.progress) {
      sampling.progress = [&, i](const std::string& line) {
        request.progress(fmt::format("[{}/{}] {}", i + 1, cases.size(), line));
      };
      sampling.progress(cases[i].name() + ": making weights");
    }
    for (Result& r : run_case(*cpu, cases[i], request, sampling, cache))
      report.results.push_back(std::move(r));
  }
  for (std::size_t i = 0; baseline && i < report.results.size(); ++i) {
    const double before = baseline->seconds(report.machine, report.results[i]);
    if (before > 0.0) ++report.n_compared;
    if (baseline->lost(report.machine, report.results[i])) report.losses.push_back({i, before});
  }
  return report;
}

}  // namespace kt::session::bench
