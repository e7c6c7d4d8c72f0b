// Writes replies as Ollama's chat and generate objects: one whole, or a line of JSON for each piece
// and a last one with "done": true and the counts.
//
// Tool calls are written whole, with their arguments as an object. Thread rule: one thread per
// object.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "serve/reply.h"

namespace kt::serve::ollama {

inline constexpr const char* kJsonType = "application/json; charset=utf-8";

struct CodecOptions {
  bool chat = true;  // else generate
  bool stream = true;
  bool logprobs = false;
  std::string model;  // as the client called it
  /// Generate: the prompt's tokens, which the last object gives back with those of the reply as its
  /// `context`; empty: it has none.
  std::vector<std::int32_t> context;
  std::function<std::string(std::int32_t)> token_bytes;  // for logprobs
};

std::unique_ptr<Codec> make_codec(CodecOptions options);

/// What a request without a prompt gets: `reason` is "load" or "unload".
Json empty_reply(bool chat, const std::string& model, const char* reason);

}  // namespace kt::serve::ollama
