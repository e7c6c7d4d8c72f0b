// A model under one of its names, as a request uses it: what is asked becomes tickets.
//
//   Ask → what the name puts before it → render, tokenise, check → Worker::submit for every prompt
//   and reply → Generation
//
// Thread rule: any thread.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "serve/served_model.h"
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

class NamedModel {
 public:
  /// `lease` keeps it open; the facts are those of the name.
  NamedModel(std::shared_ptr<ServedModel> lease, std::shared_ptr<const ModelFacts> facts)
      : lease_(std::move(lease)), facts_(std::move(facts)) {}
  const std::shared_ptr<ServedModel>& lease() const { return lease_; }
  const ModelFacts& facts() const { return *facts_; }
  /// As replies call it.
  const std::string& id() const { return facts_->id; }

  /// Queues all of it, or nothing. Throws kUsage, kTooLong, kUnsupported, session::QueueFull.
  Generation generate(const Ask& ask) const;
  struct Rendered {
    std::string prompt;
    text::ReplyFormat format;
  };
  /// The prompt that the template makes of the conversation, and how the reply to it is read.
  Rendered render(const Ask& ask) const;
  /// The tokens of prompts, each checked against the context. Throws kTooLong.
  std::vector<std::vector<std::int32_t>> prompt_tokens(
      const std::vector<Ask::Prompt>& prompts) const;
  std::vector<std::int32_t> tokenize(std::string_view text, bool add_special,
                                     bool parse_special) const;
  std::string detokenize(const std::vector<std::int32_t>& tokens) const;
  /// The tokens of a conversation.
  std::vector<std::int32_t> tokenize_chat(const Ask& ask) const;
  /// The spelling of one token, as bytes.
  std::string token_bytes(std::int32_t token) const;
  /// Whether it is a control token, which adds nothing to a text.
  bool is_control(std::int32_t token) const;

 private:
  session::Worker& worker() const { return lease_->worker(); }
  std::vector<std::int32_t> tokens_of(const Ask::Prompt& prompt) const;
  std::vector<std::int32_t> tokens_of(const Ask& ask, const std::string& rendered) const;
  engine::Request request(const Ask& ask, std::vector<std::int32_t> prompt) const;
  std::shared_ptr<ServedModel> lease_;
  std::shared_ptr<const ModelFacts> facts_;
};

}  // namespace kt::serve
