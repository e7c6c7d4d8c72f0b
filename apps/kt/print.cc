#include "print.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "base/utf8.h"

namespace kt::app {
namespace {

std::string scaled(double value, double step, const std::vector<const char*>& units) {
  std::size_t unit = 0;
  while (value >= step && unit + 1 < units.size()) {
    value /= step;
    ++unit;
  }
  const std::string number =
      unit == 0 || value >= 100.0 ? fmt::format("{:.0f}", value) : fmt::format("{:.1f}", value);
  return *units[unit] == '\0' ? number : number + " " + units[unit];
}

}  // namespace

std::string format_bytes(double bytes) {
  return scaled(bytes, 1024.0, {"B", "KiB", "MiB", "GiB", "TiB"});
}

std::string format_count(double count) { return scaled(count, 1000.0, {"", "K", "M", "B", "T"}); }

std::string format_duration(double seconds) {
  if (!(seconds >= 0.0) || seconds > 1e9) return "?";
  if (seconds < 1.0) return fmt::format("{:.0f} ms", seconds * 1e3);
  const auto whole = static_cast<long long>(std::llround(seconds));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole / 60 % 60);
}

std::size_t display_width(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

void print_error(std::string_view message) {
  std::string text;
  while (true) {
    const std::size_t end = message.find('\n');
    text += printable(message.substr(0, end)) + "\n";
    if (end == std::string_view::npos) break;
    message.remove_prefix(end + 1);
  }
  std::fprintf(stderr, "kt: error: %s", text.c_str());
}

void Table::row(std::vector<std::string> cells) {
  for (std::string& cell : cells) cell = printable(cell);
  rows_.push_back(std::move(cells));
}

std::vector<std::size_t> Table::widths() const {
  std::vector<std::size_t> result(align_.size(), 0);
  for (const auto& row : rows_) {
    for (std::size_t c = 0; c < std::min(row.size(), result.size()); ++c) {
      result[c] = std::max(result[c], display_width(row[c]));
    }
  }
  return result;
}

std::string Table::padded(std::size_t column, const std::string& cell, std::size_t width) const {
  const std::size_t shown = display_width(cell);
  const std::string blanks(width > shown ? width - shown : 0, ' ');
  return align_[column] == 'r' ? blanks + cell : cell + blanks;
}

std::string Table::text() const {
  const std::vector<std::size_t> width = widths();
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t c = 0; c < std::min(row.size(), width.size()); ++c) {
      if (c > 0) line += "  ";
      line += padded(c, row[c], width[c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string Table::markdown() const {
  const std::vector<std::size_t> width = widths();
  std::string out;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    out += "|";
    for (std::size_t c = 0; c < std::min(rows_[r].size(), width.size()); ++c) {
      out += " " + padded(c, rows_[r][c], width[c]) + " |";
    }
    out += "\n";
    if (r != 0) continue;
    out += "|";
    for (std::size_t c = 0; c < width.size(); ++c) {
      out += " " + std::string(width[c] > 1 ? width[c] - 1 : 1, '-');
      out += align_[c] == 'r' ? ": |" : "- |";
    }
    out += "\n";
  }
  return out;
}

}  // namespace kt::app
