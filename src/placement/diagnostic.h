// Messages about a rule file, with the place and the line itself:
//
//   rules.yaml:12:12: error: no operator class 'ktransformers.operators.linear.KLinearMarlim'
//      12 |     class: ktransformers.operators.linear.KLinearMarlim
//         |            ^ did you mean ktransformers.operators.linear.KLinearMarlin?
//
// Thread rule: values.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace kt::placement {

struct Position {
  int line = 1;    // from 1
  int column = 1;  // from 1
};

struct Diagnostic {
  enum class Severity { kError, kWarning };
  Severity severity = Severity::kError;
  Position at;
  std::string message;
  std::string hint;  // what to do next; may be empty
};

/// As above, ending in a newline. `text` is the whole file.
std::string format_diagnostic(const Diagnostic& diagnostic, const std::string& path,
                              std::string_view text);

}  // namespace kt::placement
