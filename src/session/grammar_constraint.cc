#include "session/grammar_constraint.h"

#include <algorithm>
#include <utility>

namespace kt::session {

ReasoningMarks reasoning_marks(const text::ReplyFormat& format, bool may_reason) {
  // In harmony every reply has channels; the answer is what the last one holds.
  if (format.harmony) return {true, {}, "<|channel|>final<|message|>"};
  const bool inside = format.starts_in_reasoning || format.goes_on_in_reasoning;
  if (!may_reason && !inside) return {};
  return {inside, format.reasoning_open, format.reasoning_close};
}

GrammarConstraint::GrammarConstraint(text::Grammar grammar, const text::Tokenizer& tokenizer,
                                     ReasoningMarks marks)
    : grammar_(std::move(grammar)), tokenizer_(tokenizer), marks_(std::move(marks)) {
  const std::string& close = marks_.close;
  if (close.empty()) marks_.inside = false;
  if (!marks_.inside && !close.empty() && !marks_.open.empty())
    open_ = tokenizer_.token_to_id(marks_.open);
  // Knuth, Morris and Pratt: where to go on after a byte that does not fit.
  fallback_.assign(close.size() + 1, 0);
  for (std::size_t i = 1, n = 0; i < close.size(); ++i) {
    while (n > 0 && close[i] != close[n]) n = fallback_[n];
    if (close[i] == close[n]) ++n;
    fallback_[i + 1] = n;
  }
}

engine::TokenConstraint::State GrammarConstraint::state_of(text::Grammar::State state) {
  switch (state) {
    case text::Grammar::State::kComplete: return State::kComplete;
    case text::Grammar::State::kFailed: return State::kFailed;
    default: return State::kBound;
  }
}

engine::TokenConstraint::State GrammarConstraint::fill(std::span<std::uint32_t> mask) noexcept {
  if (cut_) return State::kFailed;
  if (marks_.inside) return State::kFree;
  const State state = state_of(grammar_.fill(mask));
  if (state == State::kBound && open_ && static_cast<std::size_t>(*open_) < mask.size() * 32)
    mask[static_cast<std::size_t>(*open_) / 32] |= 1u << (*open_ % 32);
  return state;
}

engine::TokenConstraint::State GrammarConstraint::accept(std::int32_t token) noexcept {
  if (marks_.inside) return pass_reasoning(token);
  const bool opens = open_ == token;
  open_.reset();
  if (!opens) return state_of(grammar_.accept(token));
  marks_.inside = true;
  return State::kFree;
}

engine::TokenConstraint::State GrammarConstraint::pass_reasoning(std::int32_t token) noexcept {
  const std::string& close = marks_.close;
  const std::string_view bytes = tokenizer_.token_bytes(token);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    while (n_matched_ > 0 && close[n_matched_] != bytes[i]) n_matched_ = fallback_[n_matched_];
    if (close[n_matched_] == bytes[i]) ++n_matched_;
    if (n_matched_ < close.size()) continue;
    marks_.inside = false;
    const std::string_view rest = bytes.substr(i + 1);
    cut_ = rest.find_first_not_of(" \n\r\t") != std::string_view::npos;
    return cut_ ? State::kFailed : State::kBound;
  }
  return State::kFree;
}

std::string GrammarConstraint::error() const {
  return cut_ ? "the model ended its reasoning within a token that holds more text"
              : "the grammar failed: " + grammar_.error();
}

}  // namespace kt::session
