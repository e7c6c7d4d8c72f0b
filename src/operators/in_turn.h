// Two kinds of tasks in one parallel region: those of the second wait for all of the first.
//
//   each worker: first tasks, its share, then those that others have left → wait, and ask for what
//   its first second task reads → second tasks, ditto
//
// Against two regions of the pool it saves the way out of one and into the other. Thread rule:
// called by the thread that walks the tree.
#pragma once
#include <atomic>
#include <cstdint>
#include <new>
#include <thread>

#include "operators/step.h"

namespace kt::operators {

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
        new (&shares_[begin + i]) Share{{n_tasks * i / n_workers},
                                        n_tasks * i / n_workers,
                                        n_tasks * (i + 1) / n_workers,
                                        begin,
                                        end};
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
  /// All tasks of all nodes.
  bool done() const noexcept { return done_.load(std::memory_order_acquire) == total_; }
  /// Until they are, by workers that have begun them.
  void wait() const noexcept {
    constexpr int kSpins = 20000;
    for (int spins = 0; !done();) {
      if (spins++ < kSpins) {
        __builtin_ia32_pause();
      } else {
        std::this_thread::yield();
      }
    }
  }
  /// The first task of a worker's share; -1: it has none.
  std::int64_t first_of(int worker) const {
    const Share& share = shares_[worker];
    return share.begin < share.end ? share.begin : -1;
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
    std::int64_t begin, end;
    int first, last;  // workers of the node
  };
  const ThreadPool& pool_;
  Share* shares_ = nullptr;  // [workers]
  std::int64_t total_ = 0;
  alignas(64) std::atomic<std::int64_t> done_{0};
};

/// As run_nodes(count_first, first) and then run_nodes(count_second, second). ahead(node, task,
/// go_on) asks for memory that the second task reads for as long as go_on() says.
template <class CountFirst, class First, class CountSecond, class Second, class Ahead>
void run_in_turn(Step& step, CountFirst&& count_first, First&& first, CountSecond&& count_second,
                 Second&& second, Ahead&& ahead) noexcept {
  TaskShares before(step, count_first), after(step, count_second);
  step.cpu.pool.run_nodes([&](int node) { return before.n_workers(node); },
                          [&](int, std::int64_t, int worker) {
                            before.work(worker, first);
                            if (const std::int64_t task = after.first_of(worker); task >= 0)
                              ahead(step.cpu.pool.node_of(worker), task,
                                    [&] { return !before.done(); });
                            before.wait();
                            after.work(worker, second);
                          });
}

}  // namespace kt::operators
