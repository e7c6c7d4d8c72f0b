// Measures how fast this process can read main memory, or the very pages that somebody else uses.
// Thread rule: measure_read_bandwidth starts and joins its own threads; read_rate runs on a pool.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "base/topology.h"

namespace kt::session {

using Region = std::span<const std::byte>;

/// Ways to read in order: as it comes, or asking for lines 4 KiB ahead. Which is faster depends on
/// the CPU: a Xeon gains an eighth with all cores and half with one, a Zen 4 loses a fifth.
enum class Reading { kPlain, kAhead };
inline constexpr Reading kReadings[] = {Reading::kPlain, Reading::kAhead};

/// Bytes per second of one pass over all regions; every byte is read once, each region by several
/// threads. Regions below 4 KiB are left out.
double read_rate(ThreadPool& pool, std::span<const Region> regions, Reading how);

/// Bytes of which the last cache level keeps little from one pass to the next: 4 times its size,
/// 256 MiB at least; where memory is scarce, a quarter of it, which may be less than the cache.
std::uint64_t cold_bytes(const Topology& topology);

struct BandwidthPoint {
  int n_threads = 0;
  double bytes_per_second = 0.0;  // best pass
  double median = 0.0;            // of the passes in the faster way
};

/// A few passes over cold_bytes of memory for 1, 2, 4 … max_threads threads, bound to the
/// topology's cores. Throws kNoMemory.
std::vector<BandwidthPoint> measure_read_bandwidth(const Topology& topology, int max_threads);

}  // namespace kt::session
