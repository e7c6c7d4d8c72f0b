#include "session/bandwidth.h"

#include <gtest/gtest.h>

namespace kt::session {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

Topology with(std::uint64_t cache_bytes, std::uint64_t memory_available) {
  Topology topology = detect_topology();
  topology.cache_bytes = cache_bytes;
  topology.memory_available = memory_available;
  return topology;
}

TEST(ReadBandwidth, ReadsMoreThanTheCacheHoldsAndAQuarterOfWhatIsFreeAtMost) {
  EXPECT_EQ(cold_bytes(with(300 * kMiB, kMiB * kMiB)), 1200 * kMiB);
  EXPECT_EQ(cold_bytes(with(16 * kMiB, kMiB * kMiB)), 256 * kMiB);
  EXPECT_EQ(cold_bytes(with(0, kMiB * kMiB)), 256 * kMiB);  // unknown
  EXPECT_EQ(cold_bytes(with(300 * kMiB, 400 * kMiB)), 100 * kMiB);
}

TEST(ReadBandwidth, DoublesTheThreadsUpToAllOfThem) {
  std::vector<int> threads;
  for (const BandwidthPoint& point : measure_read_bandwidth(with(kMiB, 32 * kMiB), 5)) {
    threads.push_back(point.n_threads);
    EXPECT_GT(point.median, 0.0);
  }
  EXPECT_EQ(threads, (std::vector<int>{1, 2, 4, 5}));
}

}  // namespace
}  // namespace kt::session
