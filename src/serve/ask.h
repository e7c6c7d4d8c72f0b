// What any protocol asks a model for: the one internal request, which their codecs fill in.
//
// Thread rule: plain values.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/sampler.h"
#include "serve/fields.h"
#include "text/grammar.h"
#include "text/tool_grammar.h"

namespace kt::serve {

struct Ask {
  /// A conversation, in OpenAI's form; or else `prompts`.
  Json messages = nullptr;
  Json tools = nullptr;                   // array, or null
  Json template_kwargs = Json::object();  // variables of the template
  std::vector<std::int32_t> before;       // tokens that stand before the conversation's
  /// Texts or token ids to go on from, each answered by itself.
  struct Prompt {
    std::string text;
    std::vector<std::int32_t> tokens;  // used when `is_tokens`
    bool is_tokens = false;
  };
  std::vector<Prompt> prompts;

  engine::SamplingParams sampling;
  std::int64_t max_tokens = -1;  // -1: until the context is full
  std::vector<std::string> stops;
  bool ignore_eos = false;
  int n = 1;                     // replies to each prompt
  double seconds = 0.0;          // allowed for all; 0: no limit
  bool logprobs = false;         // of the tokens
  bool prompt_logprobs = false;  // of the prompts' tokens
  int n_top_logprobs = 0;        // of each token
  /// A tool call is to come: of any tool, or of the one named.
  std::optional<text::ToolChoice> required_tool;
  std::optional<text::GrammarSpec> grammar;  // binds what follows the reasoning
};

/// Binds a reply to JSON of this schema, or to any JSON object for null.
text::GrammarSpec json_grammar(const Json* schema);

}  // namespace kt::serve
