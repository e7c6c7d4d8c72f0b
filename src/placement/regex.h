// Regular expressions as rule files use them: Perl syntax with look-ahead, searched anywhere in the
// text. Matching is bounded, so that a hostile pattern cannot run for long. Thread rule: a compiled
// expression is used by one thread at a time.
#pragma once
#include <memory>
#include <string>
#include <string_view>

namespace kt::placement {

class Regex {
 public:
  /// Throws kBadFile with PCRE2's reason and the offset in the pattern; `error_offset` then holds
  /// it.
  Regex(const std::string& pattern, std::size_t* error_offset = nullptr);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  /// Whether the pattern occurs in `text`. Throws kBadFile when it takes too many steps to tell.
  bool search(std::string_view text) const;

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace kt::placement
