// Replies as they come, and the codecs that write them in a protocol's form.
//
//   events of a choice → Codec::event …; its end → Codec::end_choice; all ended → Codec::end
//   not streamed: all ended → Codec::whole
//
// Thread rule: one thread at a time.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/sampler.h"
#include "serve/http/work.h"
#include "serve/named_model.h"
#include "serve/problem.h"
#include "text/reply_parser.h"

namespace kt::serve {

enum class Finish { kStop, kLength, kToolCalls };

struct ToolCall {
  std::string id, name, arguments;
};

/// One reply, as far as it is there.
struct Choice {
  std::string content, reasoning;
  std::vector<ToolCall> calls;
  std::vector<engine::SampledToken> tokens;
  engine::SampledToken stop_token;  // that ended it; id -1: something else did
  PromptScores prompt;              // null: not asked for
  Finish finish = Finish::kStop;
  std::string stop_string;       // that ended it, or empty
  std::int64_t n_reasoning = 0;  // tokens
};

struct Usage {
  std::int64_t n_prompt = 0, n_cached = 0;  // tokens of all prompts; of them taken from the cache
  std::int64_t n_generated = 0, n_reasoning = 0;
  std::int64_t n_decoded = 0;                          // tokens out of decode steps
  std::int64_t n_drafted = 0, n_accepted = 0;          // guessed tokens; of them right
  double prefill_seconds = 0.0, decode_seconds = 0.0;  // of the longest
  double queue_seconds = -1.0;                         // until the first began; below 0: unknown
  double total_seconds = 0.0;                          // since the request came
};

/// Writes one reply in one protocol's form. What it appends to `out` is the body of the stream.
class Codec {
 public:
  virtual ~Codec() = default;
  virtual bool streams() const = 0;
  /// Before the first event.
  virtual http::Head head() const = 0;
  virtual void begin(std::size_t n_choices, std::string& out) = 0;
  /// `tokens`: those that came with it.
  virtual void event(std::size_t choice, const text::ReplyEvent& event,
                     const std::vector<engine::SampledToken>& tokens, std::string& out) = 0;
  virtual void end_choice(std::size_t index, const Choice& choice, std::string& out) = 0;
  virtual void end(const std::vector<Choice>& choices, const Usage& usage, std::string& out) = 0;
  /// Instead of the rest, when something goes wrong in the middle.
  virtual void fail(const Problem& problem, std::string& out) = 0;
  virtual std::string_view keep_alive() const { return {}; }
  virtual std::string whole(const std::vector<Choice>& choices, const Usage& usage) = 0;
};

/// The head of a reply: of server-sent events when it streams, else of JSON.
http::Head event_stream_head(bool streams);

/// What a finished or broken reply is told to (metrics, log).
using OnDone = std::function<void(const Usage& usage, const std::vector<Choice>& choices,
                                  double seconds_to_first, const Problem* problem)>;

/// The Work that answers with a Generation; `headers` are added to the reply's.
std::unique_ptr<http::Work> make_reply(Protocol protocol, Generation generation,
                                       std::unique_ptr<Codec> codec, OnDone on_done,
                                       http::Headers headers);

}  // namespace kt::serve
