// Writes replies as OpenAI's chat.completion and text_completion objects, whole or as server-sent
// events (one "data: {…}\n\n" each, "data: [DONE]" at the end).
//
// Thread rule: one thread per object.
#pragma once
#include <memory>
#include <string>

#include "serve/api/openai/text_logprobs.h"
#include "serve/reply.h"

namespace kt::serve::openai {

struct CompletionOptions {
  bool chat = true;
  std::string model;
  bool stream = false;
  bool include_usage = false;  // a last chunk with the counts
  bool return_speed = false;   // seconds in the usage, as the original server gives them
  bool logprobs = false;
  std::vector<std::string> echo;  // text completions: the prompts, which replies begin with then
  std::size_t n = 1;              // replies to each prompt
  std::size_t best_of = 1;        // of which they are chosen, when whole
  TokenTexts texts;               // for logprobs
};

std::unique_ptr<Codec> make_completion_codec(CompletionOptions options);

}  // namespace kt::serve::openai
