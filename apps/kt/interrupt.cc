#include "interrupt.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>

#include "base/error.h"

namespace kt::app {
namespace {

void notify(int fd) {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(fd, &one, sizeof one);
}

sigset_t signals(InterruptWatcher::Kind kind) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  if (kind == InterruptWatcher::Kind::kService) {
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
  }
  return set;
}

}  // namespace

InterruptWatcher::InterruptWatcher(Kind kind) : kind_(kind) {
  const sigset_t set = signals(kind_);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal_fd_ = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  event_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  stop_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (signal_fd_ < 0 || event_fd_ < 0 || stop_fd_ < 0) {
    fail(ErrorCode::kIo, "", "cannot watch for Ctrl-C: {}", std::strerror(errno));
  }
  thread_ = std::thread([this] { watch(); });
}

InterruptWatcher::~InterruptWatcher() {
  notify(stop_fd_);
  thread_.join();
  ::close(signal_fd_);
  ::close(event_fd_);
  ::close(stop_fd_);
  const sigset_t set = signals(kind_);
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void InterruptWatcher::set_handler(std::function<void()> handler) {
  const std::lock_guard lock(mutex_);
  handler_ = std::move(handler);
}

void InterruptWatcher::set_hangup_handler(std::function<void()> handler) {
  const std::lock_guard lock(mutex_);
  hangup_handler_ = std::move(handler);
}

bool InterruptWatcher::take() {
  std::uint64_t count = 0;
  return ::read(event_fd_, &count, sizeof count) == static_cast<ssize_t>(sizeof count);
}

void InterruptWatcher::watch() {
  for (;;) {
    pollfd fds[2] = {{signal_fd_, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) return;
    if (fds[1].revents != 0) return;
    signalfd_siginfo info;
    if (::read(signal_fd_, &info, sizeof info) != static_cast<ssize_t>(sizeof info)) continue;
    const std::lock_guard lock(mutex_);
    if (info.ssi_signo == SIGHUP) {
      if (hangup_handler_) hangup_handler_();
      continue;
    }
    if (!handler_) {
      const int signal = static_cast<int>(info.ssi_signo);
      std::signal(signal, SIG_DFL);
      const sigset_t set = signals(kind_);
      pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
      std::raise(signal);
    }
    notify(event_fd_);
    handler_();
  }
}

}  // namespace kt::app
