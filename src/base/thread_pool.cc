#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <utility>

namespace kt {
namespace {

// Half a millisecond: longer than the gap between two regions of a step, and than a GPU takes for
// its part of a layer before the CPU's comes (16 Xeon cores and an H100, experts on the CPU: 66
// tokens/s, 59 with a tenth of it); shorter than a person notices.
constexpr int kSpins = 20000;

void pin_this_thread(const std::vector<int>& cpus) noexcept {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) CPU_SET(static_cast<std::size_t>(cpu), &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

std::vector<int> cpus_of_this_thread() {
  cpu_set_t set;
  CPU_ZERO(&set);
  pthread_getaffinity_np(pthread_self(), sizeof set, &set);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(static_cast<std::size_t>(cpu), &set)) cpus.push_back(cpu);
  }
  return cpus;
}

}  // namespace

ThreadPool::ThreadPool(int n_threads, const std::vector<int>& cores)
    : ThreadPool(std::vector<WorkerGroup>{{0, std::max(1, n_threads), cores}}) {}

ThreadPool::ThreadPool(const std::vector<WorkerGroup>& groups) {
  std::vector<std::vector<int>> cpus;  // of each worker; empty: any
  for (const WorkerGroup& group : groups) {
    const auto n = static_cast<std::size_t>(group.n_workers);
    for (std::size_t i = 0; i < n; ++i) {
      cpus.emplace_back();
      if (n <= group.cores.size()) {
        cpus.back() = {group.cores[i]};
      } else if (groups.size() > 1) {
        cpus.back() = group.cores;
      }
      node_of_.push_back(n_nodes());
    }
    n_threads_ += group.n_workers;
    node_begin_.push_back(n_threads_);
  }
  shares_.reset(new Share[static_cast<std::size_t>(n_threads_)]);
  if (groups.size() > 1) {
    caller_was_on_ = cpus_of_this_thread();
    caller_cpus_ = groups.front().cores;
    first_caller_ = std::this_thread::get_id();
  }
  for (int w = 1; w < n_threads_; ++w) {
    threads_.emplace_back([this, w, on = cpus[static_cast<std::size_t>(w)]] {
      if (!on.empty()) pin_this_thread(on);
      worker_main(w);
    });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  for (std::thread& t : threads_) t.join();
  if (!caller_was_on_.empty() && std::this_thread::get_id() == first_caller_) {
    pin_this_thread(caller_was_on_);
  }
}

std::int64_t ThreadPool::boundary(int node, std::int64_t n, std::int64_t grain) const {
  const std::int64_t units = (n + grain - 1) / grain;
  // The nearest grain; single things as run() shares them out.
  const std::int64_t half = grain > 1 ? n_threads_ / 2 : 0;
  const std::int64_t worker = node_begin_[static_cast<std::size_t>(node)];
  return std::min(n, (units * worker + half) / n_threads_ * grain);
}

void ThreadPool::bind_caller() noexcept {
  if (caller_cpus_.empty() || caller_ == std::this_thread::get_id()) return;
  caller_ = std::this_thread::get_id();
  pin_this_thread(caller_cpus_);
}

void ThreadPool::drain(std::int64_t share_of, int worker) noexcept {
  Share& share = shares_[static_cast<std::size_t>(share_of)];
  while (true) {
    const std::int64_t task = share.next.fetch_add(1, std::memory_order_relaxed);
    if (task >= share.end) return;
    call_(context_, task, worker);
  }
}

void ThreadPool::work(int worker) noexcept {
  if (kind_ == Kind::kEach) return call_(context_, 0, worker);
  const Range near = workers(node_of(worker));
  for (std::int64_t i = 0; i < near.size(); ++i) {
    drain(near.begin + (worker - near.begin + i) % near.size(), worker);
  }
  if (kind_ == Kind::kTasksOfNodes) return;
  for (std::int64_t i = 0; i < n_threads_ - near.size(); ++i) {
    drain((near.end + i) % n_threads_, worker);
  }
}

void ThreadPool::share_out(Range workers, std::int64_t n_tasks) noexcept {
  const std::int64_t n = workers.size();
  for (std::int64_t i = 0; i < n; ++i) {
    Share& share = shares_[static_cast<std::size_t>(workers.begin + i)];
    share.next.store(n_tasks * i / n, std::memory_order_relaxed);
    share.end = n_tasks * (i + 1) / n;
  }
}

void ThreadPool::run_region(Call call, void* context) noexcept {
  bind_caller();
  call_ = call;
  context_ = context;
  ++region_;
  inside_.fetch_or(kOpen, std::memory_order_release);
  epoch_.fetch_add(1, std::memory_order_release);
  epoch_.notify_all();
  work(0);
  int spins = 0;
  const auto wait = [&spins] {
    if (spins++ < kSpins) {
      __builtin_ia32_pause();
    } else {
      sched_yield();
    }
  };
  // What other nodes have not taken yet is for their workers only.
  if (kind_ == Kind::kTasksOfNodes) {
    for (int w = 0; w < n_threads_; ++w) {
      const Share& share = shares_[static_cast<std::size_t>(w)];
      while (share.next.load(std::memory_order_relaxed) < share.end) wait();
    }
  }
  inside_.fetch_and(~kOpen, std::memory_order_relaxed);
  while (inside_.load(std::memory_order_acquire) != 0) wait();
}

bool ThreadPool::enter() noexcept {
  // Acquires the region that is open, be it a later one than that which woke this worker.
  if ((inside_.fetch_add(1, std::memory_order_acquire) & kOpen) != 0) return true;
  inside_.fetch_sub(1, std::memory_order_relaxed);
  return false;
}

void ThreadPool::worker_main(int worker) {
  std::uint32_t seen = 0, worked_in = 0;
  while (true) {
    for (int spin = 0; spin < kSpins && epoch_.load(std::memory_order_acquire) == seen; ++spin) {
      __builtin_ia32_pause();
    }
    epoch_.wait(seen, std::memory_order_acquire);
    seen = epoch_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    if (!enter()) continue;
    // One that was woken late, for a region before this, is woken for this one too.
    if (std::exchange(worked_in, region_) != region_) work(worker);
    inside_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace kt
