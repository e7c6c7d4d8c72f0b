#include "base/page_binding.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

namespace kt {

int bind_pages(std::span<std::byte> pages, std::span<const int> nodes) noexcept {
  constexpr std::size_t kBits = 8 * sizeof(unsigned long), kLargest = 1024;
  unsigned long mask[kLargest / kBits] = {};
  for (const int node : nodes) {
    const auto n = static_cast<std::size_t>(node);
    if (n >= kLargest) return EINVAL;
    mask[n / kBits] |= 1ul << n % kBits;
  }
  // Strict: the kernel drops file cache of the node before it fails, instead of going elsewhere.
  const int mode = nodes.size() == 1 ? MPOL_BIND : MPOL_INTERLEAVE;
  const long result = ::syscall(SYS_mbind, pages.data(), pages.size(), mode, mask, kLargest + 1, 0);
  return result == 0 ? 0 : errno;
}

}  // namespace kt
