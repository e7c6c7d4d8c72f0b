// Text in, text out over one Session: renders or tokenises, generates, detokenises incrementally,
// and cuts at stop strings (which may span tokens). `kt run`, `kt chat` and later the servers use
// it. Thread rule: the thread that drives the Session.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "session/session.h"

namespace kt::session {

struct TextRequest {
  std::string prompt;  // already rendered when it comes from a template
  bool add_special =
      true;  // add BOS as the tokenizer says (false for rendered templates that contain it)
  bool parse_special = false;  // special tokens written in the prompt count as such
  engine::SamplingParams sampling;
  std::int64_t max_tokens = -1;
  bool ignore_eos = false;
  std::vector<std::string> stop;
  /// Complete UTF-8 pieces; false stops.
  std::function<bool(std::string_view piece)> on_text;
  std::function<void(std::int64_t done, std::int64_t total)> on_prefill;
};

struct TextResult {
  engine::Result engine;
  std::string text;
  bool hit_stop_string = false;
};

TextResult generate_text(Session& session, const TextRequest& request);

/// The six-line speed report of the original program:
///   prompt eval count / duration / rate, eval count / duration / rate.
std::string speed_report(const engine::Result& result);

}  // namespace kt::session
