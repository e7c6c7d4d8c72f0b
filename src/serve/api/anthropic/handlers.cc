#include "serve/api/anthropic/handlers.h"

#include "serve/api/anthropic/codec.h"
#include "serve/api/anthropic/request.h"

namespace kt::serve::anthropic {
namespace {

NamedModel find_model(Service& service, const Fields& fields) {
  const auto name = fields.text("model");
  if (!name || name->empty()) fields.refuse("model", "a string");
  return service.models().get(*name);
}

}  // namespace

Answer messages(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const NamedModel model = find_model(service, fields);
  Ask ask;
  read_sampling(fields, model.facts(), &ask);
  read_conversation(fields, model.facts(), &ask);
  CodecOptions options;
  options.model = model.id();
  options.show_thinking = shows_thinking(fields);
  options.stream = fields.flag("stream").value_or(false);
  Generation generation = model.generate(ask);
  options.n_prompt = generation.n_prompt[0];
  return service.reply(request, model.lease(), std::move(generation),
                       make_codec(std::move(options)));
}

Answer count_tokens(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const NamedModel model = find_model(service, fields);
  Ask ask;
  read_conversation(fields, model.facts(), &ask);
  return json_reply({{"input_tokens", model.tokenize_chat(ask).size()}});
}

}  // namespace kt::serve::anthropic
