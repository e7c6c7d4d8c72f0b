// Where the pages of a range of memory are to lie: on one NUMA node, or dealt out over several.
// Thread rule: callable from any thread.
#pragma once
#include <cstddef>
#include <functional>
#include <span>

namespace kt {

/// Asks that whole pages, not touched yet, come from one node and from no other, or in turn from
/// each of several. Returns 0, or the errno of the refusal: containers without CAP_SYS_NICE get
/// EPERM.
using BindPages = std::function<int(std::span<std::byte> pages, std::span<const int> nodes)>;

/// The system's way (mbind).
int bind_pages(std::span<std::byte> pages, std::span<const int> nodes) noexcept;

}  // namespace kt
