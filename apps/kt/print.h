// Text for people: bytes, counts, durations, aligned tables, errors.
// Thread rule: pure but for print_error.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kt::app {

/// "512 B", "6.1 MiB", "377 GiB".
std::string format_bytes(double bytes);
/// "134.5 M", "671 B" (thousands, millions, billions).
std::string format_count(double count);
/// "8 s", "3 min 05 s", "2 h 14 min".
std::string format_duration(double seconds);

/// A text table whose columns are as wide as they need to be.
class Table {
 public:
  /// `align` holds one character per column: 'l' or 'r'.
  explicit Table(std::string align) : align_(std::move(align)) {}
  /// Cells may hold text of any file: what would steer a terminal is escaped (base/utf8.h).
  void row(std::vector<std::string> cells);
  /// Two spaces between columns, no trailing blanks.
  std::string text() const;
  /// GitHub-flavoured Markdown; the first row is the header.
  std::string markdown() const;

 private:
  std::vector<std::size_t> widths() const;
  std::string padded(std::size_t column, const std::string& cell, std::size_t width) const;
  std::string align_;
  std::vector<std::vector<std::string>> rows_;
};

/// "kt: error: …" on standard error; the lines of the message may quote any file, as cells may.
void print_error(std::string_view message);

/// Terminal columns of UTF-8 text, one per character.
std::size_t display_width(const std::string& text);

}  // namespace kt::app
