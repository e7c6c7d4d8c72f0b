// Two kinds of tasks in one parallel region: those of the second wait for all of the first, and
// those of the first for what one worker prepares.
//
//   each worker: prepare, if it is the first to come → first tasks, its share, then those that
//   others have left → second tasks, ditto
//
// Against two regions of the pool, behind work of the caller, it saves the way out of one and into
// the other and lets workers come while there is nothing to do yet. Thread rule: called by the
// thread that walks the tree.
#pragma once
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

/// Fixed contiguous shares of a kind of tasks for the workers of each node; once its share is
/// empty, a worker takes single tasks of others of its node.
class TaskShares {
 public:
  template <class Count>
  TaskShares(const Step& step, Count&& count) : pool_(step.cpu.pool) {
    const int n = pool_.size();
    shares_ = step.arena.allocate<Share>(n);
    for (int begin = 0; begin < n;) {
      const int node = pool_.node_of(begin);
      int end = begin;
      while (end < n && pool_.node_of(end) == node) ++end;
      const std::int64_t n_tasks = count(node), n_workers = end - begin;
      total_ += n_tasks;
      for (std::int64_t i = 0; i < n_workers; ++i) {
        new (&shares_[begin + i])
            Share{{n_tasks * i / n_workers}, n_tasks * (i + 1) / n_workers, begin, end};
      }
      begin = end;
    }
  }

  /// f(node, task, worker) for tasks until none is left on the worker's node.
  template <class F>
  void work(int worker, F&& f) noexcept {
    const int node = pool_.node_of(worker);
    const Share& mine = shares_[worker];
    std::int64_t n_done = 0;
    for (int at = worker, i = mine.first; i < mine.last; ++i) {
      Share& share = shares_[at];
      while (true) {
        const std::int64_t task = share.next.fetch_add(1, std::memory_order_relaxed);
        if (task >= share.end) break;
        f(node, task, worker);
        ++n_done;
      }
      if (++at == mine.last) at = mine.first;
    }
    done_.fetch_add(n_done, std::memory_order_release);
  }
  /// Until all tasks of all nodes are done, by workers that have begun them.
  void wait() const noexcept {
    spin_until([&] { return done_.load(std::memory_order_acquire) == total_; });
  }
  /// Workers of a node.
  std::int64_t n_workers(int node) const {
    std::int64_t n = 0;
    for (int w = 0; w < pool_.size(); ++w) n += pool_.node_of(w) == node ? 1 : 0;
    return n;
  }

 private:
  struct alignas(64) Share {
    std::atomic<std::int64_t> next;
    std::int64_t end;
    int first, last;  // workers of the node
  };
  const ThreadPool& pool_;
  Share* shares_ = nullptr;  // [workers]
  std::int64_t total_ = 0;
  alignas(64) std::atomic<std::int64_t> done_{0};
};

/// As prepare(), run_nodes(count_first, first) and then run_nodes(count_second, second).
template <class Prepare, class CountFirst, class First, class CountSecond, class Second>
void run_in_turn(Step& step, Prepare&& prepare, CountFirst&& count_first, First&& first,
                 CountSecond&& count_second, Second&& second) noexcept {
  TaskShares before(step, count_first), after(step, count_second);
  std::atomic<bool> begun{false}, prepared{false};
  step.cpu.pool.run_nodes([&](int node) { return before.n_workers(node); },
                          [&](int, std::int64_t, int worker) {
                            if (!begun.exchange(true, std::memory_order_relaxed)) {
                              prepare();
                              prepared.store(true, std::memory_order_release);
                            }
                            while (!prepared.load(std::memory_order_acquire))
                              __builtin_ia32_pause();
                            before.work(worker, first);
                            before.wait();
                            after.work(worker, second);
                          });
}

}  // namespace kt::operators
