// A thread that opens a Session and drives it for everyone else: requests from any thread are run
// together, up to a limit; the rest wait in order.
//
//   submit → queue ─admit→ Engine::step ─tokens, text→ Ticket
//   enqueue → parts of other work, one after each step, in turns
//
// An exception that one request or part causes ends that one; any other out of a step ends every
// request and all later ones. Thread rule: any thread.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <list>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "session/module_use.h"
#include "session/ticket.h"

namespace kt::session {

/// How the text of a request is made, and until when.
struct TextOptions {
  std::vector<std::string> stops;
  std::vector<text::TokenId> kept;  // control tokens that show in the text
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
};

/// Thrown by what would make the queue longer than it may be.
class QueueFull : public Error {
 public:
  using Error::Error;
};

struct WorkerOptions {
  std::size_t max_running = 64;          // requests in one step at most
  std::size_t max_waiting = SIZE_MAX;    // behind them
  std::function<void()> before_opening;  // on the worker's thread, as all here; must not throw
  /// The model is open (null), could not be opened, or a step threw; must not throw.
  std::function<void(const Session*, const std::exception_ptr&)> on_state;
};

class Worker {
 public:
  /// Starts opening the model; on_load and on_warning of the options are the Worker's own.
  explicit Worker(Options options, WorkerOptions worker_options = {});
  /// close().
  ~Worker();
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  /// Waits so long for the model at most; true once it is open. Throws what opening threw.
  bool wait_open(std::chrono::milliseconds longest);
  struct Loading {
    std::uint64_t done = 0, total = 0;  // bytes
    double rate = 0.0;                  // bytes per second
  };
  Loading loading() const;
  /// Warnings about the rule file so far.
  std::vector<std::string> warnings() const;

  /// Queues a request, whose callbacks run on the worker's thread; on_token and cancelled are the
  /// Worker's own. Text comes when the model has a tokenizer. What is wrong with the request shows
  /// in the Ticket; kCancelled there when the deadline passed. Throws kUsage when closed or not
  /// open yet, QueueFull.
  std::shared_ptr<Ticket> submit(engine::Request request, TextOptions text = {});
  /// Throws kUsage when so many requests can never be queued together, QueueFull when not now.
  void expect_room(std::size_t n_more) const;
  /// The same for several: all of them are queued, or none.
  std::vector<std::shared_ptr<Ticket>> submit(std::vector<engine::Request> requests,
                                              const TextOptions& text);
  struct Load {
    std::size_t n_running = 0, n_waiting = 0;  // requests
    double cache_used = 0.0;                   // share of the cache's pages
    operators::ExpertUse expert_use;           // so far
  };
  Load load() const;
  /// Every module with its share of the time; steps are looked at for some seconds afterwards. On
  /// the worker's thread alone: within call, post or enqueue.
  std::vector<ModuleUse> modules(Session& session);
  /// Ends all requests at the next step, with what there is.
  void cancel_all();
  /// Ends all requests with kCancelled, waits for the step in progress, frees the model.
  void close();

  /// f(const Session&) on the calling thread: for what does not change, such as configuration and
  /// tokenizer. Throws kUsage when closed or not open yet.
  template <class F>
  auto read(F&& f) const {
    const std::shared_lock lock(session_mutex_);
    if (session_ == nullptr) fail_closed();
    return f(std::as_const(*session_));
  }
  /// f(session) on the worker's thread between two steps; waits for it and throws what it threw.
  void call(std::function<void(Session&)> f);
  /// The same without waiting; f must not throw, and is dropped when the Worker closes before.
  void post(std::function<void(Session&)> f);
  /// As post, for what takes long: part(session) does some of it and returns whether there is
  /// more. It counts as a waiting request. One that throws is dropped. Throws QueueFull.
  void enqueue(std::function<bool(Session&)> part);

 private:
  struct Job {
    std::shared_ptr<Ticket> ticket;
    engine::Request request;
    TextOptions text;
    std::unique_ptr<TextOutput> output;  // null without a tokenizer
    engine::Engine::RequestId id = 0;
    bool expired = false;
  };
  struct Call {
    std::function<void(Session&)> run;
    std::promise<void> done;
  };
  [[noreturn]] static void fail_closed();
  void check_open() const;  // with mutex_ held
  void check_room(std::size_t n_more) const;
  void main();
  bool open();
  void serve();
  void take_turns(std::deque<Call>& calls);
  void note_load();
  void step();
  void end_expired();
  void admit();
  bool start(Job& job);
  void deliver();
  static void finish(Job& job, engine::Result done);
  void end_jobs(const std::exception_ptr& error);

  Options options_;
  const WorkerOptions worker_options_;
  mutable std::mutex mutex_;  // of the members down to watched_until_
  std::condition_variable changed_;
  bool opened_ = false;  // or failed to, with error_
  bool closing_ = false;
  bool cancel_all_ = false;
  std::exception_ptr error_;  // of opening, or of a step
  Loading loading_;
  std::vector<std::string> warnings_;
  std::deque<Job> queued_;
  std::deque<Call> calls_;
  std::deque<std::function<bool(Session&)>> parts_;
  Load load_;                                              // without queued_ and parts_
  std::chrono::steady_clock::time_point watched_until_{};  // by who asked for modules()

  mutable std::shared_mutex session_mutex_;  // of the pointer, not of what it points to
  std::unique_ptr<Session> session_;
  std::list<Job> active_;  // the thread's own, as all below
  std::deque<Job> waiting_;
  std::unique_ptr<ModuleMeter> meter_;
  std::mutex join_mutex_;
  std::thread thread_;
};

}  // namespace kt::session
