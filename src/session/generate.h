// Text in, text out over one Session: tokenises, generates, detokenises incrementally, and cuts at
// stop strings (which may span tokens). `kt run`, `kt chat` and the worker of Python and the
// servers use it. Thread rule: generate_text belongs to the thread that drives the Session; the
// rest is pure.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "session/session.h"
#include "session/stop_filter.h"
#include "text/detokenizer.h"

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
  std::string stop_string;  // that ended the text, or empty
};

TextResult generate_text(Session& session, const TextRequest& request);

/// The engine's side of a request: prompt, sampling and limits; on_token is left to the caller.
engine::Request engine_request(const Session& session, const TextRequest& request);

/// The text of one request as its tokens come. Throws kUsage for an empty stop string.
class TextOutput {
 public:
  /// `sink` gets the text that is certain, and returns false when it wants no more; may be null.
  /// `kept`: control tokens that show in the text all the same (text::marker_tokens), ascending.
  TextOutput(const text::Tokenizer& tokenizer, const std::vector<std::string>& stops,
             StopFilter::Sink sink, std::vector<std::int32_t> kept = {});
  /// False once the text has ended.
  bool push(std::int32_t token);
  /// Passes on what was held back, after the last token.
  void finish();
  const std::string& text() const { return filter_.text(); }
  const std::string& stop_string() const { return filter_.hit(); }

 private:
  StopFilter filter_;
  text::IncrementalDetokenizer detokenizer_;
};

/// The prompt that the model's chat template makes of messages; bos_token and eos_token are filled
/// in. `other` takes its place unless it is null. Throws kUnsupported when there is no template,
/// else as ChatTemplate::render.
std::string render_chat(const Session& session, text::ChatInput input,
                        const text::ChatTemplate* other = nullptr);

/// The default sampling with what the makers of a model advise instead, where they do.
engine::SamplingParams advised_sampling(const io::SamplingAdvice& advice);

/// The six-line speed report of the original program:
///   prompt eval count / duration / rate, eval count / duration / rate.
std::string speed_report(const engine::Result& result);

}  // namespace kt::session
