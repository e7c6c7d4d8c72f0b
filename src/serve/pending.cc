#include "serve/pending.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "base/error.h"

namespace kt::serve {

Pending::Pending() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (event_ < 0) fail(ErrorCode::kIo, {}, "cannot wait for a reply: {}", std::strerror(errno));
}

Pending::~Pending() { ::close(event_); }

void Pending::set(http::Answer answer) {
  const std::lock_guard lock(mutex_);
  if (set_ || gone_) return;
  set_ = true;
  answer_ = std::move(answer);
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = ::write(event_, &one, sizeof one);
}

bool Pending::gone() const {
  const std::lock_guard lock(mutex_);
  return gone_;
}

class PendingWork : public http::Work {
 public:
  explicit PendingWork(std::shared_ptr<Pending> pending) : pending_(std::move(pending)) {}
  ~PendingWork() override {
    if (pending_ == nullptr) return;
    std::optional<http::Answer> unread;  // goes after the lock does
    const std::lock_guard lock(pending_->mutex_);
    pending_->gone_ = true;
    unread.swap(pending_->answer_);
  }
  int descriptor() override { return work_ != nullptr ? work_->descriptor() : pending_->event_; }
  std::string_view keep_alive() const override {
    return work_ != nullptr ? work_->keep_alive() : std::string_view();
  }

  void advance(http::Output& output) override {
    std::shared_ptr<Pending> seen;  // open until the next descriptor was told
    if (work_ == nullptr) {
      std::optional<http::Answer> answer;
      {
        const std::lock_guard lock(pending_->mutex_);
        answer.swap(pending_->answer_);
      }
      if (!answer) return;
      if (auto* reply = std::get_if<http::Reply>(&*answer)) {
        output.reply(std::move(*reply));
        return;
      }
      work_ = std::move(std::get<std::unique_ptr<http::Work>>(*answer));
      seen = std::move(pending_);
    }
    work_->advance(output);
  }

 private:
  std::shared_ptr<Pending> pending_;  // until its answer came
  std::unique_ptr<http::Work> work_;
};

std::unique_ptr<http::Work> wait_for(std::shared_ptr<Pending> pending) {
  return std::make_unique<PendingWork>(std::move(pending));
}

}  // namespace kt::serve
