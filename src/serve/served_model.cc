#include "serve/served_model.h"

#include "base/error.h"
#include "serve/problem.h"

namespace kt::serve {
namespace {

ServedModel::State failed_state(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    if (e.code() == ErrorCode::kNoMemory) return ServedModel::State::kNoMemory;
  } catch (const std::bad_alloc&) {
    return ServedModel::State::kNoMemory;
  } catch (...) {
  }
  return ServedModel::State::kFailed;
}

}  // namespace

ServedModel::ServedModel(ModelOptions options, std::function<void()> before_opening)
    : options_(std::move(options)),
      worker_(options_.session,
              {options_.max_running, options_.max_waiting, std::move(before_opening),
               [this](const session::Session* session, const std::exception_ptr& error) {
                 note_state(session, error);
               }}) {}

// On the model's thread: it is open, or could not be opened, or a step threw.
void ServedModel::note_state(const session::Session* session, const std::exception_ptr& error) {
  std::shared_ptr<const ModelFacts> facts;
  std::exception_ptr why = error;
  try {
    if (session != nullptr) {
      if (options_.on_open) options_.on_open(options_.id, session->load_report());
      facts = std::make_shared<const ModelFacts>(read_facts(*session, options_));
    }
  } catch (...) {
    why = std::current_exception();
  }
  std::vector<std::function<void()>> waiting;
  {
    const std::lock_guard lock(mutex_);
    if (why)
      state_ = state_ == State::kOpening ? failed_state(why) : State::kBroken;
    else
      state_ = State::kOpen;
    error_ = why;
    if (facts != nullptr) facts_ = std::move(facts);
    waiting.swap(waiting_);
    changed_.notify_all();
  }
  for (const auto& f : waiting) f();
}

ServedModel::State ServedModel::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

bool ServedModel::wait_open(std::chrono::milliseconds longest) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, longest, [this] { return state_ != State::kOpening; });
  if (error_) std::rethrow_exception(error_);
  return state_ == State::kOpen;
}

void ServedModel::when_opened(std::function<void()> f) {
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kOpening) {
      waiting_.push_back(std::move(f));
      return;
    }
  }
  f();
}

std::shared_ptr<const ModelFacts> ServedModel::shared_facts() const {
  const std::lock_guard lock(mutex_);
  if (state_ == State::kOpening) {
    const auto [done, total, rate] = worker_.loading();
    const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0.0;
    throw Refusal({503,
                   fmt::format("the model is being loaded ({:.0f} %)", 100.0 * share),
                   {},
                   "model_loading",
                   2});
  }
  if (error_) std::rethrow_exception(error_);
  return facts_;
}

void ServedModel::begin_use() { ++n_uses_; }

void ServedModel::end_use() {
  last_used_ = Clock::now();
  --n_uses_;
}

}  // namespace kt::serve
