#include "session/worker.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace kt::session {
namespace {

std::exception_ptr closed_error() {
  return std::make_exception_ptr(Error(ErrorCode::kCancelled, "the engine was closed"));
}

}  // namespace

Worker::Worker(Options options, WorkerOptions worker_options)
    : options_(std::move(options)), worker_options_(std::move(worker_options)) {
  options_.on_load = [this](std::uint64_t done, std::uint64_t total, double rate) {
    const std::lock_guard lock(mutex_);
    if (closing_) std::rethrow_exception(closed_error());  // out of Session::open
    loading_ = {done, total, rate};
  };
  options_.on_warning = [this](const std::string& warning) {
    const std::lock_guard lock(mutex_);
    warnings_.push_back(warning);
  };
  thread_ = std::thread([this] { main(); });
}

Worker::~Worker() { close(); }

bool Worker::wait_open(std::chrono::milliseconds longest) {
  std::unique_lock lock(mutex_);
  if (!changed_.wait_for(lock, longest, [this] { return opened_; })) return false;
  if (error_) std::rethrow_exception(error_);
  return true;
}

Worker::Loading Worker::loading() const {
  const std::lock_guard lock(mutex_);
  return loading_;
}

std::vector<std::string> Worker::warnings() const {
  const std::lock_guard lock(mutex_);
  return warnings_;
}

void Worker::fail_closed() { fail(ErrorCode::kUsage, "engine", "is closed; open another one"); }

void Worker::check_open() const {
  if (closing_ || !opened_) fail_closed();
  if (error_) std::rethrow_exception(error_);
}

// With mutex_ held.
void Worker::check_room(std::size_t n_more) const {
  const std::size_t max_running = worker_options_.max_running;
  const std::size_t max_waiting = worker_options_.max_waiting;
  if (max_waiting < n_more && n_more > max_waiting + max_running) {
    fail(ErrorCode::kUsage, {}, "{} replies at once are too many: {} may run and {} may wait",
         n_more, max_running, max_waiting);
  }
  const std::size_t n_waiting = load_.n_waiting + queued_.size() + parts_.size();
  const std::size_t n_free = max_running - std::min(max_running, load_.n_running);
  const std::size_t n_all = n_waiting + n_more;
  if (n_all <= n_free || n_all - n_free <= max_waiting) return;
  throw QueueFull(ErrorCode::kNoMemory,
                  fmt::format("the queue is full: {} requests run and {} wait, of {} that may",
                              load_.n_running, n_waiting, max_waiting));
}

void Worker::expect_room(std::size_t n_more) const {
  const std::lock_guard lock(mutex_);
  check_room(n_more);
}

std::vector<std::shared_ptr<Ticket>> Worker::submit(std::vector<engine::Request> requests,
                                                    const TextOptions& text) {
  std::vector<std::shared_ptr<Ticket>> tickets;
  std::deque<Job> jobs;
  for (engine::Request& request : requests) {
    Job& job = jobs.emplace_back();
    job.ticket = std::make_shared<Ticket>();
    job.request = std::move(request);
    job.request.cancelled = job.ticket->cancel_flag();
    job.text = text;
    tickets.push_back(job.ticket);
  }
  const std::lock_guard lock(mutex_);
  check_open();
  check_room(jobs.size());
  std::move(jobs.begin(), jobs.end(), std::back_inserter(queued_));
  changed_.notify_all();
  return tickets;
}

std::shared_ptr<Ticket> Worker::submit(engine::Request request, TextOptions text) {
  std::vector<engine::Request> one;
  one.push_back(std::move(request));
  return submit(std::move(one), text).front();
}

Worker::Load Worker::load() const {
  const std::lock_guard lock(mutex_);
  Load load = load_;
  load.n_waiting += queued_.size() + parts_.size();
  return load;
}

void Worker::cancel_all() {
  const std::lock_guard lock(mutex_);
  cancel_all_ = true;
  changed_.notify_all();
}

