// One model that requests can name: its worker, and what of it does not change once it is open.
//
//   Ask → render, tokenise, check → Worker::submit for every prompt and reply → Generation
//
// Thread rule: any thread.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "serve/ask.h"
#include "serve/model_facts.h"
#include "session/worker.h"
#include "text/reply_format.h"

namespace kt::serve {

/// A prompt's tokens with their log-probabilities; that of the first is 0, as nothing stands before
/// it. Complete once all replies to the prompt have ended.
using PromptScores = std::shared_ptr<const std::vector<engine::SampledToken>>;

/// What was asked for, as far as those who watch the server want to know it.
struct Asked {
  std::string model;
  engine::SamplingParams sampling;
  std::int64_t max_tokens = -1;
  int n = 1;
};

/// The tickets of an Ask: those of prompt 0 first, n of each. They are cancelled with it.
struct Generation {
  Generation() = default;
  Generation(Generation&&) = default;
  Generation& operator=(Generation&&) = default;
  ~Generation() {
    for (const auto& ticket : tickets) ticket->cancel();
  }
  Asked asked;
  std::size_t n_ahead = 0;  // requests that waited when it came
  std::vector<std::shared_ptr<session::Ticket>> tickets;
  std::vector<std::vector<std::int32_t>> prompts;  // their tokens
  std::vector<std::int64_t> n_prompt;              // and how many
  std::vector<PromptScores> scores;                // of each prompt; empty: not asked for
  std::vector<text::ReplyFormat> formats;          // of each prompt's replies
  std::string tools;                               // JSON array, or empty
};

class ServedModel {
 public:
  enum class State {
    kOpening,
    kOpen,
    kFailed,    // it could not be opened
    kNoMemory,  // for want of memory
    kBroken,    // it was open; an exception ended a step
  };
  /// Begins to open it, on a thread of its own; first that thread calls `before_opening`.
  explicit ServedModel(ModelOptions options, std::function<void()> before_opening = {});
  ServedModel(const ServedModel&) = delete;
  ServedModel& operator=(const ServedModel&) = delete;

  session::Worker& worker() { return worker_; }
  const std::string& id() const { return options_.id; }
  State state() const;
  /// Waits so long at most; true once it is open. Throws what opening threw.
  bool wait_open(std::chrono::milliseconds longest);
  /// f() once it is no longer being opened: on the model's thread, or here and now.
  void when_opened(std::function<void()> f);
  /// Throws what opening it or a step threw, and a Refusal (503) while it is being opened.
  const ModelFacts& facts() const { return *shared_facts(); }
  std::shared_ptr<const ModelFacts> shared_facts() const;
  /// Those who use it, which keeps it open: see Models::get.
  using Clock = std::chrono::steady_clock;
  void begin_use();
  void end_use();
  bool in_use() const { return n_uses_ > 0; }
  Clock::time_point last_used() const { return last_used_; }
  /// Queues all of it, or nothing. Throws kUsage, kTooLong, kUnsupported, session::QueueFull.
  Generation generate(const Ask& ask);
  struct Rendered {
    std::string prompt;
    text::ReplyFormat format;
  };
  /// The prompt that the template makes of the conversation, and how the reply to it is read.
  Rendered render(const Ask& ask);
  /// The tokens of prompts, each checked against the context. Throws kTooLong.
  std::vector<std::vector<std::int32_t>> prompt_tokens(const std::vector<Ask::Prompt>& prompts);
  std::vector<std::int32_t> tokenize(std::string_view text, bool add_special, bool parse_special);
  std::string detokenize(const std::vector<std::int32_t>& tokens);
  /// The tokens of a conversation.
  std::vector<std::int32_t> tokenize_chat(const Ask& ask);
  /// The spelling of one token, as bytes.
  std::string token_bytes(std::int32_t token);
  /// Whether it is a control token, which adds nothing to a text.
  bool is_control(std::int32_t token);

 private:
  std::vector<std::int32_t> tokens_of(const Ask::Prompt& prompt);
  std::vector<std::int32_t> tokens_of(const Ask& ask, const std::string& rendered);
  engine::Request request(const Ask& ask, std::vector<std::int32_t> prompt) const;
  void note_state(const session::Session* session, const std::exception_ptr& error);
  const ModelOptions options_;
  std::atomic<int> n_uses_{0};
  std::atomic<Clock::time_point> last_used_{Clock::now()};
  mutable std::mutex mutex_;  // of the members down to facts_
  std::condition_variable changed_;
  State state_ = State::kOpening;
  std::exception_ptr error_;
  std::vector<std::function<void()>> waiting_;
  std::shared_ptr<const ModelFacts> facts_;  // stays, once there
  session::Worker worker_;                   // last: its thread uses the members above
};

}  // namespace kt::serve
