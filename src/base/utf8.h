// UTF-8 taken apart, and text of unknown origin made fit for a terminal: a message may quote a
// file, its bytes must not steer the terminal. Thread rule: pure.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace kt {

struct Utf8Char {
  std::size_t length = 0;  // bytes; 0: the text does not begin with a valid character
  std::uint32_t code = 0;
};
/// The first character of a text that is not empty.
Utf8Char first_utf8(std::string_view text) noexcept;

/// `text` with what is not valid UTF-8, and what would move the cursor, erase or reorder (control
/// characters, line and direction marks), written as \xNN.
std::string printable(std::string_view text);

/// A-Z as a-z; all else stays.
std::string ascii_lower(std::string_view text);

/// Characters of valid UTF-8.
std::size_t count_utf8(std::string_view text) noexcept;

}  // namespace kt
