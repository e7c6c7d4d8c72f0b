// The only reader of environment variables.
// Thread rule: call before threads that change the environment exist (none here do).
#pragma once
#include <optional>
#include <string>

namespace kt {

/// Value of a variable, or nothing when it is unset or empty.
std::optional<std::string> env(const char* name);

}  // namespace kt
