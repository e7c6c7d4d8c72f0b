#include "session/ticket.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace kt::session {

Ticket::~Ticket() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

bool Ticket::wait(std::chrono::milliseconds longest) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, longest, [this] { return fresh_; });
}

Ticket::News Ticket::take() {
  const std::lock_guard lock(mutex_);
  if (fresh_ && descriptor_ >= 0) {
    std::uint64_t count = 0;
    [[maybe_unused]] const ssize_t n = ::read(descriptor_, &count, sizeof count);
  }
  fresh_ = false;
  News taken = std::exchange(news_, {});
  news_.ended = taken.ended;
  return taken;
}

int Ticket::descriptor() {
  const std::lock_guard lock(mutex_);
  if (descriptor_ < 0) {
    descriptor_ = ::eventfd(fresh_ ? 1 : 0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (descriptor_ < 0) {
      kt::fail(ErrorCode::kIo, {}, "cannot make a descriptor for a request: {}",
               std::strerror(errno));
    }
  }
  return descriptor_;
}

TextResult Ticket::result() const {
  const std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
  if (!result_) kt::fail(ErrorCode::kUsage, "request", "has not ended yet");
  return *result_;
}

void Ticket::announce() {
  if (!fresh_ && descriptor_ >= 0) {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t n = ::write(descriptor_, &one, sizeof one);
  }
  fresh_ = true;
  changed_.notify_all();
}

void Ticket::push(std::string_view text) {
  const std::lock_guard lock(mutex_);
  news_.text += text;
  announce();
}

void Ticket::push(const engine::SampledToken& token) {
  const std::lock_guard lock(mutex_);
  news_.tokens.push_back(token);
  announce();
}

void Ticket::finish(TextResult result) {
  const std::lock_guard lock(mutex_);
  result_ = std::move(result);
  news_.ended = true;
  announce();
}

void Ticket::fail(std::exception_ptr error) {
  const std::lock_guard lock(mutex_);
  error_ = std::move(error);
  news_.ended = true;
  announce();
}

}  // namespace kt::session
