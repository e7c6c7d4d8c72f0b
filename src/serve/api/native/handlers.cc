#include "serve/api/native/handlers.h"

#include "base/error.h"
#include "serve/api/openai/request.h"

namespace kt::serve::native {
namespace {

Json sampling_json(const engine::SamplingParams& p) {
  return {{"temperature", p.temperature},
          {"top_k", p.top_k},
          {"top_p", p.top_p},
          {"min_p", p.min_p},
          {"typical_p", p.typical_p},
          {"repeat_penalty", p.repetition_penalty},
          {"repeat_last_n", p.repeat_last_n},
          {"presence_penalty", p.presence_penalty},
          {"frequency_penalty", p.frequency_penalty},
          {"max_tokens", -1},
          {"seed", -1}};
}

std::vector<std::int32_t> token_list(const Fields& fields) {
  const Json* list = fields.find("tokens");
  if (list == nullptr || !list->is_array()) fields.refuse("tokens", "an array of token ids");
  std::vector<std::int32_t> tokens;
  for (const Json& id : *list) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 ||
        id.get<std::int64_t>() > INT32_MAX) {
      fields.refuse("tokens", "an array of token ids");
    }
    tokens.push_back(id.get<std::int32_t>());
  }
  return tokens;
}

}  // namespace

// The first model, none of these opens. Once it was open it may be closed for a while to make room.
Answer health(Service& service, const http::Request&) {
  const auto model = service.models().peek({});
  if (model != nullptr) model->facts();  // throws while it is being opened, or why it is not
  return json_reply({{"status", "ok"}});
}

Answer metrics(Service& service, const http::Request&) {
  const Models::State first = service.models().state({});
  const auto load = first.model != nullptr ? first.model->worker().load() : session::Worker::Load{};
  http::Reply reply;
  reply.head.content_type = "text/plain; version=0.0.4; charset=utf-8";
  reply.body = service.write_metrics(first.id, load);
  return reply;
}

Answer props(Service& service, const http::Request&) {
  const auto shared = service.models().facts({});
  const ModelFacts& facts = *shared;
  return json_reply({{"model", facts.id},
                     {"model_alias", facts.id},
                     {"model_path", facts.path},
                     {"build", KT_VERSION},
                     {"build_info", "kt " KT_VERSION},
                     {"n_ctx", facts.context},
                     {"default_generation_settings", sampling_json(facts.defaults.sampling)},
                     {"chat_template", facts.chat_template},
                     {"capabilities", {{"thinking", facts.thinks}, {"tools", facts.calls_tools}}}});
}

Answer slots(Service& service, const http::Request&) {
  const auto model = service.models().peek({});
  const auto load = model != nullptr ? model->worker().load() : session::Worker::Load{};
  return json_reply(
      {{"running", load.n_running}, {"waiting", load.n_waiting}, {"cache_used", load.cache_used}});
}

Answer placement(Service& service, const http::Request& request) {
  const auto model = service.models().peek({});
  if (model == nullptr) throw Refusal({503, "the model is closed; a request opens it"});
  model->facts();
  const auto make = [model](session::Session& session) {
    Json modules = Json::array();
    for (const session::ModuleUse& use : model->worker().modules(session)) {
      modules.push_back({{"path", use.row.path},
                         {"operator", use.row.op},
                         {"device", use.row.device},
                         {"format", use.row.format},
                         {"bytes", use.row.bytes},
                         {"reason", use.row.reason},
                         {"share", use.share < 0 ? Json() : Json(use.share)}});
    }
    return json_reply({{"modules", std::move(modules)}});
  };
  return service.between_steps(request, model, make);
}

Answer tokenize(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const NamedModel model = service.models().get(fields.text("model").value_or(""));
  const auto text = fields.text(fields.find("content") != nullptr ? "content" : "prompt");
  if (!text) fields.refuse("content", "a string");
  const char* special =
      fields.find("add_special") != nullptr ? "add_special" : "add_special_tokens";
  const std::vector<std::int32_t> tokens = model.tokenize(
      *text, fields.flag(special).value_or(false), fields.flag("parse_special").value_or(true));
  Json reply = {
      {"tokens", tokens}, {"count", tokens.size()}, {"max_model_len", model.facts().context}};
  if (!fields.flag("with_pieces").value_or(false)) return json_reply(reply);
  Json pieces = Json::array();
  for (const std::int32_t token : tokens)
    pieces.push_back({{"id", token}, {"piece", model.token_bytes(token)}});
  reply["tokens"] = std::move(pieces);
  return json_reply(reply);
}

Answer detokenize(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const NamedModel model = service.models().get(fields.text("model").value_or(""));
  const std::string text = model.detokenize(token_list(fields));
  return json_reply({{"content", text}, {"prompt", text}});
}

Answer apply_template(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const NamedModel model = service.models().get(fields.text("model").value_or(""));
  Ask ask;
  openai::read_conversation(fields, model.facts(), &ask);
  return json_reply({{"prompt", model.render(ask).prompt}});
}

}  // namespace kt::serve::native
