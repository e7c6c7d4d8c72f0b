// Perplexity of a token sequence, measured as llama.cpp's tool does: the text is cut into windows
// of n_ctx tokens, the first token of each is BOS where the tokenizer adds one, and the second half
// of each window is scored.
//   perplexity = exp(- mean log p(token | window so far))
// Thread rule: the thread that drives the Session.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "engine/engine.h"

namespace kt::session {

struct PerplexityOptions {
  std::int64_t window = 512;
  std::int32_t bos = -1;  // replaces the first token of each window; -1: none
  /// After each window: windows done, in all, perplexity so far.
  std::function<void(std::int64_t done, std::int64_t total, double perplexity)> on_window;
};

struct PerplexityResult {
  double perplexity = 0.0;
  double standard_error = 0.0;  // of the perplexity
  std::int64_t n_scored = 0;
  double seconds = 0.0;
};

/// Throws kUsage when the text is shorter than a window or the window does not fit the context.
PerplexityResult perplexity(engine::Engine& engine, const std::vector<std::int32_t>& tokens,
                            const PerplexityOptions& options);

}  // namespace kt::session
