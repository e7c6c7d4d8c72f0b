#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <pthread.h>
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

TEST(ThreadPool, RegionsEndWithoutWorkersThatDoNotRun) {
  // Far more workers than CPUs, so that most are not running while a region lasts.
  ThreadPool pool(64, {});
  std::atomic<std::int64_t> sum{0};
  std::int64_t plain = 0;
  for (int region = 0; region < 3000; ++region) {
    const int add = region;  // read by late workers if a region let them in too late
    pool.run(2, [&](std::int64_t task, int) { sum += task + add; });
    plain += 1 + 2 * add;
  }
  EXPECT_EQ(sum, plain);
}

TEST(ThreadPool, EachWorkerIsCalledOnceAtMostAndTheCallerAlways) {
  for (const int n_threads : {1, 3, 64}) {
    ThreadPool pool(n_threads, {});
    for (int region = 0; region < 1000; ++region) {
      std::vector<std::atomic<int>> hits(static_cast<std::size_t>(n_threads));
      pool.run_each([&](int worker) { ++hits[static_cast<std::size_t>(worker)]; });
      EXPECT_EQ(hits[0], 1);
      for (const auto& h : hits) EXPECT_LE(h, 1);
    }
    std::atomic<int> n{0};
    pool.run(7, [&](std::int64_t, int) { ++n; });  // regions of another kind may follow
    EXPECT_EQ(n, 7);
  }
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

const std::vector<std::vector<int>> kGroups = {{1}, {3}, {1, 1}, {3, 1}, {2, 3}, {1, 2, 1, 1}};

std::vector<WorkerGroup> groups(const std::vector<int>& n_workers) {
  std::vector<WorkerGroup> groups;
  for (const int n : n_workers) groups.push_back({static_cast<int>(groups.size()), n, {}});
  return groups;
}

TEST(ThreadPool, TasksOfANodeRunOnItsWorkers) {
  for (const auto& n_workers : kGroups) {
    ThreadPool pool(groups(n_workers));
    ASSERT_EQ(pool.n_nodes(), static_cast<int>(n_workers.size()));
    for (const std::int64_t n : {0, 1, 2, 7, 500}) {
      const auto count = [&](int node) { return n + node * n / 2; };
      std::vector<std::vector<std::atomic<int>>> hits;
      for (int node = 0; node < pool.n_nodes(); ++node)
        hits.emplace_back(static_cast<std::size_t>(count(node)));
      pool.run_nodes(count, [&](int node, std::int64_t task, int worker) {
        EXPECT_EQ(pool.node_of(worker), node);
        ++hits[static_cast<std::size_t>(node)][static_cast<std::size_t>(task)];
      });
      for (const auto& node : hits) {
        for (const auto& h : node) EXPECT_EQ(h, 1);
      }
    }
  }
}

TEST(ThreadPool, PlainTasksAreSharedByAllNodes) {
  for (const auto& n_workers : kGroups) {
    ThreadPool pool(groups(n_workers));
    std::vector<std::atomic<int>> hits(300);
    pool.run(300, [&](std::int64_t task, int) { ++hits[static_cast<std::size_t>(task)]; });
    for (const auto& h : hits) EXPECT_EQ(h, 1);
  }
}

TEST(ThreadPool, PartsCoverEverythingInWholeGrains) {
  for (const auto& n_workers : kGroups) {
    const ThreadPool pool(groups(n_workers));
    for (const std::int64_t n : {0, 1, 31, 32, 33, 96, 1000, 7168}) {
      for (const std::int64_t grain : {1, 32}) {
        std::int64_t at = 0;
        for (int node = 0; node < pool.n_nodes(); ++node) {
          const ThreadPool::Range part = pool.part(node, n, grain);
          EXPECT_EQ(part.begin, at);
          EXPECT_GE(part.size(), 0);
          const double even = static_cast<double>(n) * n_workers[static_cast<std::size_t>(node)] /
                              static_cast<double>(pool.size());
          EXPECT_NEAR(static_cast<double>(part.size()), even, static_cast<double>(grain) + 1e-9);
          at = part.end;
          EXPECT_TRUE(at == n || at % grain == 0);
        }
        EXPECT_EQ(at, n);
      }
    }
  }
}

std::size_t n_cpus_of_this_thread() {
  cpu_set_t set;
  CPU_ZERO(&set);
  pthread_getaffinity_np(pthread_self(), sizeof set, &set);
  return static_cast<std::size_t>(CPU_COUNT(&set));
}

TEST(ThreadPool, TheCallerIsBoundOnlyWhileSeveralNodesWork) {
  const std::vector<int> cores = detect_topology().cores;
  const std::size_t before = n_cpus_of_this_thread();
  {
    ThreadPool pool({{0, 1, {cores.front()}}, {1, 1, {cores.back()}}});
    pool.run_nodes([](int) { return 1; }, [](int, std::int64_t, int) {});
    EXPECT_EQ(n_cpus_of_this_thread(), 1u);
    EXPECT_EQ(detect_topology().cores.size(), cores.size()) << "the workers' CPUs count";
  }
  EXPECT_EQ(n_cpus_of_this_thread(), before);
  {
    ThreadPool pool(2, cores);
    pool.run(2, [](std::int64_t, int) {});
    EXPECT_EQ(n_cpus_of_this_thread(), before);
  }
}

}  // namespace
}  // namespace kt
