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
  std::string name;  // "peak_int8_avx512"
  Arithmetic arithmetic{};
  Summary rate;  // operations per second
};

struct Ceilings {
  std::vector<BandwidthPoint> read;  // by number of threads
  std::vector<Peak> peaks;
  /// Median operations per second of the fastest row; BF16 also counts the float rows; 0: none.
  double peak(Arithmetic arithmetic) const;
};

/// `bytes` of memory are read. `progress` gets a line per measurement.
Ceilings measure_ceilings(backend::Cpu& cpu, const std::vector<int>& cores, std::uint64_t bytes,
                          const std::function<void(const std::string&)>& progress);

}  // namespace kt::session::bench
