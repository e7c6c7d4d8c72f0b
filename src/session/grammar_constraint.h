// Binds a reply to a grammar once its reasoning has ended.
//
//   inside reasoning: any token, until `close` came → the grammar's tokens → its end
//
// A reply that does not start in reasoning may begin with the token `open`, if the vocabulary has
// one. Thread rule: the thread that drives the Engine; the Tokenizer must outlive it.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "engine/constraint.h"
#include "text/grammar.h"
#include "text/reply_format.h"

namespace kt::session {

/// Where reasoning begins and ends, as text; control tokens count with their spelling.
struct ReasoningMarks {
  bool inside = false;      // the reply starts in it
  std::string open, close;  // close empty: there is no reasoning
};

/// The marks of a reply's format. `may_reason` false: the request turned it off.
ReasoningMarks reasoning_marks(const text::ReplyFormat& format, bool may_reason = true);

class GrammarConstraint : public engine::TokenConstraint {
 public:
  GrammarConstraint(text::Grammar grammar, const text::Tokenizer& tokenizer,
                    ReasoningMarks marks = {});
  State fill(std::span<std::uint32_t> mask) noexcept override;
  State accept(std::int32_t token) noexcept override;
  std::string error() const override;

 private:
  State pass_reasoning(std::int32_t token) noexcept;
  static State state_of(text::Grammar::State state);
  text::Grammar grammar_;
  const text::Tokenizer& tokenizer_;
  ReasoningMarks marks_;
  std::optional<std::int32_t> open_;   // allowed as the first token
  std::vector<std::size_t> fallback_;  // of a search for marks_.close
  std::size_t n_matched_ = 0;          // bytes of it that the text ends with
  bool cut_ = false;                   // a token held more than the end of reasoning
};

}  // namespace kt::session
