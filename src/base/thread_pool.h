// One pool of pinned workers for all parallel regions of a process.
//
// run(n, f) calls f(task, worker) once for each task in [0, n) and returns when all are done.
// Workers get fixed contiguous shares and steal single tasks from the others' shares once theirs is
// empty, from workers of their own NUMA node first. run_nodes(count, f) gives each node its own
// tasks, which only its workers do: for work on memory of that node. run_each(f) calls f(worker) on
// each worker, for work that f itself shares out. A region ends when its tasks
// are done: workers that the system has not let run by then miss it. Between regions workers spin
// for a short while (a step issues regions back to back) and then park in the kernel, so an idle
// process uses no CPU. Thread rule: run() from one thread at a time; the caller is worker 0.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

#include "base/topology.h"

namespace kt {

class ThreadPool {
 public:
  /// Starts n_threads - 1 workers of one node; worker i is bound to cores[i] when there are enough
  /// cores.
  ThreadPool(int n_threads, const std::vector<int>& cores);
  /// Workers of several nodes, in their order. The calling thread is bound to the first node's
  /// cores while it drives the pool and the pool lives.
  explicit ThreadPool(const std::vector<WorkerGroup>& groups);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return n_threads_; }
  int n_nodes() const { return static_cast<int>(node_begin_.size()) - 1; }
  /// Nodes are counted from 0, as the groups came.
  int node_of(int worker) const { return node_of_[static_cast<std::size_t>(worker)]; }

  struct Range {
    std::int64_t begin = 0;
    std::int64_t end = 0;
    std::int64_t size() const { return end - begin; }
  };
  /// A node's part of n things: all parts together are [0, n), in proportion to the workers; all
  /// but the last end on multiples of `grain`.
  Range part(int node, std::int64_t n, std::int64_t grain = 1) const {
    return {boundary(node, n, grain), boundary(node + 1, n, grain)};
  }

  template <class F>
  void run(std::int64_t n_tasks, F&& f) noexcept {
    if (n_threads_ == 1 || n_tasks <= 1) {
      for (std::int64_t t = 0; t < n_tasks; ++t) f(t, 0);
      return;
    }
    share_out({0, n_threads_}, n_tasks);
    kind_ = Kind::kTasks;
    run_region(&invoke<std::remove_reference_t<F>>, address(f));
  }

  /// Calls f(node, task, worker) once for each task in [0, count(node)) of each node, on workers of
  /// that node.
  template <class Count, class F>
  void run_nodes(Count&& count, F&& f) noexcept {
    if (n_nodes() == 1) {
      run(count(0), [&](std::int64_t task, int worker) { f(0, task, worker); });
      return;
    }
    for (int node = 0; node < n_nodes(); ++node) share_out(workers(node), count(node));
    kind_ = Kind::kTasksOfNodes;
    const auto of_node = [&](std::int64_t task, int worker) { f(node_of(worker), task, worker); };
    run_region(&invoke<decltype(of_node)>, address(of_node));
  }

  /// Calls f(worker) on the caller, and on every other worker that comes before the caller's call
  /// returns. Nothing is shared out, so that nobody looks at the shares of others.
  template <class F>
  void run_each(F&& f) noexcept {
    if (n_threads_ == 1) return f(0);
    kind_ = Kind::kEach;
    const auto once = [&](std::int64_t, int worker) { f(worker); };
    run_region(&invoke<decltype(once)>, address(once));
  }

 private:
  enum class Kind : std::uint8_t { kTasks, kTasksOfNodes, kEach };
  using Call = void (*)(void*, std::int64_t, int);
  struct alignas(64) Share {
    std::atomic<std::int64_t> next{0};
    std::int64_t end = 0;
  };
  template <class F>
  static void invoke(void* f, std::int64_t task, int worker) {
    (*static_cast<F*>(f))(task, worker);
  }
  template <class F>
  static void* address(F& f) {
    return const_cast<void*>(static_cast<const void*>(&f));
  }
  std::int64_t boundary(int node, std::int64_t n, std::int64_t grain) const;
  Range workers(int node) const {
    const auto i = static_cast<std::size_t>(node);
    return {node_begin_[i], node_begin_[i + 1]};
  }
  void share_out(Range workers, std::int64_t n_tasks) noexcept;
  void run_region(Call call, void* context) noexcept;
  void work(int worker) noexcept;
  void drain(std::int64_t share_of, int worker) noexcept;
  bool enter() noexcept;
  void worker_main(int worker);
  void bind_caller() noexcept;

  int n_threads_ = 0;
  std::vector<int> node_begin_ = {0};  // first worker of each node, and the end
  std::vector<int> node_of_;           // of each worker
  std::vector<int> caller_cpus_;       // with several nodes: the first one's
  std::vector<int> caller_was_on_;     // CPUs of the first caller, given back at the end
  std::thread::id first_caller_, caller_;
  std::unique_ptr<Share[]> shares_;
  Kind kind_ = Kind::kTasks;
  Call call_ = nullptr;
  void* context_ = nullptr;
  std::uint32_t region_ = 0;  // the number of the last one
  alignas(64) std::atomic<std::uint32_t> epoch_{0};
  // Workers inside the region or looking whether they may come in, and kOpen while they may.
  static constexpr std::uint32_t kOpen = std::uint32_t{1} << 31;
  alignas(64) std::atomic<std::uint32_t> inside_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace kt