void Worker::close() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    changed_.notify_all();
  }
  {
    const std::shared_lock lock(session_mutex_);
    if (session_ != nullptr) session_->engine().cancel();  // between the layers of a long prompt
  }
  const std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void Worker::call(std::function<void(Session&)> f) {
  std::future<void> done;
  {
    const std::lock_guard lock(mutex_);
    check_open();
    calls_.push_back({std::move(f), {}});
    done = calls_.back().done.get_future();
    changed_.notify_all();
  }
  done.get();
}

void Worker::post(std::function<void(Session&)> f) {
  const std::lock_guard lock(mutex_);
  check_open();
  calls_.push_back({std::move(f), {}});
  changed_.notify_all();
}

void Worker::enqueue(std::function<bool(Session&)> part) {
  const std::lock_guard lock(mutex_);
  check_open();
  check_room(1);
  parts_.push_back(std::move(part));
  changed_.notify_all();
}

void Worker::main() {
  if (!open()) return;
  try {
    serve();
  } catch (...) {
    // The engine may be in the middle of anything: nothing is asked of it any more.
    const std::exception_ptr error = std::current_exception();
    end_jobs(error);
    if (worker_options_.on_state) worker_options_.on_state(nullptr, error);
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return closing_; });
  }
  end_jobs(closed_error());
  const std::unique_lock lock(session_mutex_);
  session_.reset();
}

bool Worker::open() {
  std::unique_ptr<Session> session;
  std::exception_ptr error;
  try {
    if (worker_options_.before_opening) worker_options_.before_opening();
    session = Session::open(options_);
  } catch (...) {
    error = std::current_exception();
  }
  {
    const std::unique_lock lock(session_mutex_);
    session_ = std::move(session);
  }
  {
    const std::lock_guard lock(mutex_);
    error_ = error;
    opened_ = true;
    if (!error)
      loading_.done = loading_.total;  // the last report may have come too soon after another
    changed_.notify_all();
  }
  if (worker_options_.on_state) worker_options_.on_state(session_.get(), error);
  return !error;
}

void Worker::serve() {
  while (true) {
    std::deque<Call> calls;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] {
        return closing_ || !queued_.empty() || !calls_.empty() || !parts_.empty() ||
               !active_.empty() || !waiting_.empty();
      });
      if (closing_) return;
      std::move(queued_.begin(), queued_.end(), std::back_inserter(waiting_));
      queued_.clear();
      load_.n_waiting = waiting_.size();
      calls.swap(calls_);
      if (std::exchange(cancel_all_, false)) {
        for (const Job& job : active_) job.ticket->cancel();
        for (const Job& job : waiting_) job.ticket->cancel();
      }
    }
    take_turns(calls);
    end_expired();
    admit();
    note_load();
    if (active_.empty()) continue;
    step();
    deliver();
    note_load();
  }
}

// What others want done between two steps: all that is short, and a part of what is long.
void Worker::take_turns(std::deque<Call>& calls) {
  for (Call& call : calls) {
    try {
      call.run(*session_);
      call.done.set_value();
    } catch (...) {
      call.done.set_exception(std::current_exception());
    }
  }
  std::function<bool(Session&)>* part = nullptr;  // stays in its place, where it counts
  {
    const std::lock_guard lock(mutex_);
    if (parts_.empty()) return;
    part = &parts_.front();
  }
  bool more = false;
  try {
    more = (*part)(*session_);
  } catch (...) {  // NOLINT(bugprone-empty-catch): its maker learns of it by its end
  }
  std::function<bool(Session&)> done = std::move(*part);  // goes after the lock does
  const std::lock_guard lock(mutex_);
  parts_.pop_front();
  if (more) parts_.push_back(std::move(done));
}

void Worker::note_load() {
  const engine::Engine& engine = session_->engine();
  const std::lock_guard lock(mutex_);
  load_ = {active_.size(), waiting_.size(), engine.cache_used(), engine.expert_use()};
}

