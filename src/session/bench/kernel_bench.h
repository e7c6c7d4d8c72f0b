// The kernel bench as a whole: ceilings of the machine first, then every chosen case at every size,
// compared with an earlier run when there is one.
// Thread rule: one thread; the work is parallel inside.
#pragma once
#include <optional>

#include "session/bench/report.h"
#include "session/session.h"

namespace kt::session::bench {

struct Request {
  Options options;  // threads, isa and act count
  Selection selection;
  std::vector<std::int64_t> sizes;  // empty: the defaults of layers and of kernel rows
  std::int64_t least_samples = 5;
  std::string baseline;  // file; empty: none
  std::function<void(const std::string& line)> progress;
};

struct Loss {
  std::size_t result = 0;  // index
  double before = 0.0;     // seconds then
};

struct Report {
  Machine machine;
  Ceilings ceilings;
  std::vector<Result> results;
  std::size_t n_compared = 0;  // results that the baseline has too
  std::vector<Loss> losses;    // more than 10 % slower, confirmed by a second measurement
};

/// Throws kUsage, kNoMemory, kUnsupported, and what reading the baseline throws.
Report run_kernel_bench(const Request& request);

}  // namespace kt::session::bench
