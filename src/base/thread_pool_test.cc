#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <vector>

namespace kt {
namespace {

TEST(ThreadPool, EveryTaskRunsOnce) {
  for (const int n_threads : {1, 2, 5}) {
    ThreadPool pool(n_threads, {});
    for (const std::int64_t n : {0, 1, 2, 3, 64, 1000}) {
      std::vector<std::atomic<int>> hits(static_cast<std::size_t>(n));
      pool.run(n, [&](std::int64_t task, int worker) {
        EXPECT_LT(worker, n_threads);
        ++hits[static_cast<std::size_t>(task)];
      });
      for (const auto& h : hits) EXPECT_EQ(h, 1);
    }
  }
}

TEST(ThreadPool, ManyRegionsBackToBack) {
  ThreadPool pool(3, {});
  std::atomic<std::int64_t> sum{0};
  for (int region = 0; region < 20000; ++region) {
    pool.run(7, [&](std::int64_t task, int) { sum += task; });
  }
  EXPECT_EQ(sum, 20000 * 21);
}

TEST(ThreadPool, OneSlowTaskDoesNotStopTheOthers) {
  ThreadPool pool(2, {});
  std::atomic<bool> others_done{false};
  std::atomic<int> n_done{0};
  pool.run(8, [&](std::int64_t task, int) {
    if (task ==
        0) {  // waits for the tasks behind it in its own share, which the other worker steals
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      while (!others_done && std::chrono::steady_clock::now() < end) std::this_thread::yield();
      return;
    }
    if (++n_done == 7) others_done = true;
  });
  EXPECT_TRUE(others_done);
}

TEST(ThreadPool, ParksWhenIdle) {
  ThreadPool pool(4, {});
  pool.run(16, [](std::int64_t, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // let the spinning end
  rusage before{}, after{};
  getrusage(RUSAGE_SELF, &before);
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  getrusage(RUSAGE_SELF, &after);
  const auto us = [](const timeval& t) { return t.tv_sec * 1000000 + t.tv_usec; };
  EXPECT_LT(us(after.ru_utime) - us(before.ru_utime), 40000);  // 10 % of one core: generous
}

}  // namespace
}  // namespace kt
