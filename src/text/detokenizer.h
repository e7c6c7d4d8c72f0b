// Streaming ids -> text: hands out only whole UTF-8 characters, so that a reply can be shown token
// by token.
//
//   push(id): pending bytes + token_bytes(id) -> longest prefix of whole characters; the rest stays
//   pending
//
// A character split over tokens (byte-level BPE, <0xNN> byte tokens) appears with the token that
// completes it; bytes that can never become one appear as U+FFFD. The pieces, put together, equal
// Tokenizer::decode(). Thread rule: one thread per object; the Tokenizer must outlive it and may be
// shared.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/tokenizer.h"

namespace kt::text {

class IncrementalDetokenizer {
 public:
  /// skip_special: control tokens add no text. at_start: the text begins here, so that
  /// SentencePiece's leading space is dropped; pass false to go on after a prompt.
  explicit IncrementalDetokenizer(const Tokenizer& tokenizer, bool skip_special = true,
                                  bool at_start = true);

  /// These add text although they are control tokens: markers that somebody reads
  /// (marker_tokens()). Ascending.
  void keep(std::vector<TokenId> ids) { kept_ = std::move(ids); }

  /// Text that `id` completes, maybe empty. Valid until the next call. An id out of range adds
  /// nothing.
  std::string_view push(TokenId id);
  /// The rest: one U+FFFD for an unfinished character, else empty. The object is then as new. Valid
  /// until the next call.
  std::string_view flush();

 private:
  const Tokenizer& tokenizer_;
  bool skip_special_;
  bool at_start_;
  bool strip_next_;
  std::vector<TokenId> kept_;
  std::string pending_;  // at most 3 bytes between calls
  std::string out_;
};

/// Moves all whole characters of `pending` to the end of `out`; bytes that cannot begin or continue
/// a character become U+FFFD (one per maximal bad part). An unfinished last character stays in
/// `pending`.
void take_whole_characters(std::string& pending, std::string& out);

}  // namespace kt::text
