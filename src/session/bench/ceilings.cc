#include "session/bench/ceilings.h"

#include <algorithm>

namespace kt::session::bench {

double Ceilings::peak(Arithmetic arithmetic) const {
  double best = 0.0;
  for (const Peak& p : peaks) {
    const bool serves = p.arithmetic == arithmetic ||
                        (arithmetic == Arithmetic::kBf16 && p.arithmetic == Arithmetic::kF32);
    if (serves) best = std::max(best, p.rate.median);
  }
  return best;
}

Ceilings measure_ceilings(backend::Cpu& cpu, const std::vector<int>& cores, std::uint64_t bytes,
                          const std::function<void(const std::string&)>& progress) {
  Ceilings ceilings;
  if (progress) progress(fmt::format("reading {} MiB of memory", bytes >> 20));
  ceilings.read = measure_read_bandwidth(cores, cpu.pool.size(), bytes);
  return ceilings;
}

}  // namespace kt::session::bench
