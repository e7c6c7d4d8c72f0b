#include "placement/diagnostic.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"

namespace kt::placement {
namespace {

std::string_view line_of(std::string_view text, int line) {
  for (int i = 1; i < line; ++i) {
    const std::size_t end = text.find('\n');
    if (end == std::string_view::npos) return {};
    text.remove_prefix(end + 1);
  }
  return text.substr(0, std::min(text.find('\n'), text.find('\r')));
}

}  // namespace

std::string format_diagnostic(const Diagnostic& d, const std::string& path, std::string_view text) {
  constexpr std::size_t kWidest = 160;
  const bool error = d.severity == Diagnostic::Severity::kError;
  // What a hostile file holds must not reach the terminal.
  const std::string hint = printable(d.hint);
  std::string out = fmt::format("{}:{}:{}: {}: {}\n", path, d.at.line, d.at.column,
                                error ? "error" : "warning", printable(d.message));
  const std::string_view whole_line = line_of(text, d.at.line);
  std::string line(whole_line.substr(0, kWidest + 1));
  std::replace(line.begin(), line.end(), '\t', ' ');
  const auto column = static_cast<std::size_t>(std::max(1, d.at.column));
  if (line.empty() || line.size() > kWidest || column > line.size() + 1) {
    return hint.empty() ? out : out + fmt::format("      {}\n", hint);
  }
  const std::size_t before = count_utf8(printable(std::string_view(line).substr(0, column - 1)));
  out += fmt::format("{:>5} | {}\n", d.at.line, printable(line));
  out += fmt::format("      | {:>{}}{}{}\n", "^", before + 1, hint.empty() ? "" : " ", hint);
  return out;
}

}  // namespace kt::placement
