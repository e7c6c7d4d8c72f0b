#include "bus_error.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "base/error.h"

namespace kt::app {
namespace {

// Everything below runs in a signal handler: system calls and arithmetic only.

void print(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(STDERR_FILENO, text.data(), text.size());
    if (n <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
}

std::uintptr_t take_hex(std::string_view* text) {
  std::uintptr_t value = 0;
  while (!text->empty()) {
    const char c = text->front();
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) break;
    value = value * 16 + static_cast<std::uintptr_t>(digit);
    text->remove_prefix(1);
  }
  return value;
}

/// The path in a line of /proc/self/maps ("begin-end … /path") that covers `address`; or nothing.
std::string_view path_of_line(std::string_view line, std::uintptr_t address) {
  std::string_view rest = line;
  const std::uintptr_t begin = take_hex(&rest);
  if (rest.empty()) return {};
  rest.remove_prefix(1);
  const std::uintptr_t end = take_hex(&rest);
  const std::size_t slash = rest.find('/');
  if (address < begin || address >= end || slash == std::string_view::npos) return {};
  return rest.substr(slash);
}

/// The file mapped at `address`, in `buffer`; or nothing.
template <std::size_t kSize>
std::string_view mapped_file(std::uintptr_t address, std::array<char, kSize>& buffer) {
  const int fd = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return {};
  std::size_t filled = 0;
  for (;;) {
    const ssize_t n = ::read(fd, buffer.data() + filled, kSize - filled);
    if (n <= 0) return {};
    filled += static_cast<std::size_t>(n);
    std::string_view text(buffer.data(), filled);
    for (std::size_t line; (line = text.find('\n')) != std::string_view::npos;) {
      const std::string_view path = path_of_line(text.substr(0, line), address);
      if (!path.empty()) return path;
      text.remove_prefix(line + 1);
    }
    std::memmove(buffer.data(), text.data(), text.size());
    filled = text.size();
    if (filled == kSize) return {};
  }
}

void on_bus_error(int signal, siginfo_t* info, void*) {
  std::array<char, 8192> buffer;
  const std::string_view path =
      mapped_file(reinterpret_cast<std::uintptr_t>(info->si_addr), buffer);
  if (path.empty()) {
    // Returning repeats the access, which now ends the process as it always did.
    std::signal(signal, SIG_DFL);
    return;
  }
  print("kt: error: ");
  print(path);
  print(
      ": cannot be read any more: it became shorter, or its disk failed, while in use; "
      "put the whole file back and start again\n");
  ::_exit(exit_status(ErrorCode::kIo));
}

}  // namespace

void install_bus_error_handler() {
  struct sigaction action{};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace kt::app
