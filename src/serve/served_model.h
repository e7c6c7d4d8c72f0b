// One model that requests can name: its worker, and what of it does not change once it is open.
//
//   Ask → render, tokenise, check → Worker::submit for every prompt and reply → Generation
//
// Thread rule: any thread.
#pragma once
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "serve/ask.h"
#include "session/worker.h"
#include "text/messages.h"
#include "text/reply_format.h"

namespace kt::serve {

/// The name it was asked for by, or that of its file or folder.
std::string default_id(const std::string& model);

struct ModelOptions {
  std::string id;  // as requests name it
  session::Options session;
  std::size_t max_running = 16;
  std::size_t max_waiting = 512;
  bool opened_by_request = false;  // requests wait for it then; else they are told to come again
};

/// What is known of a model once it is open.
struct ModelFacts {
  std::string id;
  std::string path;
  std::string architecture;
  std::int64_t context = 0;
  std::int64_t max_context = 0;
  std::int64_t vocab_size = 0;
  std::int64_t d_model = 0;
  std::uint64_t file_bytes = 0;
  engine::SamplingParams sampling;  // where a request says nothing
  std::string chat_template;        // source; empty: plain text only
  text::MessageStyle style;
  std::vector<text::TokenId> markers;  // control tokens that replies are taken apart by
  bool thinks = false;
  bool calls_tools = false;
};

/// The tickets of an Ask: those of prompt 0 first, n of each.
struct Generation {
  std::vector<std::shared_ptr<session::Ticket>> tickets;
  std::vector<std::vector<std::int32_t>> prompts;  // their tokens
  std::vector<std::int64_t> n_prompt;              // and how many
  std::vector<text::ReplyFormat> formats;          // of each prompt's replies
  std::string tools;                               // JSON array, or empty
};

class ServedModel {
 public:
  /// Begins to open it.
  explicit ServedModel(ModelOptions options);
  ServedModel(const ServedModel&) = delete;
  ServedModel& operator=(const ServedModel&) = delete;

  session::Worker& worker() { return worker_; }
  const std::string& id() const { return options_.id; }
  /// Whether it is open, whether it could not be, and whether for want of memory.
  bool opened();
  bool failed();
  bool failed_for_memory();
  /// Throws what opening threw, and a Refusal (503) while it is being opened.
  const ModelFacts& facts();
  /// Queues all of it. Throws kUsage, kTooLong, kUnsupported; a Refusal (503) when the queue is
  /// full or the model not open yet.
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

 private:
  std::vector<std::int32_t> tokens_of(const Ask::Prompt& prompt);
  std::vector<std::int32_t> tokens_of(const Ask& ask, const std::string& rendered);
  void check_queue(std::size_t n_more);
  const ModelOptions options_;
  session::Worker worker_;
  std::mutex mutex_;  // of facts_ until it is there
  std::unique_ptr<const ModelFacts> facts_;
};

}  // namespace kt::serve
