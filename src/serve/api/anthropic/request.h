// Reads Anthropic's Messages requests into an Ask. Format: Anthropic API, version 2023-06-01 and
// what later versions add for text.
//
//   system and blocks → OpenAI's messages: text → content, thinking → reasoning_content,
//   tool_use → tool_calls, tool_result → a message of role tool
//
// Thread rule: pure.
#pragma once
#include "serve/ask.h"
#include "serve/model_facts.h"

namespace kt::serve::anthropic {

/// Messages, system, tools and thinking. Throws kUsage naming the field; kUnsupported for what is
/// not text.
void read_conversation(const Fields& fields, const ModelFacts& facts, Ask* ask);

/// Limits, sampling and stops. Throws kUsage naming the field.
void read_sampling(const Fields& fields, const ModelFacts& facts, Ask* ask);

/// Whether the reply shows its thinking: `thinking.display`, once read_conversation took the rest.
bool shows_thinking(const Fields& fields);

}  // namespace kt::serve::anthropic
