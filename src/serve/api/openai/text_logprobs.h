// The "logprobs" object of OpenAI's text completions: parallel lists of tokens, their
// log-probabilities, the most likely tokens instead, and where each begins in the text.
//
//   a token that is no whole text → "bytes:\xe2\x80"; text_offset counts characters
//
// Thread rule: one thread per object.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/sampler.h"
#include "serve/fields.h"

namespace kt::serve::openai {

/// What tokens say.
struct TokenTexts {
  std::function<std::string(std::int32_t)> bytes;
  std::function<bool(std::int32_t)> is_control;  // adds nothing to a reply
};

class TextLogprobs {
 public:
  /// `n_before`: characters of the text before the first token.
  explicit TextLogprobs(const TokenTexts& texts, std::size_t n_before = 0);
  /// The prompt's tokens; `text` is how the reply shows it. The first has no log-probability.
  void add_prompt(const std::vector<engine::SampledToken>& tokens, std::string_view text);
  void add(const engine::SampledToken& token);
  /// What was added since the last call; later tokens go on behind it.
  Json take();

 private:
  void push(const engine::SampledToken& token, bool scored);
  std::string name(std::int32_t token) const;
  static Json empty();
  const TokenTexts& texts_;
  std::size_t offset_;  // of the next token
  Json lists_ = empty();
};

}  // namespace kt::serve::openai
