#include "serve/api/openai/responses_codec.h"

#include <fmt/format.h>

#include <ctime>
#include <optional>

#include "serve/arguments.h"
#include "serve/ids.h"

namespace kt::serve::openai {
namespace {

using text::ReplyEvent;
using Kind = ReplyEvent::Kind;

Json text_part(const std::string& text) {
  return {{"type", "output_text"},
          {"annotations", Json::array()},
          {"logprobs", Json::array()},
          {"text", text}};
}

Json reasoning_part(const std::string& text) {
  return {{"type", "reasoning_text"}, {"text", text}};
}

Json usage_json(const Usage& usage) {
  return {{"input_tokens", usage.n_prompt},
          {"input_tokens_details", {{"cached_tokens", usage.n_cached}, {"cache_write_tokens", 0}}},
          {"output_tokens", usage.n_generated},
          {"output_tokens_details", {{"reasoning_tokens", usage.n_reasoning}}},
          {"total_tokens", usage.n_prompt + usage.n_generated}};
}

Json new_item(Kind kind, const std::string& call_id, const std::string& name) {
  switch (kind) {
    case Kind::kReasoning:
      return {{"id", make_id("rs_")},
              {"type", "reasoning"},
              {"status", "in_progress"},
              {"summary", Json::array()},
              {"content", Json::array()}};
    case Kind::kCallBegin:
      return {{"id", make_id("fc_")},
              {"type", "function_call"},
              {"status", "in_progress"},
              {"call_id", call_id},
              {"name", name},
              {"arguments", ""}};
    default:
      return {{"id", make_id("msg_")},
              {"type", "message"},
              {"status", "in_progress"},
              {"role", "assistant"},
              {"content", Json::array()}};
  }
}

// Fills in what the item came to.
void complete(Kind kind, const std::string& text, bool whole, Json* item) {
  (*item)["status"] = whole ? "completed" : "incomplete";
  if (kind == Kind::kCallBegin) {
    (*item)["arguments"] = text;
  } else {
    (*item)["content"].push_back(kind == Kind::kReasoning ? reasoning_part(text) : text_part(text));
  }
}

class ResponseCodec : public Codec {
 public:
  explicit ResponseCodec(ResponseOptions options)
      : options_(std::move(options)), id_(make_id("resp_")), created_(std::time(nullptr)) {}

  bool streams() const override { return options_.stream; }

  http::Head head() const override { return event_stream_head(options_.stream); }

  std::string_view keep_alive() const override { return ": keep-alive\n\n"; }

  void begin(std::size_t, std::string& out) override {
    send("response.created", {{"response", response("in_progress")}}, out);
    send("response.in_progress", {{"response", response("in_progress")}}, out);
  }

  void event(std::size_t, const ReplyEvent& event, const std::vector<engine::SampledToken>&,
             std::string& out) override {
    switch (event.kind) {
      case Kind::kContent:
      case Kind::kReasoning:
        if (event.text.empty()) return;
        if (!open_ || *open_ != event.kind) open(event, out);
        delta(event.text, out);
        break;
      case Kind::kCallBegin: open(event, out); break;
      case Kind::kCallArguments:
        if (!event.text.empty()) delta(event.text, out);
        break;
      case Kind::kCallEnd: close(true, out); break;
    }
  }

  void end_choice(std::size_t, const Choice& choice, std::string& out) override {
    close(choice.finish != Finish::kLength, out);
  }

  void end(const std::vector<Choice>& choices, const Usage& usage, std::string& out) override {
    const Json object = ended(choices[0], usage);
    send("response." + object["status"].get<std::string>(), {{"response", object}}, out);
  }

  void fail(const Problem& problem, std::string& out) override {
    Json object = response("failed");
    object["error"] = {{"code", "server_error"}, {"message", problem.message}};
    send("response.failed", {{"response", std::move(object)}}, out);
  }

  std::string whole(const std::vector<Choice>& choices, const Usage& usage) override {
    const Choice& choice = choices[0];
    const bool cut = choice.finish == Finish::kLength;
    const bool only_reasoning = choice.content.empty() && choice.calls.empty();
    if (!choice.reasoning.empty()) add(Kind::kReasoning, choice.reasoning, !cut || !only_reasoning);
    if (!choice.content.empty()) add(Kind::kContent, choice.content, !cut || !choice.calls.empty());
    for (std::size_t i = 0; i < choice.calls.size(); ++i) {
      Json item = new_item(Kind::kCallBegin, choice.calls[i].id, choice.calls[i].name);
      complete(Kind::kCallBegin, choice.calls[i].arguments, call_complete(choice, i), &item);
      output_.push_back(std::move(item));
    }
    return wire(ended(choice, usage));
  }