void Worker::step() {
  const auto start = std::chrono::steady_clock::now();
  bool watched = false;
  {
    const std::lock_guard lock(mutex_);
    watched = start < watched_until_ && session_->trace() == nullptr;
  }
  if (meter_ != nullptr && session_->trace() == nullptr)
    session_->engine().set_trace(watched ? meter_->trace() : nullptr);
  session_->engine().step();
  if (watched) {
    meter_->add(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
}

std::vector<ModuleUse> Worker::modules(Session& session) {
  constexpr std::chrono::seconds kWatch{15};
  if (meter_ == nullptr) {
    meter_ = std::make_unique<ModuleMeter>(
        placement::explain_modules(session.model(), session.placement()));
  }
  {
    const std::lock_guard lock(mutex_);
    watched_until_ = std::chrono::steady_clock::now() + kWatch;
  }
  return meter_->modules();
}

void Worker::end_expired() {
  const auto now = std::chrono::steady_clock::now();
  const auto end = [now](Job& job) {
    if (now < job.text.deadline) return;
    job.expired = true;
    job.ticket->cancel();
  };
  std::for_each(active_.begin(), active_.end(), end);
  std::for_each(waiting_.begin(), waiting_.end(), end);
}

// Starts waiting requests in order.
void Worker::admit() {
  for (auto job = waiting_.begin(); job != waiting_.end();) {
    if (job->ticket->cancelled()) {
      engine::Result nothing;
      nothing.reason = engine::FinishReason::kCancelled;
      finish(*job, std::move(nothing));
      job = waiting_.erase(job);
      continue;
    }
    if (active_.size() >= worker_options_.max_running) {
      ++job;  // others behind it may have been cancelled
      continue;
    }
    active_.push_back(std::move(*job));
    job = waiting_.erase(job);
    if (!start(active_.back())) active_.pop_back();
  }
}

// Hands a request to the engine; false when something is wrong with it.
bool Worker::start(Job& job) {
  try {
    Ticket* ticket = job.ticket.get();
    if (session_->tokenizer() != nullptr) {
      const auto sink = [ticket](std::string_view text) {
        ticket->push(text);
        return true;
      };
      job.output =
          std::make_unique<TextOutput>(*session_->tokenizer(), job.text.stops, sink, job.text.kept);
    } else if (!job.text.stops.empty()) {
      fail(ErrorCode::kUsage, "stop", "strings need a model with a tokenizer");
    }
    job.request.on_token = [ticket, output = job.output.get()](const engine::SampledToken& token) {
      ticket->push(token);
      return output == nullptr || output->push(token.id);
    };
    job.id = session_->engine().submit(std::move(job.request));
    return true;
  } catch (...) {
    job.ticket->fail(std::current_exception());
    return false;
  }
}

void Worker::deliver() {
  for (auto job = active_.begin(); job != active_.end();) {
    const std::unique_ptr<engine::Result> done = session_->engine().take_result(job->id);
    if (done == nullptr) {
      ++job;
      continue;
    }
    finish(*job, std::move(*done));
    job = active_.erase(job);
  }
}

void Worker::finish(Job& job, engine::Result done) {
  if (done.reason == engine::FinishReason::kError) {
    if (done.exception == nullptr)
      done.exception = std::make_exception_ptr(Error(ErrorCode::kInternal, done.error));
    job.ticket->fail(done.exception);
    return;
  }
  if (job.expired && done.reason == engine::FinishReason::kCancelled) {
    job.ticket->fail(std::make_exception_ptr(
        Error(ErrorCode::kCancelled, "the time allowed for the request is over")));
    return;
  }
  TextResult result;
  result.engine = std::move(done);
  if (job.output != nullptr) {
    job.output->finish();
    result.stop_string = job.output->stop_string();
    result.text = job.output->text();
  }
  job.ticket->finish(std::move(result));
}

// Fails whatever is known of; nothing new comes in afterwards.
void Worker::end_jobs(const std::exception_ptr& error) {
  std::deque<Job> queued;
  std::deque<Call> calls;
  std::deque<std::function<bool(Session&)>> parts;  // their makers learn of it by their end
  {
    const std::lock_guard lock(mutex_);
    queued.swap(queued_);
    calls.swap(calls_);
    parts.swap(parts_);
    load_ = {};
    if (!closing_) error_ = error;
  }
  for (const Job& job : active_) job.ticket->fail(error);
  for (const Job& job : waiting_) job.ticket->fail(error);
  for (const Job& job : queued) job.ticket->fail(error);
  for (Call& call : calls) call.done.set_exception(error);
  active_.clear();
  waiting_.clear();
}

}  // namespace kt::session
