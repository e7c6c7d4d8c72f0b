// Measures how fast this process can read main memory.
// Thread rule: starts and joins its own threads.
#pragma once
#include <cstdint>
#include <vector>

namespace kt::session {

struct BandwidthPoint {
  int n_threads = 0;
  double bytes_per_second = 0.0;
};

/// Best of a few passes over `bytes` of memory for 1, 2, 4 … max_threads threads, bound to `cores`.
/// Throws kNoMemory.
std::vector<BandwidthPoint> measure_read_bandwidth(const std::vector<int>& cores, int max_threads,
                                                   std::uint64_t bytes);

}  // namespace kt::session
