// Writes replies as OpenAI's response objects, whole or as server-sent events:
//
//   created → in_progress → [output_item.added → content_part.added → …delta → …done →
//   content_part.done → output_item.done] … → completed | incomplete | failed
//
// Items are reasoning, message and function_call, one open at a time. Every event has its type and
// a sequence_number. Thread rule: one thread per object.
#pragma once
#include <memory>
#include <string>

#include "serve/reply.h"

namespace kt::serve::openai {

struct ResponseOptions {
  std::string model;
  bool stream = false;
  Json echo = Json::object();  // fields of the request that the response repeats
};

std::unique_ptr<Codec> make_response_codec(ResponseOptions options);

}  // namespace kt::serve::openai
