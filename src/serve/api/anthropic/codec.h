// Writes replies as Anthropic's message objects, whole or as server-sent events:
//
//   message_start → [content_block_start → content_block_delta … → content_block_stop] … →
//   message_delta → message_stop
//
// One block is open at a time. Thread rule: one thread per object.
#pragma once
#include <memory>
#include <string>

#include "serve/reply.h"

namespace kt::serve::anthropic {

struct CodecOptions {
  std::string model;
  bool stream = false;
  std::int64_t n_prompt = 0;  // tokens
  bool show_thinking = true;  // false: its blocks are empty
};

std::unique_ptr<Codec> make_codec(CodecOptions options);

}  // namespace kt::serve::anthropic
