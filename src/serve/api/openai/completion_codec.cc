#include "serve/api/openai/completion_codec.h"

#include <algorithm>
#include <ctime>

#include "base/utf8.h"
#include "serve/ids.h"

namespace kt::serve::openai {
namespace {

using text::ReplyEvent;

const char* finish_name(Finish finish) {
  switch (finish) {
    case Finish::kLength: return "length";
    case Finish::kToolCalls: return "tool_calls";
    case Finish::kStop: break;
  }
  return "stop";
}

Json usage_json(const Usage& usage, bool return_speed) {
  Json json = {{"prompt_tokens", usage.n_prompt},
               {"completion_tokens", usage.n_generated},
               {"total_tokens", usage.n_prompt + usage.n_generated},
               {"prompt_tokens_details", {{"cached_tokens", usage.n_cached}}},
               {"completion_tokens_details", {{"reasoning_tokens", usage.n_reasoning}}}};
  if (return_speed) {
    json["prefill_time"] = usage.prefill_seconds;
    json["decode_time"] = usage.decode_seconds;
  }
  return json;
}

// As llama.cpp's server gives them.
Json timings_json(const Usage& usage) {
  const auto rate = [](std::int64_t n, double seconds) {
    return seconds > 0 ? static_cast<double>(n) / seconds : 0.0;
  };
  const std::int64_t n_prompt = usage.n_prompt - usage.n_cached;
  return {{"cache_n", usage.n_cached},
          {"prompt_n", n_prompt},
          {"prompt_ms", usage.prefill_seconds * 1e3},
          {"prompt_per_second", rate(n_prompt, usage.prefill_seconds)},
          {"predicted_n", usage.n_generated},
          {"predicted_ms", usage.decode_seconds * 1e3},
          {"predicted_per_second", rate(usage.n_decoded, usage.decode_seconds)}};
}

double mean_logprob(const Choice& choice) {
  double sum = 0.0;
  auto n = static_cast<double>(choice.tokens.size());
  for (const engine::SampledToken& token : choice.tokens) sum += double{token.logprob};
  if (choice.stop_token.id >= 0) {
    sum += double{choice.stop_token.logprob};
    n += 1.0;
  }
  return n > 0 ? sum / n : 0.0;
}

class CompletionCodec : public Codec {
 public:
  explicit CompletionCodec(CompletionOptions options)
      : options_(std::move(options)),
        id_(make_id(options_.chat ? "chatcmpl-" : "cmpl-")),
        created_(std::time(nullptr)) {}

  bool streams() const override { return options_.stream; }

  http::Head head() const override { return event_stream_head(options_.stream); }

  std::string_view keep_alive() const override { return ": keep-alive\n\n"; }

  void begin(std::size_t n_choices, std::string& out) override {
    for (std::size_t i = 0; i < n_choices; ++i) {
      if (options_.chat) {
        chunk(i, {{"role", "assistant"}, {"content", nullptr}}, {}, out);
      } else {
        const std::string& echo = echo_of(i);
        logprobs_.emplace_back(options_.texts, count_utf8(echo));
        if (!echo.empty()) chunk(i, Json(echo), {}, out);
      }
    }
  }

  void event(std::size_t choice, const ReplyEvent& event,
             const std::vector<engine::SampledToken>& tokens, std::string& out) override {
    Json delta;
    switch (event.kind) {
      case ReplyEvent::Kind::kContent:
        if (event.text.empty() && (!options_.logprobs || tokens.empty())) return;
        delta = options_.chat ? Json{{"content", event.text}} : Json(event.text);
        break;
      case ReplyEvent::Kind::kReasoning: delta = {{"reasoning_content", event.text}}; break;
      case ReplyEvent::Kind::kCallBegin:
        delta = {{"tool_calls",
                  Json::array({{{"index", event.index},
                                {"id", event.id},
                                {"type", "function"},
                                {"function", {{"name", event.text}, {"arguments", ""}}}}})}};
        break;
      case ReplyEvent::Kind::kCallArguments:
        delta = {{"tool_calls", Json::array({{{"index", event.index},
                                              {"function", {{"arguments", event.text}}}}})}};
        break;
      case ReplyEvent::Kind::kCallEnd: return;
    }
    chunk(choice, delta, tokens, out);
  }

  void end_choice(std::size_t index, const Choice& choice, std::string& out) override {
    Json json = {{"index", index}};
    if (options_.chat) {
      json["delta"] = Json::object();
    } else {
      json["text"] = "";
      json["logprobs"] = nullptr;
    }
    json["finish_reason"] = finish_name(choice.finish);
    send(Json::array({std::move(json)}), out);
  }

  void end(const std::vector<Choice>&, const Usage& usage, std::string& out) override {
    if (options_.include_usage || options_.return_speed) {
      Json object = frame(Json::array());
      object["usage"] = usage_json(usage, options_.return_speed);
      object["timings"] = timings_json(usage);
      out += "data: " + wire(object) + "\n\n";
    }
    out += "data: [DONE]\n\n";
  }

  void fail(const Problem& problem, std::string& out) override {
    out += "data: " + problem_json(Protocol::kOpenAi, problem) + "\n\n";
  }