 private:
  Json response(const char* status) const {
    Json object = {{"id", id_},
                   {"object", "response"},
                   {"created_at", created_},
                   {"status", status},
                   {"error", nullptr},
                   {"incomplete_details", nullptr},
                   {"model", options_.model},
                   {"output", output_},
                   {"previous_response_id", nullptr},
                   {"store", false},
                   {"truncation", "disabled"},
                   {"usage", nullptr}};
    object.update(options_.echo);
    return object;
  }

  Json ended(const Choice& choice, const Usage& usage) const {
    const bool cut = choice.finish == Finish::kLength;
    Json object = response(cut ? "incomplete" : "completed");
    if (cut) object["incomplete_details"] = {{"reason", "max_output_tokens"}};
    if (!cut) object["completed_at"] = std::time(nullptr);
    object["usage"] = usage_json(usage);
    return object;
  }

  void send(const std::string& type, const Json& fields, std::string& out) {
    Json event = {{"type", type}, {"sequence_number", sequence_++}};
    event.update(fields);
    out += fmt::format("event: {}\ndata: {}\n\n", type, wire(event));
  }

  // An event of the open item; `part`: of its one part of content.
  void send_of_item(const char* type, Json fields, bool part, std::string& out) {
    Json event = {{"item_id", item_["id"]}, {"output_index", output_.size()}};
    if (part) event["content_index"] = 0;
    event.update(fields);
    send(type, event, out);
  }

  void open(const ReplyEvent& event, std::string& out) {
    close(true, out);
    open_ = event.kind;
    item_ = new_item(event.kind, event.id, event.text);
    text_.clear();
    send("response.output_item.added", {{"output_index", output_.size()}, {"item", item_}}, out);
    if (event.kind == Kind::kCallBegin) return;
    Json part = event.kind == Kind::kReasoning ? reasoning_part({}) : text_part({});
    send_of_item("response.content_part.added", {{"part", std::move(part)}}, true, out);
  }

  void delta(const std::string& text, std::string& out) {
    text_ += text;
    switch (*open_) {
      case Kind::kReasoning:
        send_of_item("response.reasoning_text.delta", {{"delta", text}}, true, out);
        break;
      case Kind::kCallBegin:
        send_of_item("response.function_call_arguments.delta", {{"delta", text}}, false, out);
        break;
      default:
        send_of_item("response.output_text.delta", {{"delta", text}, {"logprobs", Json::array()}},
                     true, out);
    }
  }

  void close(bool whole, std::string& out) {
    if (!open_) return;
    complete(*open_, text_, whole, &item_);
    if (*open_ == Kind::kCallBegin) {
      send_of_item("response.function_call_arguments.done",
                   {{"name", item_["name"]}, {"arguments", text_}}, false, out);
    } else {
      const bool reasons = *open_ == Kind::kReasoning;
      Json done = {{"text", text_}};
      if (!reasons) done["logprobs"] = Json::array();
      send_of_item(reasons ? "response.reasoning_text.done" : "response.output_text.done",
                   std::move(done), true, out);
      send_of_item("response.content_part.done", {{"part", item_["content"][0]}}, true, out);
    }
    send("response.output_item.done", {{"output_index", output_.size()}, {"item", item_}}, out);
    output_.push_back(std::move(item_));
    open_.reset();
  }

  void add(Kind kind, const std::string& text, bool whole) {
    Json item = new_item(kind, {}, {});
    complete(kind, text, whole, &item);
    output_.push_back(std::move(item));
  }

  const ResponseOptions options_;
  const std::string id_;
  const std::time_t created_;
  int sequence_ = 0;
  Json output_ = Json::array();  // items that are complete
  std::optional<Kind> open_;     // what item_ is, while it is open
  Json item_;
  std::string text_;  // of item_ so far
};

}  // namespace

std::unique_ptr<Codec> make_response_codec(ResponseOptions options) {
  return std::make_unique<ResponseCodec>(std::move(options));
}

}  // namespace kt::serve::openai
