#include "placement/rule_errors.h"

#include <algorithm>

#include "base/error.h"

namespace kt::placement {
namespace {

constexpr std::size_t kShown = 20;

}  // namespace

void RuleErrors::error(Position at, std::string message, std::string hint) {
  add_once(errors_, {Diagnostic::Severity::kError, at, std::move(message), std::move(hint)});
}

void RuleErrors::warning(Position at, std::string message, std::string hint) {
  add_once(warnings_, {Diagnostic::Severity::kWarning, at, std::move(message), std::move(hint)});
}

void RuleErrors::add_once(std::vector<Diagnostic>& list, Diagnostic d) {
  // A rule that is wrong for one layer is wrong for all of them.
  if (seen_.emplace(d.severity, d.at.line, d.at.column).second) {
    list.push_back(std::move(d));
  }
}

bool RuleErrors::enough() const { return errors_.size() > kShown; }

void RuleErrors::raise() const {
  if (errors_.empty()) return;
  std::vector<Diagnostic> errors = errors_;
  std::stable_sort(errors.begin(), errors.end(), [](const Diagnostic& a, const Diagnostic& b) {
    return std::pair(a.at.line, a.at.column) < std::pair(b.at.line, b.at.column);
  });
  std::string text;
  for (std::size_t i = 0; i < std::min(kShown, errors.size()); ++i) {
    text += "\n" + format_diagnostic(errors[i], path_, text_);
    text.pop_back();
  }
  if (errors_.size() > kShown) text += fmt::format("\n… and {} more", errors_.size() - kShown);
  fail(ErrorCode::kBadFile, {}, "{} problem{} in the rule file{}", errors_.size(),
       errors_.size() == 1 ? "" : "s", text);
}

std::vector<std::string> RuleErrors::warnings() const {
  std::vector<std::string> out;
  for (const Diagnostic& d : warnings_) out.push_back(format_diagnostic(d, path_, text_));
  return out;
}

std::string shortened(std::string_view text) {
  constexpr std::size_t kLongest = 80;
  if (text.size() <= kLongest) return std::string(text);
  std::size_t end = kLongest;  // not inside a character
  while (end > kLongest - 3 && (static_cast<unsigned char>(text[end]) >> 6) == 2) --end;
  return std::string(text.substr(0, end)) + "…";
}

std::string join(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : ", ") + word;
  return out;
}

}  // namespace kt::placement
