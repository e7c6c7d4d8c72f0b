#include "serve/posted.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <optional>

#include "base/error.h"

namespace kt::serve {
namespace {

// Shared by the reply in the making and the model's thread.
class Result {
 public:
  Result() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (event_ < 0) fail(ErrorCode::kIo, {}, "cannot wait for a reply: {}", std::strerror(errno));
  }
  ~Result() { ::close(event_); }
  Result(const Result&) = delete;
  Result& operator=(const Result&) = delete;
  std::atomic<bool> gone{false};
  int descriptor() const { return event_; }
  void set(http::Reply reply) {
    const std::lock_guard lock(mutex_);
    if (reply_) return;
    reply_ = std::move(reply);
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(event_, &one, sizeof one);
  }
  std::optional<http::Reply> take() {
    const std::lock_guard lock(mutex_);
    return std::move(reply_);
  }

 private:
  const int event_;
  std::mutex mutex_;
  std::optional<http::Reply> reply_;
};

// Says so when the model was closed before the turn came.
struct Promise {
  std::shared_ptr<Result> result;
  Protocol protocol;
  Promise(std::shared_ptr<Result> result_in, Protocol protocol_in)
      : result(std::move(result_in)), protocol(protocol_in) {}
  Promise(const Promise&) = delete;
  Promise& operator=(const Promise&) = delete;
  ~Promise() { result->set(problem_reply(protocol, {503, "the model was closed"})); }
};

class PostedWork : public http::Work {
 public:
  PostedWork(std::shared_ptr<Result> result, http::Headers headers)
      : result_(std::move(result)), headers_(std::move(headers)) {}
  ~PostedWork() override { result_->gone = true; }
  int descriptor() override { return result_->descriptor(); }
  void advance(http::Output& output) override {
    std::optional<http::Reply> reply = result_->take();
    if (!reply) return;
    reply->head.headers.insert(reply->head.headers.end(), headers_.begin(), headers_.end());
    output.reply(std::move(*reply));
  }

 private:
  std::shared_ptr<Result> result_;
  const http::Headers headers_;
};

}  // namespace

std::unique_ptr<http::Work> on_worker(
    session::Worker& worker, Protocol protocol, http::Headers headers,
    std::function<http::Reply(session::Session&, const std::atomic<bool>& gone)> make) {
  const auto result = std::make_shared<Result>();
  const auto promise = std::make_shared<const Promise>(result, protocol);
  worker.post([promise, make = std::move(make)](session::Session& session) {
    try {
      if (promise->result->gone) return;
      promise->result->set(make(session, promise->result->gone));
    } catch (...) {
      promise->result->set(problem_reply(promise->protocol, current_problem()));
    }
  });
  return std::make_unique<PostedWork>(result, std::move(headers));
}

}  // namespace kt::serve
