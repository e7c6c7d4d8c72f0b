// One model that requests can name: its worker, its state, and who uses it. How it is asked:
// named_model.h.
//
// Thread rule: any thread.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "serve/model_facts.h"
#include "session/worker.h"

namespace kt::serve {

class ServedModel {
 public:
  enum class State {
    kOpening,
    kOpen,
    kFailed,    // it could not be opened
    kNoMemory,  // for want of memory
    kBroken,    // it was open; an exception ended a step
  };
  /// Begins to open it, on a thread of its own; first that thread calls `before_opening`.
  explicit ServedModel(ModelOptions options, std::function<void()> before_opening = {});
  ServedModel(const ServedModel&) = delete;
  ServedModel& operator=(const ServedModel&) = delete;

  session::Worker& worker() { return worker_; }
  const std::string& id() const { return options_.id; }
  State state() const;
  /// Waits so long at most; true once it is open. Throws what opening threw.
  bool wait_open(std::chrono::milliseconds longest);
  /// f() once it is no longer being opened: on the model's thread, or here and now.
  void when_opened(std::function<void()> f);
  /// Throws what opening it or a step threw, and a Refusal (503) while it is being opened.
  const ModelFacts& facts() const { return *shared_facts(); }
  std::shared_ptr<const ModelFacts> shared_facts() const;
  /// Those who use it, which keeps it open: see Models::get.
  using Clock = std::chrono::steady_clock;
  void begin_use();
  void end_use();
  bool in_use() const { return n_uses_ > 0; }
  Clock::time_point last_used() const { return last_used_; }

 private:
  void note_state(const session::Session* session, const std::exception_ptr& error);
  const ModelOptions options_;
  std::atomic<int> n_uses_{0};
  std::atomic<Clock::time_point> last_used_{Clock::now()};
  mutable std::mutex mutex_;  // of the members down to facts_
  std::condition_variable changed_;
  State state_ = State::kOpening;
  std::exception_ptr error_;
  std::vector<std::function<void()>> waiting_;
  std::shared_ptr<const ModelFacts> facts_;  // stays, once there
  session::Worker worker_;                   // last: its thread uses the members above
};

}  // namespace kt::serve
