#include "serve/any_of.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace kt::serve {

AnyOf::AnyOf() : descriptor_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (descriptor_ < 0)
    fail(ErrorCode::kIo, {}, "cannot wait for a reply: {}", std::strerror(errno));
}

AnyOf::~AnyOf() { ::close(descriptor_); }

void AnyOf::add(int descriptor) {
  epoll_event event{};
  event.events = EPOLLIN;
  ::epoll_ctl(descriptor_, EPOLL_CTL_ADD, descriptor, &event);
}

void AnyOf::remove(int descriptor) { ::epoll_ctl(descriptor_, EPOLL_CTL_DEL, descriptor, nullptr); }

}  // namespace kt::serve
