#include "text/detokenizer.h"

#include <algorithm>
#include <cstdint>

namespace kt::text {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

struct Step {
  std::size_t length = 0;   // bytes taken
  bool whole = false;       // they are a character
  bool unfinished = false;  // more bytes may complete it
};

/// Looks at the first character. The second byte's range depends on the first (Unicode, table 3-7).
Step first_character(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const std::uint8_t lead = byte(0);
  if (lead < 0x80) return {1, true, false};
  std::size_t wanted = 0;
  if (lead >= 0xC2 && lead <= 0xDF) wanted = 2;
  if (lead >= 0xE0 && lead <= 0xEF) wanted = 3;
  if (lead >= 0xF0 && lead <= 0xF4) wanted = 4;
  if (wanted == 0) return {1, false, false};
  std::uint8_t low = 0x80;
  std::uint8_t high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (std::size_t i = 1; i < wanted; ++i) {
    if (i == text.size()) return {i, false, true};
    if (byte(i) < low || byte(i) > high) return {i, false, false};
    low = 0x80;
    high = 0xBF;
  }
  return {wanted, true, false};
}

}  // namespace

void take_whole_characters(std::string& pending, std::string& out) {
  std::string_view rest = pending;
  while (!rest.empty()) {
    const Step step = first_character(rest);
    if (step.unfinished) break;
    out.append(step.whole ? rest.substr(0, step.length) : kReplacement);
    rest.remove_prefix(step.length);
  }
  pending.erase(0, pending.size() - rest.size());
}

IncrementalDetokenizer::IncrementalDetokenizer(const Tokenizer& tokenizer, bool skip_special,
                                               bool at_start)
    : tokenizer_(tokenizer),
      skip_special_(skip_special),
      at_start_(at_start),
      strip_next_(at_start && tokenizer.strips_leading_space()) {}

std::string_view IncrementalDetokenizer::push(TokenId id) {
  out_.clear();
  if (skip_special_ && tokenizer_.is_special(id) &&
      !std::binary_search(kept_.begin(), kept_.end(), id)) {
    return out_;
  }
  std::string_view bytes = tokenizer_.token_bytes(id);
  if (strip_next_ && !bytes.empty()) {
    strip_next_ = false;
    if (bytes.front() == ' ') bytes.remove_prefix(1);
  }
  pending_.append(bytes);
  take_whole_characters(pending_, out_);
  return out_;
}

std::string_view IncrementalDetokenizer::flush() {
  out_.clear();
  if (!pending_.empty()) out_ = kReplacement;
  pending_.clear();
  strip_next_ = at_start_ && tokenizer_.strips_leading_space();
  return out_;
}

}  // namespace kt::text
