#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>

namespace kt {
namespace {

// About 50 µs: longer than the gap between two regions of a step, shorter than a person notices.
constexpr int kSpins = 2000;

void pin_this_thread(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<std::size_t>(core), &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

}  // namespace

ThreadPool::ThreadPool(int n_threads, const std::vector<int>& cores)
    : n_threads_(std::max(1, n_threads)), shares_(new Share[static_cast<std::size_t>(n_threads_)]) {
  for (int w = 1; w < n_threads_; ++w) {
    const int core = static_cast<std::size_t>(n_threads_) <= cores.size()
                         ? cores[static_cast<std::size_t>(w)]
                         : -1;
    threads_.emplace_back([this, w, core] { worker_main(w, core); });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& t : threads_) t.join();
}

void ThreadPool::work(int worker) noexcept {
  for (int i = 0; i < n_threads_; ++i) {
    Share& share = shares_[static_cast<std::size_t>((worker + i) % n_threads_)];
    while (true) {
      const std::int64_t task = share.next.fetch_add(1, std::memory_order_relaxed);
      if (task >= share.end) break;
      call_(context_, task, worker);
    }
  }
}

void ThreadPool::run_region(std::int64_t n_tasks, Call call, void* context) noexcept {
  call_ = call;
  context_ = context;
  for (int w = 0; w < n_threads_; ++w) {
    Share& share = shares_[static_cast<std::size_t>(w)];
    share.next.store(n_tasks * w / n_threads_, std::memory_order_relaxed);
    share.end = n_tasks * (w + 1) / n_threads_;
  }
  n_busy_.store(n_threads_ - 1, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  work(0);
  for (int spin = 0; n_busy_.load(std::memory_order_acquire) != 0; ++spin) {
    if (spin < kSpins) {
      __builtin_ia32_pause();
    } else {
      sched_yield();
    }
  }
}

void ThreadPool::worker_main(int worker, int core) {
  if (core >= 0) pin_this_thread(core);
  std::uint32_t seen = 0;
  while (true) {
    for (int spin = 0; spin < kSpins && epoch_.load(std::memory_order_acquire) == seen; ++spin) {
      __builtin_ia32_pause();
    }
    epoch_.wait(seen, std::memory_order_acquire);
    ++seen;
    if (stop_.load(std::memory_order_relaxed)) return;
    work(worker);
    n_busy_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace kt
