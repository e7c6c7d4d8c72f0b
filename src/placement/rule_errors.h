// Collects the problems of one rule file, one for each place in it, and raises them together.
// Thread rule: a value.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "placement/diagnostic.h"

namespace kt::placement {

class RuleErrors {
 public:
  RuleErrors(const std::string& path, std::string_view text) : path_(path), text_(text) {}
  void error(Position at, std::string message, std::string hint = {});
  void warning(Position at, std::string message, std::string hint = {});
  /// Throws kBadFile with all errors so far, or does nothing when there are none.
  void raise() const;
  /// The warnings so far, formatted.
  std::vector<std::string> warnings() const;

 private:
  std::string path_;
  std::string_view text_;
  std::vector<Diagnostic> errors_;
  std::vector<Diagnostic> warnings_;
};

/// Text of a file for a message: short, without control characters.
std::string quoted(std::string_view text);
/// "a, b, c".
std::string join(const std::vector<std::string>& words);

}  // namespace kt::placement
