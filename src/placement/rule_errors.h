// Collects the problems of one rule file, one for each place in it, and raises them together.
// Thread rule: a value.
#pragma once
#include <set>
#include <string>
#include <string_view>
#include <tuple>
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
  /// Whether more errors were found than raise() shows; then hints need not be looked for.
  bool enough() const;
  /// The warnings so far, formatted.
  std::vector<std::string> warnings() const;

 private:
  void add_once(std::vector<Diagnostic>& list, Diagnostic d);

  std::string path_;
  std::string_view text_;
  std::vector<Diagnostic> errors_;
  std::vector<Diagnostic> warnings_;
  std::set<std::tuple<Diagnostic::Severity, int, int>> seen_;
};

/// Text of a file for a message, at most 80 bytes of it.
std::string shortened(std::string_view text);
/// "a, b, c".
std::string join(const std::vector<std::string>& words);

}  // namespace kt::placement
