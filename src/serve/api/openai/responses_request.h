// Reads requests of OpenAI's Responses API into an Ask, by way of a chat completion's fields.
// Nothing is kept between requests: what refers to earlier ones is refused. Format: OpenAI API
// 2.3.0.
//
//   instructions, input items → messages: reasoning, assistant text and calls in a row → one
//   message
//
// Thread rule: pure.
#pragma once
#include "serve/ask.h"
#include "serve/model_facts.h"

namespace kt::serve::openai {

/// Throws kUsage naming the field, kUnsupported.
void read_response_input(const Fields& fields, const ModelFacts& facts, Ask* ask);

/// Sampling and limits.
void read_response_sampling(const Fields& fields, const ModelFacts& facts, Ask* ask);

}  // namespace kt::serve::openai
