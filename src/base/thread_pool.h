// One pool of pinned workers for all parallel regions of a process.
//
// run(n, f) calls f(task, worker) once for each task in [0, n) and returns when all are done.
// Workers get fixed contiguous shares and steal single tasks from the others' shares once theirs is
// empty. Between regions workers spin for a short while (a step issues regions back to back) and
// then park in the kernel, so an idle process uses no CPU. Thread rule: run() from one thread at a
// time; the caller is worker 0.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace kt {

class ThreadPool {
 public:
  /// Starts n_threads - 1 workers; worker i is bound to cores[i] when there are enough cores.
  ThreadPool(int n_threads, const std::vector<int>& cores);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return n_threads_; }

  template <class F>
  void run(std::int64_t n_tasks, F&& f) noexcept {
    if (n_threads_ == 1 || n_tasks <= 1) {
      for (std::int64_t t = 0; t < n_tasks; ++t) f(t, 0);
      return;
    }
    auto call = [](void* context, std::int64_t task, int worker) {
      (*static_cast<std::remove_reference_t<F>*>(context))(task, worker);
    };
    run_region(n_tasks, call, const_cast<void*>(static_cast<const void*>(&f)));
  }

 private:
  using Call = void (*)(void*, std::int64_t, int);
  struct alignas(64) Share {
    std::atomic<std::int64_t> next{0};
    std::int64_t end = 0;
  };
  void run_region(std::int64_t n_tasks, Call call, void* context) noexcept;
  void work(int worker) noexcept;
  void worker_main(int worker, int core);

  int n_threads_;
  std::unique_ptr<Share[]> shares_;
  Call call_ = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<std::uint32_t> epoch_{0};
  alignas(64) std::atomic<int> n_busy_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace kt
