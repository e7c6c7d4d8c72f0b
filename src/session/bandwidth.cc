#include "session/bandwidth.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "base/thread_pool.h"
#include "tensor/tensor.h"

namespace kt::session {
namespace {

/// Sum of all words; independent accumulators keep several loads in flight.
std::uint64_t sum_words(const std::uint64_t* words, std::int64_t n) noexcept {
  std::uint64_t sums[8] = {};
  for (std::int64_t i = 0; i + 8 <= n; i += 8) {
    for (int j = 0; j < 8; ++j) sums[j] += words[i + j];
  }
  std::uint64_t total = 0;
  for (const std::uint64_t sum : sums) total += sum;
  return total;
}

double best_pass(ThreadPool& pool, const tensor::Buffer& buffer, std::atomic<std::uint64_t>& sink) {
  constexpr int kPasses = 4;
  constexpr std::int64_t kSlice = std::int64_t{1} << 20;
  const auto n_slices = static_cast<std::int64_t>(buffer.size()) / kSlice;
  double best = 0.0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto begin = std::chrono::steady_clock::now();
    pool.run(n_slices, [&](std::int64_t slice, int) {
      const auto* words = reinterpret_cast<const std::uint64_t*>(buffer.data() + slice * kSlice);
      sink.fetch_add(sum_words(words, kSlice / 8), std::memory_order_relaxed);
    });
    const double seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    best = std::max(best, static_cast<double>(n_slices * kSlice) / std::max(seconds, 1e-9));
  }
  return best;
}

}  // namespace

std::vector<BandwidthPoint> measure_read_bandwidth(const std::vector<int>& cores, int max_threads,
                                                   std::uint64_t bytes) {
  const tensor::Buffer buffer(static_cast<std::size_t>(bytes));
  std::memset(buffer.data(), 1, buffer.size());
  std::atomic<std::uint64_t> sink{0};
  std::vector<BandwidthPoint> points;
  for (int n = 1;; n = std::min(2 * n, max_threads)) {
    ThreadPool pool(n, cores);
    points.push_back({n, best_pass(pool, buffer, sink)});
    if (n >= max_threads) break;
  }
  return points;
}

}  // namespace kt::session
