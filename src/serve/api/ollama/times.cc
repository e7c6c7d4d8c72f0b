#include "serve/api/ollama/times.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <ctime>
#include <utility>

namespace kt::serve::ollama {

std::string time_text(std::chrono::system_clock::time_point time) {
  const auto whole = std::chrono::floor<std::chrono::seconds>(time);
  const auto rest = std::chrono::duration_cast<std::chrono::nanoseconds>(time - whole);
  const std::time_t seconds = std::chrono::system_clock::to_time_t(whole);
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
  return fmt::format("{}.{:09}Z", text, rest.count());
}

std::string time_text() { return time_text(std::chrono::system_clock::now()); }

std::optional<double> duration_seconds(std::string_view text) {
  // Longer units that begin like shorter ones come first.
  static constexpr std::pair<std::string_view, double> kUnits[] = {
      {"ns", 1e-9}, {"us", 1e-6}, {"µs", 1e-6}, {"ms", 1e-3}, {"s", 1}, {"m", 60}, {"h", 3600}};
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  double sum = 0;
  for (bool first = true; first || !text.empty(); first = false) {
    double number = 0;
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data(), end, number, std::chars_format::fixed);
    if (parsed.ec != std::errc() || number < 0 || !std::isfinite(number)) return std::nullopt;
    text.remove_prefix(static_cast<std::size_t>(parsed.ptr - text.data()));
    double unit = first && text.empty() ? 1 : 0;
    for (const auto& [name, seconds] : kUnits) {
      if (unit != 0 || !text.starts_with(name)) continue;
      unit = seconds;
      text.remove_prefix(name.size());
    }
    if (unit == 0) return std::nullopt;
    sum += number * unit;
  }
  return negative ? -sum : sum;
}

}  // namespace kt::serve::ollama
