// A kernel bench as JSON, and two of them compared.
//
//   {"version": 1, "machine": {…}, "ceilings": {"read": […], "peaks": […]}, "results": [{…}, …]}
//
// Thread rule: pure, but for the files named.
#pragma once
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "session/bench/ceilings.h"
#include "session/bench/subject.h"

namespace kt::session::bench {

/// What the results hold for.
struct Machine {
  std::string cpu;
  std::string isa;
  std::string act;         // as --act says
  std::string huge_pages;  // "always", "madvise", "never"; empty: unknown
  int n_threads = 0;
  std::uint64_t cache_bytes = 0;
  std::uint64_t memory_bytes = 0;
};

nlohmann::ordered_json to_json(const Machine& machine, const Ceilings& ceilings,
                               const std::vector<Result>& results);

/// Median seconds of an earlier run, by case, size, threads and activation type.
class Baseline {
 public:
  /// Reads what to_json wrote; throws kNotFound, kBadFile.
  static Baseline read(const std::string& path);
  static Baseline parse(const std::string& text, const std::string& path);
  /// Seconds then, or 0 when the baseline has no such case.
  double seconds(const Machine& machine, const Result& result) const;
  /// More than 10 % slower than then.
  bool lost(const Machine& machine, const Result& result) const;

 private:
  std::map<std::string, double> seconds_;
};

}  // namespace kt::session::bench
