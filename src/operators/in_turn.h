// Stages of tasks in one parallel region, whose workers hardly wait for each other: tasks of a
// stage may begin when all of the stage before the last are done, which they mostly are when a
// worker has nothing left to do of the last.
//
//   caller: opens the region, prepares what tasks of the first stage need; others come meanwhile
//   each worker, stage by stage: waits → tasks of its share → those that others have left
//
// Against one region of the pool for each stage it saves the wait for the last task of a stage, and
// the way out of a region and into the next. Thread rule: called by the thread that walks the tree.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <new>
#include <thread>

#include "operators/step.h"

namespace kt::operators {

template <class F>
void spin_until(F&& reached) noexcept {
  constexpr int kSpins = 20000;
  for (int spins = 0; !reached();) {
    if (spins++ < kSpins) {
      __builtin_ia32_pause();
    } else {
      std::this_thread::yield();
    }
  }
}

/// For each stage fixed contiguous shares of its tasks for the workers of each node; once its share
/// is empty, a worker takes single tasks of others of its node.
template <std::size_t kStages>
class StageShares {
 public:
  /// count(stage, node): how many tasks.
  template <class Count>
  StageShares(const Step& step, Count&& count) : pool_(step.cpu.pool) {
    const int n = pool_.size();
    shares_ = step.arena.allocate<Share>(n);
    for (int begin = 0; begin < n;) {
      const int node = pool_.node_of(begin);
      int end = begin;
      while (end < n && pool_.node_of(end) == node) ++end;
      for (int w = begin; w < end; ++w) (new (&shares_[w]) Share)->workers = {begin, end};
      for (std::size_t s = 0; s < kStages; ++s) {
        const auto n_tasks = static_cast<std::int32_t>(count(s, node));
        total_[s] += n_tasks;
        for (int w = begin; w < end; ++w) {
          shares_[w].next[s].store(n_tasks * (w - begin) / (end - begin),
                                   std::memory_order_relaxed);
          shares_[w].end[s] = n_tasks * (w - begin + 1) / (end - begin);
        }
      }
      begin = end;
    }
  }

  /// f(node, task) for tasks of a stage until none is left on the worker's node.
  template <class F>
  void work(std::size_t stage, int worker, F&& f) noexcept {
    const int node = pool_.node_of(worker);
    const auto [first, last] = shares_[worker].workers;
    std::int32_t n_done = 0;
    for (int at = worker, i = first; i < last; ++i) {
      Share& share = shares_[at];
      const std::int32_t end = share.end[stage];
      // Looks before it takes: most shares of others are empty, and a line that all have read is
      // had sooner than one that all have changed.
      while (share.next[stage].load(std::memory_order_relaxed) < end) {
        const std::int32_t task = share.next[stage].fetch_add(1, std::memory_order_relaxed);
        if (task >= end) break;
        f(node, task);
        ++n_done;
      }
      if (++at == last) at = first;
    }
    if (n_done > 0) done_[stage].n.fetch_add(n_done, std::memory_order_release);
  }
  /// Until all tasks of a stage on all nodes are done, by workers that have begun them.
  void wait(std::size_t stage) const noexcept {
    spin_until([&] { return done_[stage].n.load(std::memory_order_acquire) == total_[stage]; });
  }

 private:
  struct alignas(64) Share {
    std::array<std::atomic<std::int32_t>, kStages> next;
    std::array<std::int32_t, kStages> end;
    std::array<int, 2> workers;  // of the node
  };
  struct alignas(64) Done {
    std::atomic<std::int32_t> n{0};
  };
  const ThreadPool& pool_;
  Share* shares_ = nullptr;  // [workers]
  std::array<std::int32_t, kStages> total_{};
  std::array<Done, kStages> done_;
};

/// prepare(); then task(stage, node, index, worker) once for each index in [0, count(stage, node))
/// of each stage and node.
template <std::size_t kStages, class Prepare, class Count, class Task>
void run_in_turn(Step& step, Prepare&& prepare, Count&& count, Task&& task) noexcept {
  static_assert(kStages >= 2);
  StageShares<kStages> shares(step, count);
  alignas(64) std::atomic<bool> prepared{false};
  step.cpu.pool.run_each([&](int worker) {
    constexpr int kCaller = 0;
    if (worker == kCaller) {
      prepare();
      prepared.store(true, std::memory_order_release);
    }
    spin_until([&] { return prepared.load(std::memory_order_acquire); });
    for (std::size_t s = 0; s < kStages; ++s) {
      if (s >= 2) shares.wait(s - 2);
      shares.work(s, worker, [&](int node, std::int64_t index) { task(s, node, index, worker); });
    }
    if (worker != kCaller) return;
    for (std::size_t s = kStages - 2; s < kStages; ++s) shares.wait(s);
  });
}

}  // namespace kt::operators
