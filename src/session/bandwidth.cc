#include "session/bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "tensor/tensor.h"

namespace kt::session {
namespace {

/// Sum of all words; independent accumulators keep several loads in flight.
template <bool kAhead>
std::uint64_t sum_words(const std::uint64_t* words, std::int64_t n) noexcept {
  constexpr std::int64_t kWordsAhead = 4096 / 8;
  std::uint64_t sums[8] = {};
  for (std::int64_t i = 0; i + 8 <= n; i += 8) {
    if constexpr (kAhead) __builtin_prefetch(words + i + kWordsAhead);
    for (int j = 0; j < 8; ++j) sums[j] += words[i + j];
  }
  std::uint64_t total = 0;
  for (const std::uint64_t sum : sums) total += sum;
  return total;
}

}  // namespace

double read_rate(ThreadPool& pool, std::span<const Region> regions, Reading how) {
  constexpr std::size_t kSlice = std::size_t{1} << 20;
  constexpr std::size_t kLeast = 4096;
  std::vector<Region> slices;
  std::size_t n_bytes = 0;
  for (const Region& region : regions) {
    for (std::size_t at = 0; at + kLeast <= region.size(); at += kSlice) {
      slices.push_back(region.subspan(at, std::min(kSlice, region.size() - at)));
      n_bytes += slices.back().size();
    }
  }
  std::atomic<std::uint64_t> sink{0};
  const auto begin = std::chrono::steady_clock::now();
  pool.run(static_cast<std::int64_t>(slices.size()), [&](std::int64_t i, int) {
    const Region& slice = slices[static_cast<std::size_t>(i)];
    const auto* words = reinterpret_cast<const std::uint64_t*>(slice.data());
    const auto n_words = static_cast<std::int64_t>(slice.size() / 8);
    sink.fetch_add(
        how == Reading::kAhead ? sum_words<true>(words, n_words) : sum_words<false>(words, n_words),
        std::memory_order_relaxed);
  });
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  return static_cast<double>(n_bytes) / std::max(seconds.count(), 1e-9);
}

std::uint64_t cold_bytes(const Topology& topology) {
  constexpr std::uint64_t kLeast = std::uint64_t{256} << 20;
  return std::min(std::max(4 * topology.cache_bytes, kLeast), topology.memory_available / 4);
}

std::vector<BandwidthPoint> measure_read_bandwidth(const Topology& topology, int max_threads) {
  constexpr std::size_t kPasses = 5;
  const std::vector<int>& cores = topology.cores;
  const tensor::Buffer buffer(static_cast<std::size_t>(cold_bytes(topology)));
  {
    ThreadPool pool(max_threads, cores);  // touched by all, so that every node holds a part
    constexpr std::size_t kPart = std::size_t{2} << 20;
    pool.run(static_cast<std::int64_t>((buffer.size() + kPart - 1) / kPart),
             [&](std::int64_t part, int) {
               const std::size_t at = static_cast<std::size_t>(part) * kPart;
               std::memset(buffer.data() + at, 1, std::min(kPart, buffer.size() - at));
             });
  }
  const Region region(buffer.data(), buffer.size());
  std::vector<BandwidthPoint> points;
  for (int n = 1;; n = std::min(2 * n, max_threads)) {
    ThreadPool pool(n, cores);
    BandwidthPoint point{n, 0.0, 0.0};
    for (const Reading how : kReadings) {
      std::vector<double> rates;
      for (std::size_t pass = 0; pass < kPasses; ++pass)
        rates.push_back(read_rate(pool, {&region, 1}, how));
      std::sort(rates.begin(), rates.end());
      point.bytes_per_second = std::max(point.bytes_per_second, rates.back());
      point.median = std::max(point.median, rates[kPasses / 2]);
    }
    points.push_back(point);
    if (n >= max_threads) break;
  }
  return points;
}

}  // namespace kt::session
