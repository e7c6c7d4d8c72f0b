#include "serve/pool.h"

#include <utility>

namespace kt::serve {

Pool::Pool(int n_threads, std::size_t max_queued) : max_queued_(max_queued) {
  for (int i = 0; i < n_threads; ++i) threads_.emplace_back([this] { work(); });
}

Pool::~Pool() { stop(); }

bool Pool::run(std::function<void()> task) {
  const std::lock_guard lock(mutex_);
  if (queued_.size() >= max_queued_) return false;
  if (stopped_) return true;
  queued_.push_back(std::move(task));
  changed_.notify_one();
  return true;
}

void Pool::go_on(std::function<void()> task) {
  const std::lock_guard lock(mutex_);
  if (stopped_) return;
  queued_.push_back(std::move(task));
  changed_.notify_one();
}

void Pool::stop() {
  std::deque<std::function<void()>> dropped;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    dropped.swap(queued_);
    changed_.notify_all();
  }
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

void Pool::work() {
  while (true) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopped_ || !queued_.empty(); });
      if (stopped_) return;
      task = std::move(queued_.front());
      queued_.pop_front();
    }
    task();
  }
}

}  // namespace kt::serve
