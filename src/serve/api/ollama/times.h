// Times and durations as Ollama writes them: RFC 3339 with nanoseconds, whole nanoseconds, and
// Go's "1h30m".
//
// Thread rule: pure.
#pragma once
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kt::serve::ollama {

/// "2026-01-31T12:00:00.000000001Z".
std::string time_text(std::chrono::system_clock::time_point time);
/// Now.
std::string time_text();

inline std::int64_t nanoseconds(double seconds) { return static_cast<std::int64_t>(seconds * 1e9); }

/// Seconds of "5m", "1h30m", "-1s" or a bare number of seconds; nothing for any other text.
std::optional<double> duration_seconds(std::string_view text);

}  // namespace kt::serve::ollama
