// Regular expressions as rule files use them: Perl syntax with look-ahead, searched anywhere in the
// text. Matching is bounded, for one search and for all that share a budget, so that hostile
// patterns cannot run for long. Thread rule: a compiled expression is used by one thread at a time.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace kt::placement {

class Regex {
 public:
  /// Throws kBadFile with PCRE2's reason and the offset in the pattern; `error_offset` then holds
  /// it.
  explicit Regex(const std::string& pattern, std::size_t* error_offset = nullptr,
                 bool any_case = false);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  /// Whether the pattern occurs in `text`. Takes the steps from `budget`; throws kBadFile when this
  /// search needs too many, or more than are left.
  bool search(std::string_view text, std::int64_t& budget) const;

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace kt::placement
