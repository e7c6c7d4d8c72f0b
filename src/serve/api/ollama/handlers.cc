#include "serve/api/ollama/handlers.h"

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "serve/api/ollama/codec.h"
#include "serve/api/ollama/models.h"
#include "serve/api/ollama/request.h"
#include "serve/api/page/handlers.h"
#include "serve/embedding.h"

namespace kt::serve::ollama {
namespace {

// The version of the protocol that is spoken here; clients want numbers.
constexpr const char* kVersion = "0.12.0";

http::Reply reply_json(const Json& json) {
  http::Reply reply = json_reply(json);
  reply.head.content_type = kJsonType;
  return reply;
}

// Names are Ollama's: the model's own message says what there is.
NamedModel find_model(Service& service, const Fields& fields) {
  const std::string name = read_name(fields);
  NamedModel model = service.models().get(name);
  if (const auto seconds = read_keep_alive(fields)) {
    const double longest = 1e9;
    service.models().keep(name, *seconds < 0 || *seconds > longest
                                    ? Models::kForever
                                    : Models::Duration(static_cast<std::int64_t>(*seconds * 1e3)));
  }
  return model;
}

// A request without a prompt only loads or unloads.
http::Reply nothing_to_do(const Fields& fields, bool chat, const std::string& name) {
  const bool unload = read_keep_alive(fields).value_or(-1) == 0;
  return reply_json(empty_reply(chat, name, unload ? "unload" : "load"));
}

CodecOptions codec_options(const Fields& fields, const std::string& name, const NamedModel& model) {
  CodecOptions options;
  options.model = name;
  options.stream = fields.flag("stream").value_or(true);
  options.logprobs = fields.flag("logprobs").value_or(false);
  if (fields.whole("top_logprobs", 0, 20).value_or(0) > 0)
    fail(ErrorCode::kUnsupported, "top_logprobs", "only the token that was taken is told");
  options.token_bytes = [model](std::int32_t token) { return model.token_bytes(token); };
  return options;
}

void read_common(const Fields& fields, const ModelFacts& facts, const std::string& name, Ask* ask) {
  read_options(fields, facts, ask);
  ask->logprobs = fields.flag("logprobs").value_or(false);
  read_format(fields, ask);
  read_think(fields, facts, name, ask);
}

}  // namespace

Answer root(Service& service, const http::Request& request) {
  if (request.header("accept").find("text/html") != std::string_view::npos)
    return page::file(service, request);
  http::Reply reply;
  reply.head.content_type = "text/plain; charset=utf-8";
  reply.body = "Ollama is running";
  return reply;
}

Answer version(Service&, const http::Request&) { return reply_json({{"version", kVersion}}); }

Answer tags(Service& service, const http::Request&) {
  Json all = Json::array();
  for (const Models::State& state : service.models().list()) all.push_back(tag_json(state));
  return reply_json({{"models", std::move(all)}});
}

Answer ps(Service& service, const http::Request&) {
  Json all = Json::array();
  const ServedModel* last = nullptr;  // one of several names is enough
  for (const Models::State& state : service.models().list()) {
    if (!state.is(ServedModel::State::kOpen) || state.model.get() == last) continue;
    last = state.model.get();
    all.push_back(loaded_json(state));
  }
  return reply_json({{"models", std::move(all)}});
}

Answer show(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  return reply_json(show_json(*service.models().facts(read_name(Fields(body)))));
}

Answer generate(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const std::string name = read_name(fields);
  const NamedModel model = find_model(service, fields);
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
  return service.reply(request, model.lease(), std::move(generation),
                       make_codec(std::move(options)));
}

Answer chat(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const std::string name = read_name(fields);
  const NamedModel model = find_model(service, fields);
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
  return service.reply(request, model.lease(), model.generate(ask), make_codec(std::move(options)));
}

Answer embed(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const NamedModel model = find_model(service, fields);
  const bool old = request.path == "/api/embeddings";
  Ask ask;
  for (std::string& text : fields.texts(old ? "prompt" : "input", 1024))
    ask.prompts.push_back({std::move(text), {}, false});
  const std::int64_t dimensions = fields.whole("dimensions", 1, model.facts().d_model).value_or(0);
  const auto job = std::make_shared<Embedding>(model.prompt_tokens(ask.prompts), dimensions);
  const auto make = [job, old, name = read_name(fields), start = std::chrono::steady_clock::now()] {
    const auto& vectors = job->vectors;
    if (old) return reply_json({{"embedding", vectors.empty() ? Json::array() : Json(vectors[0])}});
    const auto time = std::chrono::steady_clock::now() - start;
    return reply_json(
        {{"model", name},
         {"embeddings", vectors},
         {"total_duration", std::chrono::duration_cast<std::chrono::nanoseconds>(time).count()},
         {"load_duration", 0},
         {"prompt_eval_count", job->n_tokens()}});
  };
  return service.in_parts(
      request, model.lease(), [job](session::Session& session) { return job->step(session); },
      make);
}

Answer find_blob(Service&, const http::Request&) { throw Refusal({404, "blob not found"}); }

}  // namespace kt::serve::ollama
