#include "serve/posted.h"

#include <utility>

#include "serve/pending.h"

namespace kt::serve {
namespace {

// The one reply; that the model was closed when nothing else was said before.
class Promise {
 public:
  explicit Promise(PostedFor whose)
      : whose_(std::move(whose)), pending_(std::make_shared<Pending>()) {}
  ~Promise() { refuse({503, "the model was closed"}); }
  Promise(const Promise&) = delete;
  Promise& operator=(const Promise&) = delete;
  std::unique_ptr<http::Work> work() const { return wait_for(pending_); }
  /// Whether the client is gone; it is counted then.
  bool given_up() {
    if (!pending_->gone()) return false;
    refuse({499, "the client closed the connection"});
    return true;
  }
  void keep(http::Reply reply) {
    if (!std::exchange(kept_, true)) pending_->set(whose_.finish(std::move(reply)));
  }
  /// Says what is in flight.
  void fail() { refuse(current_problem()); }
  /// Somebody else answers.
  void withdraw() { kept_ = true; }

 private:
  void refuse(const Problem& problem) { keep(problem_reply(whose_.protocol, problem)); }
  const PostedFor whose_;
  const std::shared_ptr<Pending> pending_;
  bool kept_ = false;
};

}  // namespace

std::unique_ptr<http::Work> between_steps(PostedFor whose,
                                          std::function<http::Reply(session::Session&)> make) {
  session::Worker& worker = whose.model->worker();
  const auto promise = std::make_shared<Promise>(std::move(whose));
  std::unique_ptr<http::Work> work = promise->work();
  const auto job = [promise, make = std::move(make)](session::Session& session) {
    if (promise->given_up()) return;
    try {
      promise->keep(make(session));
    } catch (...) {
      promise->fail();
    }
  };
  try {
    worker.post(job);
  } catch (...) {
    promise->withdraw();
    throw;
  }
  return work;
}

std::unique_ptr<http::Work> in_parts(PostedFor whose, std::shared_ptr<Pool> pool,
                                     std::function<bool(session::Session&)> part,
                                     std::function<http::Reply()> make) {
  session::Worker& worker = whose.model->worker();
  const auto promise = std::make_shared<Promise>(std::move(whose));
  std::unique_ptr<http::Work> work = promise->work();
  const auto last = [promise, make = std::move(make)] {
    if (promise->given_up()) return;
    try {
      promise->keep(make());
    } catch (...) {
      promise->fail();
    }
  };
  const auto job = [promise, pool = std::move(pool), part = std::move(part),
                    last](session::Session& session) {
    if (promise->given_up()) return false;
    try {
      if (part(session)) return true;
      pool->go_on(last);
    } catch (...) {
      promise->fail();
    }
    return false;
  };
  try {
    worker.enqueue(job);
  } catch (...) {
    promise->withdraw();
    throw;
  }
  return work;
}

}  // namespace kt::serve