  std::string whole(const std::vector<Choice>& choices, const Usage& usage) override {
    Json list = Json::array();
    for (const Choice* choice : best(choices)) {
      const std::size_t i = list.size();
      list.push_back(options_.chat ? chat_choice(i, *choice) : text_choice(i, *choice));
    }
    Json object = frame(std::move(list), false);
    object["usage"] = usage_json(usage, options_.return_speed);
    object["timings"] = timings_json(usage);
    return wire(object);
  }

 private:
  const std::string& echo_of(std::size_t index) const {
    static const std::string kNone;
    return options_.echo.empty() ? kNone : options_.echo[index / options_.n];
  }

  // The n likeliest of the replies to each prompt, likeliest first; all, where none is left out.
  std::vector<const Choice*> best(const std::vector<Choice>& choices) const {
    std::vector<const Choice*> all;
    for (const Choice& choice : choices) all.push_back(&choice);
    if (options_.best_of <= options_.n) return all;
    std::vector<const Choice*> kept;
    for (auto begin = all.begin(); begin != all.end();) {
      const auto end = begin + static_cast<std::ptrdiff_t>(options_.best_of);
      std::stable_sort(begin, end, [](const Choice* a, const Choice* b) {
        return mean_logprob(*a) > mean_logprob(*b);
      });
      kept.insert(kept.end(), begin, begin + static_cast<std::ptrdiff_t>(options_.n));
      begin = end;
    }
    return kept;
  }

  Json frame(Json choices, bool chunk = true) const {
    const char* object = !options_.chat ? "text_completion"
                         : chunk        ? "chat.completion.chunk"
                                        : "chat.completion";
    return {{"id", id_},
            {"object", object},
            {"created", created_},
            {"model", options_.model},
            {"system_fingerprint", "kt-" KT_VERSION},
            {"choices", std::move(choices)}};
  }

  void send(Json choices, std::string& out) const {
    Json object = frame(std::move(choices));
    if (options_.include_usage) object["usage"] = nullptr;
    out += "data: " + wire(object) + "\n\n";
  }

  void chunk(std::size_t index, const Json& delta, const std::vector<engine::SampledToken>& tokens,
             std::string& out) {
    Json json = {{"index", index}, {options_.chat ? "delta" : "text", delta}};
    if (options_.logprobs && !tokens.empty()) {
      json["logprobs"] =
          options_.chat ? chat_logprobs(tokens) : text_logprobs(tokens, logprobs_[index]);
    } else if (!options_.chat) {
      json["logprobs"] = nullptr;
    }
    json["finish_reason"] = nullptr;
    send(Json::array({std::move(json)}), out);
  }

  Json chat_choice(std::size_t index, const Choice& choice) const {
    Json message = {{"role", "assistant"}, {"content", choice.content}};
    if (choice.content.empty() && !choice.calls.empty()) message["content"] = nullptr;
    if (!choice.reasoning.empty()) message["reasoning_content"] = choice.reasoning;
    for (const ToolCall& call : choice.calls) {
      message["tool_calls"].push_back(
          {{"id", call.id},
           {"type", "function"},
           {"function", {{"name", call.name}, {"arguments", call.arguments}}}});
    }
    return {{"index", index},
            {"message", std::move(message)},
            {"logprobs", options_.logprobs ? chat_logprobs(choice.tokens) : Json()},
            {"finish_reason", finish_name(choice.finish)}};
  }

  Json text_choice(std::size_t index, const Choice& choice) const {
    const std::string& echo = echo_of(index);
    Json logprobs;
    if (options_.logprobs) {
      TextLogprobs lists(options_.texts);
      if (choice.prompt != nullptr) lists.add_prompt(*choice.prompt, echo);
      for (const engine::SampledToken& token : choice.tokens) lists.add(token);
      // Evaluation harnesses ask for one token behind the prompt and drop the last of the list.
      if (choice.prompt != nullptr && choice.stop_token.id >= 0) lists.add(choice.stop_token);
      logprobs = lists.take();
    }
    return {{"index", index},
            {"text", echo + choice.content},
            {"logprobs", std::move(logprobs)},
            {"finish_reason", finish_name(choice.finish)}};
  }

  Json chat_logprobs(const std::vector<engine::SampledToken>& tokens) const {
    Json content = Json::array();
    for (const engine::SampledToken& token : tokens) {
      Json entry = token_json(token.id, token.logprob);
      entry["top_logprobs"] = Json::array();
      for (const engine::TokenLogprob& top : token.top)
        entry["top_logprobs"].push_back(token_json(top.id, top.logprob));
      content.push_back(std::move(entry));
    }
    return {{"content", std::move(content)}, {"refusal", nullptr}};
  }

  Json token_json(std::int32_t id, float logprob) const {
    const std::string bytes = options_.texts.bytes(id);
    Json list = Json::array();
    for (const char c : bytes) list.push_back(static_cast<unsigned char>(c));
    return {{"token", bytes}, {"logprob", logprob}, {"bytes", std::move(list)}};
  }

  static Json text_logprobs(const std::vector<engine::SampledToken>& tokens, TextLogprobs& lists) {
    for (const engine::SampledToken& token : tokens) lists.add(token);
    return lists.take();
  }

  const CompletionOptions options_;
  std::vector<TextLogprobs> logprobs_;  // of streamed text completions
  const std::string id_;
  const std::time_t created_;
};

}  // namespace

std::unique_ptr<Codec> make_completion_codec(CompletionOptions options) {
  return std::make_unique<CompletionCodec>(std::move(options));
}

}  // namespace kt::serve::openai
