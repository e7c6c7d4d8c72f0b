// Ctrl-C as an event instead of an asynchronous signal: SIGINT is blocked in every thread and read
// by one thread, which calls the current handler. Without a handler the process ends as it would
// have. A service also takes SIGTERM as an interrupt, and SIGHUP as a wish to read files anew.
// Thread rule: construct before any other thread starts; the handler runs on the watcher's
// thread.
#pragma once
#include <atomic>
#include <functional>
#include <mutex>
#include <thread>

namespace kt::app {

class InterruptWatcher {
 public:
  enum class Kind { kProgram, kService };
  explicit InterruptWatcher(Kind kind = Kind::kProgram);
  ~InterruptWatcher();
  InterruptWatcher(const InterruptWatcher&) = delete;
  InterruptWatcher& operator=(const InterruptWatcher&) = delete;

  /// Called for each Ctrl-C from now on; an empty function restores "the process ends".
  void set_handler(std::function<void()> handler);
  /// Called for each SIGHUP that a service gets.
  void set_hangup_handler(std::function<void()> handler);
  /// Readable after an interrupt until take() is called.
  int event_fd() const { return event_fd_; }
  /// Whether an interrupt came since the last call.
  bool take();

 private:
  void watch();
  const Kind kind_;
  int signal_fd_ = -1;
  int event_fd_ = -1;
  int stop_fd_ = -1;
  std::mutex mutex_;
  std::function<void()> handler_, hangup_handler_;
  std::thread thread_;
};

}  // namespace kt::app
