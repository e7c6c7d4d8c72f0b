#include "serve/deferred.h"

#include <sys/timerfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "base/error.h"
#include "serve/any_of.h"

namespace kt::serve {
namespace {

class DeferredWork : public http::Work {
 public:
  explicit DeferredWork(Attempt attempt)
      : attempt_(std::move(attempt)),
        timer_(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)) {
    itimerspec often{};
    often.it_interval.tv_nsec = often.it_value.tv_nsec = 50'000'000;
    if (timer_ < 0 || ::timerfd_settime(timer_, 0, &often, nullptr) != 0)
      fail(ErrorCode::kIo, {}, "cannot wait for the model: {}", std::strerror(errno));
    any_.add(timer_);
  }
  ~DeferredWork() override { ::close(timer_); }

  int descriptor() override { return any_.descriptor(); }
  std::string_view keep_alive() const override {
    return work_ == nullptr ? std::string_view() : work_->keep_alive();
  }

  void advance(http::Output& output) override {
    if (work_ == nullptr) {
      std::uint64_t count = 0;
      [[maybe_unused]] const ssize_t n = ::read(timer_, &count, sizeof count);
      const auto answer = attempt_();
      if (answer == nullptr) return;
      if (auto* reply = std::get_if<http::Reply>(answer.get())) {
        output.reply(std::move(*reply));
        return;
      }
      any_.remove(timer_);
      work_ = std::move(std::get<std::unique_ptr<http::Work>>(*answer));
      any_.add(work_->descriptor());
    }
    work_->advance(output);
  }

 private:
  Attempt attempt_;
  AnyOf any_;
  int timer_;
  std::unique_ptr<http::Work> work_;
};

}  // namespace

std::unique_ptr<http::Work> defer(Attempt attempt) {
  return std::make_unique<DeferredWork>(std::move(attempt));
}

}  // namespace kt::serve
