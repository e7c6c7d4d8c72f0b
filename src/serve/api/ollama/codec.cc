#include "serve/api/ollama/codec.h"

#include <algorithm>

#include "serve/api/ollama/times.h"
#include "serve/arguments.h"

namespace kt::serve::ollama {
namespace {

using text::ReplyEvent;

Json call_json(std::size_t index, const ToolCall& call) {
  return {
      {"id", call.id},
      {"function",
       {{"index", index}, {"name", call.name}, {"arguments", arguments_object(call.arguments)}}}};
}

class ReplyCodec : public Codec {
 public:
  explicit ReplyCodec(CodecOptions options) : options_(std::move(options)) {}

  bool streams() const override { return options_.stream; }

  http::Head head() const override {
    http::Head head;
    head.content_type = options_.stream ? "application/x-ndjson" : kJsonType;
    return head;
  }

  void begin(std::size_t, std::string&) override {}

  void event(std::size_t, const ReplyEvent& event, const std::vector<engine::SampledToken>& tokens,
             std::string& out) override {
    switch (event.kind) {
      case ReplyEvent::Kind::kContent:
        if (event.text.empty() && (!options_.logprobs || tokens.empty())) return;
        line(piece(event.text, {}), tokens, out);
        break;
      case ReplyEvent::Kind::kReasoning: line(piece({}, event.text), tokens, out); break;
      case ReplyEvent::Kind::kCallBegin: calls_.push_back({event.id, event.text, {}}); break;
      case ReplyEvent::Kind::kCallArguments: calls_.back().arguments += event.text; break;
      case ReplyEvent::Kind::kCallEnd:
        while (n_sent_ <= static_cast<std::size_t>(event.index)) send_call(out);
        break;
    }
  }

  void end_choice(std::size_t, const Choice& choice, std::string& out) override {
    while (n_sent_ < calls_.size() && call_complete(choice, n_sent_)) send_call(out);
  }

  void end(const std::vector<Choice>& choices, const Usage& usage, std::string& out) override {
    Json object = piece({}, {});
    finish(choices[0], usage, &object);
    out += wire(object) + "\n";
  }

  void fail(const Problem& problem, std::string& out) override {
    out += problem_json(Protocol::kOllama, problem) + "\n";
  }

  std::string whole(const std::vector<Choice>& choices, const Usage& usage) override {
    const Choice& choice = choices[0];
    Json object = piece(choice.content, choice.reasoning);
    for (std::size_t i = 0; i < choice.calls.size() && options_.chat; ++i) {
      if (call_complete(choice, i))
        object["message"]["tool_calls"].push_back(call_json(i, choice.calls[i]));
    }
    if (options_.logprobs) object["logprobs"] = logprobs(choice.tokens);
    finish(choice, usage, &object);
    return wire(object);
  }

 private:
  Json piece(const std::string& content, const std::string& thinking) const {
    Json object = {{"model", options_.model}, {"created_at", time_text()}};
    Json text = options_.chat ? Json{{"role", "assistant"}, {"content", content}} : Json();
    Json& target = options_.chat ? text : object;
    if (!options_.chat) target["response"] = content;
    if (!thinking.empty()) target["thinking"] = thinking;
    if (options_.chat) object["message"] = std::move(text);
    object["done"] = false;
    return object;
  }

  void line(Json object, const std::vector<engine::SampledToken>& tokens, std::string& out) const {
    if (options_.logprobs && !tokens.empty()) object["logprobs"] = logprobs(tokens);
    out += wire(object) + "\n";
  }

  void send_call(std::string& out) {
    Json object = piece({}, {});
    object["message"]["tool_calls"] = Json::array({call_json(n_sent_, calls_[n_sent_])});
    ++n_sent_;
    out += wire(object) + "\n";
  }

  void finish(const Choice& choice, const Usage& usage, Json* object) const {
    Json& o = *object;
    o["done"] = true;
    o["done_reason"] = choice.finish == Finish::kLength ? "length" : "stop";
    if (!options_.context.empty()) {
      o["context"] = options_.context;
      for (const engine::SampledToken& token : choice.tokens) o["context"].push_back(token.id);
    }
    // The model is there already; what is neither prefill nor decoding was waiting for its turn.
    const double waited = usage.total_seconds - usage.prefill_seconds - usage.decode_seconds;
    o["total_duration"] = nanoseconds(usage.total_seconds);
    o["load_duration"] = nanoseconds(std::max(waited, 0.0));
    o["prompt_eval_count"] = usage.n_prompt;
    o["prompt_eval_duration"] = nanoseconds(usage.prefill_seconds);
    o["eval_count"] = usage.n_generated;
    o["eval_duration"] = nanoseconds(usage.decode_seconds);
  }

  Json logprobs(const std::vector<engine::SampledToken>& tokens) const {
    Json list = Json::array();
    for (const engine::SampledToken& token : tokens) {
      const std::string bytes = options_.token_bytes(token.id);
      Json numbers = Json::array();
      for (const char c : bytes) numbers.push_back(static_cast<unsigned char>(c));
      list.push_back({{"token", bytes}, {"logprob", token.logprob}, {"bytes", std::move(numbers)}});
    }
    return list;
  }

  const CodecOptions options_;
  std::vector<ToolCall> calls_;  // streaming
  std::size_t n_sent_ = 0;       // of them
};

}  // namespace

std::unique_ptr<Codec> make_codec(CodecOptions options) {
  return std::make_unique<ReplyCodec>(std::move(options));
}

Json empty_reply(bool chat, const std::string& model, const char* reason) {
  Json object = {{"model", model}, {"created_at", time_text()}};
  if (chat) {
    object["message"] = {{"role", "assistant"}, {"content", ""}};
  } else {
    object["response"] = "";
  }
  object["done"] = true;
  object["done_reason"] = reason;
  return object;
}

}  // namespace kt::serve::ollama
