#include "serve/api/openai/responses.h"

#include <cmath>

#include "serve/api/openai/responses_codec.h"
#include "serve/api/openai/responses_request.h"

namespace kt::serve::openai {
namespace {

// 0.8f is 0.8 to people, and 0.800000011920929 as a double.
double plain(float value) { return std::round(static_cast<double>(value) * 1e6) / 1e6; }

// What a response repeats of its request, with what holds where that says nothing.
Json echo(const Fields& fields, const Ask& ask) {
  const auto or_null = [&](const char* key) {
    const Json* value = fields.find(key);
    return value == nullptr ? Json() : *value;
  };
  const auto or_else = [&](const char* key, Json other) {
    const Json* value = fields.find(key);
    return value == nullptr ? other : *value;
  };
  return {{"instructions", or_null("instructions")},
          {"max_output_tokens", or_null("max_output_tokens")},
          {"metadata", or_else("metadata", Json::object())},
          {"parallel_tool_calls", or_else("parallel_tool_calls", true)},
          {"reasoning", or_else("reasoning", {{"effort", nullptr}, {"summary", nullptr}})},
          {"temperature", plain(ask.sampling.temperature)},
          {"text", or_else("text", {{"format", {{"type", "text"}}}})},
          {"tool_choice", or_else("tool_choice", "auto")},
          {"tools", or_else("tools", Json::array())},
          {"top_p", plain(ask.sampling.top_p)},
          {"user", or_null("user")}};
}

}  // namespace

Answer respond(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const NamedModel model = service.models().get(fields.text("model").value_or(""));
  Ask ask;
  read_response_sampling(fields, model.facts(), &ask);
  read_response_input(fields, model.facts(), &ask);
  ResponseOptions options;
  options.model = model.id();
  options.stream = fields.flag("stream").value_or(false);
  options.echo = echo(fields, ask);
  return service.reply(request, model.lease(), model.generate(ask),
                       make_response_codec(std::move(options)));
}

Answer count_response_input(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const NamedModel model = service.models().get(fields.text("model").value_or(""));
  Ask ask;
  read_response_input(fields, model.facts(), &ask);
  return json_reply(
      {{"object", "response.input_tokens"}, {"input_tokens", model.tokenize_chat(ask).size()}});
}

}  // namespace kt::serve::openai
