#include "serve/api/ollama/handlers.h"

#include "base/error.h"
#include "serve/api/ollama/codec.h"
#include "serve/api/ollama/models.h"
#include "serve/api/ollama/request.h"

namespace kt::serve::ollama {
namespace {

// The version of the protocol that is spoken here; clients want numbers.
constexpr const char* kVersion = "0.12.0";

http::Reply reply_json(const Json& json) {
  http::Reply reply = json_reply(json);
  reply.head.content_type = kJsonType;
  return reply;
}

ServedModel& find_model(Service& service, const std::string& name) {
  ServedModel& model = service.only_model();
  if (same_name(name, model.facts().id)) return model;
  Problem problem{404, fmt::format("model '{}' not found", name)};
  problem.code = "model_not_found";
  throw Refusal(std::move(problem));
}

// A request without a prompt only loads or unloads. The one model stays where it is.
http::Reply nothing_to_do(const Fields& fields, bool chat, const std::string& name) {
  const bool unload = read_keep_alive(fields).value_or(-1) == 0;
  return reply_json(empty_reply(chat, name, unload ? "unload" : "load"));
}

CodecOptions codec_options(const Fields& fields, const std::string& name, ServedModel& model) {
  CodecOptions options;
  options.model = name;
  options.stream = fields.flag("stream").value_or(true);
  options.logprobs = fields.flag("logprobs").value_or(false);
  if (fields.whole("top_logprobs", 0, 20).value_or(0) > 0)
    fail(ErrorCode::kUnsupported, "top_logprobs", "only the token that was taken is told");
  options.token_bytes = [&model](std::int32_t token) { return model.token_bytes(token); };
  return options;
}

void read_common(const Fields& fields, const ModelFacts& facts, const std::string& name, Ask* ask) {
  read_keep_alive(fields);
  read_options(fields, facts, ask);
  read_format(fields, ask);
  read_think(fields, facts, name, ask);
}

}  // namespace

Answer root(Service&, const http::Request& request) {
  // Browsers ask for a page; there is none yet.
  if (request.header("accept").find("text/html") != std::string_view::npos)
    throw Refusal({404, "there is no page here; the API is at /v1 and /api"});
  http::Reply reply;
  reply.head.content_type = "text/plain; charset=utf-8";
  reply.body = "Ollama is running";
  return reply;
}

Answer version(Service&, const http::Request&) { return reply_json({{"version", kVersion}}); }

Answer tags(Service& service, const http::Request&) {
  return reply_json({{"models", Json::array({tag_json(service.only_model())})}});
}

Answer ps(Service& service, const http::Request&) {
  return reply_json({{"models", Json::array({loaded_json(service.only_model())})}});
}

Answer show(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  return reply_json(show_json(find_model(service, read_name(Fields(body)))));
}

Answer generate(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const std::string name = read_name(fields);
  ServedModel& model = find_model(service, name);
  Ask ask;
  read_common(fields, model.facts(), name, &ask);
  if (!read_prompt(fields, model.facts(), name, &ask)) return nothing_to_do(fields, false, name);
  // Marks of the template that a raw prompt spells out count as such.
  for (Ask::Prompt& prompt : ask.prompts)
    prompt = {{}, model.tokenize(prompt.text, true, true), true};
  CodecOptions options = codec_options(fields, name, model);
  options.chat = false;
  Generation generation = model.generate(ask);
  if (!ask.messages.is_null()) options.context = std::move(generation.prompts[0]);
  return service.reply(request, std::move(generation), make_codec(std::move(options)));
}

Answer chat(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const std::string name = read_name(fields);
  ServedModel& model = find_model(service, name);
  Ask ask;
  read_common(fields, model.facts(), name, &ask);
  read_tools(fields, model.facts(), name, &ask);
  ask.messages = read_messages(fields);
  if (ask.messages.empty()) return nothing_to_do(fields, true, name);
  if (model.facts().chat_template.empty()) {
    fail(ErrorCode::kUnsupported, {}, "\"{}\" does not support chat; it has no chat template",
         name);
  }
  CodecOptions options = codec_options(fields, name, model);
  return service.reply(request, model.generate(ask), make_codec(std::move(options)));
}

Answer embed(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const std::string name = read_name(Fields(body));
  find_model(service, name);
  fail(ErrorCode::kUnsupported, {}, "\"{}\" does not support embeddings here yet", name);
}

Answer pull(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const std::string name = read_name(fields);
  if (!same_name(name, service.only_model().facts().id))
    fail(ErrorCode::kUnsupported, {}, "pull models with kt pull {}", name);
  // It is here; nothing needs to be fetched.
  http::Reply reply = reply_json({{"status", "success"}});
  if (fields.flag("stream").value_or(true)) {
    reply.head.content_type = "application/x-ndjson";
    reply.body += "\n";
  }
  return reply;
}

Answer manage(Service&, const http::Request& request) {
  fail(ErrorCode::kUnsupported, {},
       "{} is not supported: kt serve serves the model it was started with, and its files stay as "
       "they are",
       request.path);
}

Answer find_blob(Service&, const http::Request&) { throw Refusal({404, "blob not found"}); }

}  // namespace kt::serve::ollama
