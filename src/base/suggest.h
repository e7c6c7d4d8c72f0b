// The nearest known word to a mistyped one.
// Thread rule: pure.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

/// Edits (insert, delete, replace, swap of neighbours) that turn `a` into `b`.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The word of `known` that `word` was probably meant to be, or nothing when none is near: at most
/// a third of the letters may differ, or one word begins with the other.
std::optional<std::string> nearest(std::string_view word, const std::vector<std::string>& known);

}  // namespace kt
