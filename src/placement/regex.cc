#include "placement/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/error.h"

namespace kt::placement {
namespace {

constexpr std::uint32_t kMatchLimit = 200000;  // steps; a module path needs a few hundred
constexpr std::uint32_t kDepthLimit = 10000;
constexpr std::uint32_t kHeapLimitKib = 8192;
constexpr std::size_t kMaxPattern = 16384;

// Called before every item of the pattern that is tried.
int count_step(pcre2_callout_block*, void* budget) {
  return --*static_cast<std::int64_t*>(budget) < 0 ? PCRE2_ERROR_CALLOUT : 0;
}

}  // namespace

struct Regex::Compiled {
  pcre2_code* code = nullptr;
  pcre2_match_data* data = nullptr;
  pcre2_match_context* context = nullptr;
  ~Compiled() {
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
    pcre2_code_free(code);
  }
};

Regex::Regex(const std::string& pattern, std::size_t* error_offset, bool any_case)
    : compiled_(std::make_unique<Compiled>()) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  if (pattern.size() > kMaxPattern) {
    fail(ErrorCode::kBadFile, {}, "regular expression of {} bytes; at most {} are possible",
         pattern.size(), kMaxPattern);
  }
  compiled_->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_NEVER_BACKSLASH_C | PCRE2_AUTO_CALLOUT | (any_case ? PCRE2_CASELESS : 0u),
                    &error, &offset, nullptr);
  if (compiled_->code == nullptr) {
    PCRE2_UCHAR reason[256];
    pcre2_get_error_message(error, reason, sizeof reason);
    if (error_offset != nullptr) *error_offset = offset;
    fail(ErrorCode::kBadFile, {}, "not a regular expression: {} at character {}",
         reinterpret_cast<const char*>(reason), offset + 1);
  }
  compiled_->data = pcre2_match_data_create(1, nullptr);
  compiled_->context = pcre2_match_context_create(nullptr);
  pcre2_set_match_limit(compiled_->context, kMatchLimit);
  pcre2_set_depth_limit(compiled_->context, kDepthLimit);
  pcre2_set_heap_limit(compiled_->context, kHeapLimitKib);
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

bool Regex::search(std::string_view text, std::int64_t& budget) const {
  pcre2_set_callout(compiled_->context, count_step, &budget);
  const int rc = pcre2_match(compiled_->code, reinterpret_cast<PCRE2_SPTR>(text.data()),
                             text.size(), 0, 0, compiled_->data, compiled_->context);
  if (rc >= 0) return true;
  if (rc == PCRE2_ERROR_NOMATCH) return false;
  if (rc == PCRE2_ERROR_CALLOUT) {
    fail(ErrorCode::kBadFile, {},
         "the regular expressions up to here take too many steps; make them simpler");
  }
  fail(ErrorCode::kBadFile, {},
       "the regular expression takes too many steps on '{}'; make it simpler", text);
}

}  // namespace kt::placement
