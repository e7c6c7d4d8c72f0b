// One request in flight between the thread that drives a Session (worker.h) and those who read:
// text and tokens as they come, then the outcome.
//
//   worker: push, push, … finish or fail       reader: wait → take, … until News::ended → result
//
// Thread rule: any thread, at any time; a Ticket outlives its Worker.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "session/generate.h"

namespace kt::session {

class Ticket {
 public:
  Ticket() = default;
  ~Ticket();
  Ticket(const Ticket&) = delete;
  Ticket& operator=(const Ticket&) = delete;

  struct News {
    std::string text;  // whole characters, certain not to belong to a stop string
    std::vector<engine::SampledToken> tokens;
    bool ended = false;
  };
  /// Whether there are news, for which it waits so long at most.
  bool wait(std::chrono::milliseconds longest);
  /// What came since the last call.
  News take();
  /// A descriptor that poll() finds readable while there are news; the Ticket owns it. Throws kIo.
  int descriptor();
  /// Ends the request at the next step; its outcome is then kCancelled with what there is.
  void cancel() { cancelled_->store(true, std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_->load(std::memory_order_relaxed); }
  /// The flag that the engine looks at.
  std::shared_ptr<const std::atomic<bool>> cancel_flag() const { return cancelled_; }
  /// The outcome, once News::ended was seen. Throws what the request failed with.
  TextResult result() const;

  // The worker's side.
  void push(std::string_view text);
  void push(const engine::SampledToken& token);
  void finish(TextResult result);
  void fail(std::exception_ptr error);

 private:
  void announce();  // with mutex_ held
  std::shared_ptr<std::atomic<bool>> cancelled_ = std::make_shared<std::atomic<bool>>(false);
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  News news_;
  bool fresh_ = false;  // news_ were not taken yet
  int descriptor_ = -1;
  std::optional<TextResult> result_;
  std::exception_ptr error_;
};

}  // namespace kt::session
