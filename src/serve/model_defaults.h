// What holds where a request says nothing: of a model, or of one of its names, which Ollama's
// /api/create can give more to say.
//
// Thread rule: plain values; pure.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "serve/ask.h"
#include "text/messages.h"

namespace kt::serve {

struct ModelDefaults {
  engine::SamplingParams sampling;
  std::int64_t max_tokens = -1;  // as Ask::max_tokens
  std::vector<std::string> stops;
  std::string system;             // before conversations that bring no system message
  Json messages = Json::array();  // before all conversations, in OpenAI's form
  std::shared_ptr<const text::ChatTemplate> chat_template;  // null: the model's own
  text::MessageStyle style;                                 // of that template
  // As it was given, for those who ask.
  Json parameters = Json::object();
  std::string license;
};

/// Makes it ask for what holds without a word.
void start_ask(const ModelDefaults& defaults, Ask* ask);

/// The conversation with what stands before it: behind its own system messages, which replace
/// those of the defaults. `goes_on`: the defaults' messages stood before it already.
Json begin_conversation(const ModelDefaults& defaults, const Json& messages, bool goes_on);

}  // namespace kt::serve
