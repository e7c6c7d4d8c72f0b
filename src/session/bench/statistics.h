// Median and spread of repeated measurements, and where a list of times is not monotone.
// Thread rule: pure.
#pragma once
#include <cstdint>
#include <vector>

namespace kt::session::bench {

struct Summary {
  double median = 0.0;
  double low = 0.0;   // 10th percentile
  double high = 0.0;  // 90th percentile
  std::int64_t n = 0;
};

/// Percentiles by linear interpolation between ranks; all 0 without samples.
Summary summarize(std::vector<double> samples);

/// Marks times[i] that are above times[i + 1] by more than 3 %: work of size i + 1 includes work of
/// size i. The sizes are ascending.
std::vector<bool> slower_than_next(const std::vector<double>& times);

}  // namespace kt::session::bench
