// The only place that reads environment variables.
// Thread rule: safe while nobody changes the environment; kt never does.
#pragma once
#include <optional>
#include <string>

namespace kt {

/// The value of an environment variable, or nothing when it is not set.
std::optional<std::string> env(const std::string& name);

}  // namespace kt
