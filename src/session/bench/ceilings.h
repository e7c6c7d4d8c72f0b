// What this machine can do at most, measured under load by all threads: reading memory, and
// multiplying in registers.
// Thread rule: one thread; starts and joins its own.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "session/bandwidth.h"
#include "session/bench/subject.h"

namespace kt::session::bench {

/// A row of the peak kernels, run by all threads.
struct Peak {
  const kernels::peak::Kernel* kernel = nullptr;
  std::int64_t rounds = 0;  // per task: about 0.1 ms
  Summary rate;             // operations per second
};
/// Operations per second of one more pass of about so many seconds (1 to 20 ms).
double peak_rate(backend::Cpu& cpu, const Peak& peak, double seconds);

struct Ceilings {
  std::vector<BandwidthPoint> read;  // by number of threads
  std::vector<Peak> peaks;
  /// The fastest row by median; the float rows serve BF16 too; null: none.
  const Peak* peak(Arithmetic arithmetic) const;
};

/// `progress`, where there is one, gets a line per measurement.
Ceilings measure_ceilings(backend::Cpu& cpu, const Topology& topology,
                          const std::function<void(const std::string&)>& progress);

}  // namespace kt::session::bench
