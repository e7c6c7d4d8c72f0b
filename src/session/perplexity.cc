#include "session/perplexity.h"

#include <algorithm>
#include <cmath>

namespace kt::session {
namespace {

double log_probability(std::span<const float> logits, std::int32_t token) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float l : logits) sum += std::exp(static_cast<double>(l - largest));
  return static_cast<double>(logits[static_cast<std::size_t>(token)] - largest) - std::log(sum);
}

}  // namespace

PerplexityResult perplexity(engine::Engine& engine, const std::vector<std::int32_t>& tokens,
                            const PerplexityOptions& options) {
  const std::int64_t window = options.window;
  if (window < 4 || window > engine.options().context) {
    fail(ErrorCode::kUsage, "--ctx", "a window of {} tokens does not fit: 4 to {} are possible",
         window, engine.options().context);
  }
  const std::int64_t n_windows = static_cast<std::int64_t>(tokens.size()) / window;
  if (n_windows < 1) {
    fail(ErrorCode::kUsage, "--file", "the text has {} tokens; at least one window of {} is needed",
         tokens.size(), window);
  }
  double sum = 0.0, sum_of_squares = 0.0;
  PerplexityResult result;
  for (std::int64_t w = 0; w < n_windows; ++w) {
    const auto begin = tokens.begin() + w * window;
    engine::Request request;
    request.prompt.assign(begin, begin + window);
    if (options.bos >= 0) request.prompt.front() = options.bos;
    request.max_tokens = 0;
    request.on_prompt_logits = [&](std::int64_t row, std::span<const float> logits) {
      if (row < window / 2 || row + 1 >= window) return;
      const double loss = -log_probability(logits, *(begin + row + 1));
      sum += loss;
      sum_of_squares += loss * loss;
      ++result.n_scored;
    };
    const engine::Result run = engine.generate(std::move(request));
    if (run.reason == engine::FinishReason::kCancelled)
      fail(ErrorCode::kCancelled, {}, "cancelled");
    result.seconds += run.prefill_seconds;
    const auto n = static_cast<double>(result.n_scored);
    result.perplexity = std::exp(sum / n);
    const double variance = std::max(0.0, sum_of_squares / n - sum / n * (sum / n));
    result.standard_error = n > 1 ? std::sqrt(variance / (n - 1)) * result.perplexity : 0.0;
    if (options.on_window) options.on_window(w + 1, n_windows, result.perplexity);
  }
  return result;
}

}  // namespace kt::session
