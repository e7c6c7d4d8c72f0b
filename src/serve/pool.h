// A few threads for what takes CPU time and would hold up the sockets: reading requests, filling
// in templates, tokenising, compiling grammars.
//
//   run → queue (bounded) → one of the threads
//
// Thread rule: any thread; shared by those who may outlive the server that stops it.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace kt::serve {

class Pool {
 public:
  Pool(int n_threads, std::size_t max_queued);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  /// False when too many wait. The task must not throw; it is dropped when the pool stops before.
  bool run(std::function<void()> task);
  /// The same for more of what run() took: never refused.
  void go_on(std::function<void()> task);
  /// Waits for the tasks in progress, drops those that wait and all later ones.
  void stop();

 private:
  void work();
  const std::size_t max_queued_;
  std::mutex mutex_;  // of the members down to stopped_
  std::condition_variable changed_;
  std::deque<std::function<void()>> queued_;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace kt::serve
