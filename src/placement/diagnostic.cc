#include "placement/diagnostic.h"

#include <fmt/format.h>

#include <algorithm>

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
  std::string out = fmt::format("{}:{}:{}: {}: {}\n", path, d.at.line, d.at.column,
                                error ? "error" : "warning", d.message);
  const std::string_view whole_line = line_of(text, d.at.line);
  std::string line(whole_line.substr(0, kWidest + 1));
  // Control characters of a hostile file must not reach the terminal.
  std::replace_if(
      line.begin(), line.end(),
      [](char c) { return static_cast<unsigned char>(c) < 32 || c == 127; }, ' ');
  const auto column = static_cast<std::size_t>(std::max(1, d.at.column));
  if (line.empty() || line.size() > kWidest || column > line.size() + 1) {
    return d.hint.empty() ? out : out + fmt::format("      {}\n", d.hint);
  }
  out += fmt::format("{:>5} | {}\n", d.at.line, line);
  out += fmt::format("      | {:>{}}{}{}\n", "^", column, d.hint.empty() ? "" : " ", d.hint);
  return out;
}

}  // namespace kt::placement
