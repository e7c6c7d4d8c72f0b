// The fields that OpenAI's chat and text completions share, and extensions that other local servers
// accept, into an Ask. Format: OpenAI API 2.3.0.
//
// Thread rule: pure.
#pragma once
#include <string>

#include "serve/ask.h"
#include "serve/model_facts.h"

namespace kt::serve::openai {

/// Sampling, limits, stops and n. Throws kUsage naming the field.
void read_sampling(const Fields& fields, const ModelFacts& facts, Ask* ask);

/// Messages, tools and the template's variables. Throws kUsage, kUnsupported.
void read_conversation(const Fields& fields, const ModelFacts& facts, Ask* ask);

/// What the reply is bound to: response_format, or json_schema, grammar (GBNF or Lark) and regex as
/// other local servers name them.
void read_grammar(const Fields& fields, Ask* ask);

/// The field `name`: a string, an array of strings, of token ids, or of arrays of token ids.
void read_prompts(const Fields& fields, const char* name, Ask* ask);

}  // namespace kt::serve::openai
