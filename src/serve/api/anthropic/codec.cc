#include "serve/api/anthropic/codec.h"

#include <fmt/format.h>

#include <optional>

#include "serve/arguments.h"
#include "serve/ids.h"

namespace kt::serve::anthropic {
namespace {

using text::ReplyEvent;
using Kind = ReplyEvent::Kind;

Json stop_reason(const Choice& choice) {
  if (choice.finish == Finish::kLength) return "max_tokens";
  if (choice.finish == Finish::kToolCalls) return "tool_use";
  return choice.stop_string.empty() ? "end_turn" : "stop_sequence";
}

Json stop_sequence(const Choice& choice) {
  return stop_reason(choice) == "stop_sequence" ? Json(choice.stop_string) : Json();
}

// Tokens from the cache are not counted with the others.
Json usage_json(const Usage& usage) {
  return {{"input_tokens", usage.n_prompt - usage.n_cached},
          {"cache_creation_input_tokens", 0},
          {"cache_read_input_tokens", usage.n_cached},
          {"output_tokens", usage.n_generated},
          {"output_tokens_details", {{"thinking_tokens", usage.n_reasoning}}}};
}

Json thinking_block(const std::string& thinking) {
  return {{"type", "thinking"}, {"thinking", thinking}, {"signature", ""}};
}

class MessageCodec : public Codec {
 public:
  explicit MessageCodec(CodecOptions options)
      : options_(std::move(options)), id_(make_id("msg_")) {}

  bool streams() const override { return options_.stream; }

  http::Head head() const override { return event_stream_head(options_.stream); }

  std::string_view keep_alive() const override {
    return "event: ping\ndata: {\"type\":\"ping\"}\n\n";
  }

  void begin(std::size_t, std::string& out) override {
    // What the cache holds of the prompt shows at the end only.
    Usage usage;
    usage.n_prompt = options_.n_prompt;
    send("message_start", {{"message", message(Json::array(), nullptr, nullptr, usage)}}, out);
  }

  void event(std::size_t, const ReplyEvent& event, const std::vector<engine::SampledToken>&,
             std::string& out) override {
    switch (event.kind) {
      case Kind::kContent:
        if (event.text.empty()) return;
        if (!open_ || *open_ != Kind::kContent)
          open(Kind::kContent, {{"type", "text"}, {"text", ""}}, out);
        delta({{"type", "text_delta"}, {"text", event.text}}, out);
        break;
      case Kind::kReasoning:
        if (event.text.empty()) return;
        if (!open_ || *open_ != Kind::kReasoning) open(Kind::kReasoning, thinking_block({}), out);
        if (!options_.show_thinking) return;
        delta({{"type", "thinking_delta"}, {"thinking", event.text}}, out);
        break;
      case Kind::kCallBegin:
        open(Kind::kCallBegin,
             {{"type", "tool_use"},
              {"id", event.id},
              {"name", event.text},
              {"input", Json::object()}},
             out);
        break;
      case Kind::kCallArguments:
        if (event.text.empty()) return;
        delta({{"type", "input_json_delta"}, {"partial_json", event.text}}, out);
        break;
      case Kind::kCallEnd: close(out); break;
    }
  }

  void end_choice(std::size_t, const Choice&, std::string& out) override { close(out); }

  void end(const std::vector<Choice>& choices, const Usage& usage, std::string& out) override {
    send(
        "message_delta",
        {{"delta",
          {{"stop_reason", stop_reason(choices[0])}, {"stop_sequence", stop_sequence(choices[0])}}},
         {"usage", usage_json(usage)}},
        out);
    send("message_stop", Json::object(), out);
  }

  void fail(const Problem& problem, std::string& out) override {
    out += "event: error\ndata: " + problem_json(Protocol::kAnthropic, problem) + "\n\n";
  }

  std::string whole(const std::vector<Choice>& choices, const Usage& usage) override {
    const Choice& choice = choices[0];
    Json content = Json::array();
    if (!choice.reasoning.empty())
      content.push_back(thinking_block(options_.show_thinking ? choice.reasoning : ""));
    if (!choice.content.empty()) content.push_back({{"type", "text"}, {"text", choice.content}});
    for (std::size_t i = 0; i < choice.calls.size(); ++i) {
      const ToolCall& call = choice.calls[i];
      if (!call_complete(choice, i)) continue;
      content.push_back({{"type", "tool_use"},
                         {"id", call.id},
                         {"name", call.name},
                         {"input", arguments_object(call.arguments)}});
    }
    return wire(message(std::move(content), stop_reason(choice), stop_sequence(choice), usage));
  }

 private:
  Json message(Json content, Json reason, Json sequence, const Usage& usage) const {
    return {{"id", id_},
            {"type", "message"},
            {"role", "assistant"},
            {"model", options_.model},
            {"content", std::move(content)},
            {"stop_reason", std::move(reason)},
            {"stop_sequence", std::move(sequence)},
            {"usage", usage_json(usage)}};
  }

  static void send(const char* type, const Json& fields, std::string& out) {
    Json event = {{"type", type}};
    event.update(fields);
    out += fmt::format("event: {}\ndata: {}\n\n", type, wire(event));
  }

  void open(Kind kind, Json block, std::string& out) {
    close(out);
    open_ = kind;
    send("content_block_start", {{"index", index_}, {"content_block", std::move(block)}}, out);
  }

  void delta(Json delta, std::string& out) const {
    send("content_block_delta", {{"index", index_}, {"delta", std::move(delta)}}, out);
  }

  void close(std::string& out) {
    if (!open_) return;
    if (*open_ == Kind::kReasoning) delta({{"type", "signature_delta"}, {"signature", ""}}, out);
    send("content_block_stop", {{"index", index_++}}, out);
    open_.reset();
  }

  const CodecOptions options_;
  const std::string id_;
  std::optional<Kind> open_;  // the block that is open
  int index_ = 0;             // its number, or that of the next
};

}  // namespace

std::unique_ptr<Codec> make_codec(CodecOptions options) {
  return std::make_unique<MessageCodec>(std::move(options));
}

}  // namespace kt::serve::anthropic
