#include "serve/api/openai/handlers.h"

#include "base/error.h"
#include "serve/api/openai/completion_codec.h"
#include "serve/api/openai/request.h"

namespace kt::serve::openai {
namespace {

Json model_json(const Service& service, const Models::State& state) {
  Json json = {{"id", state.id},
               {"object", "model"},
               {"created", service.started()},
               {"owned_by", "ktransformers"}};
  if (!state.is(ServedModel::State::kOpen)) {
    const bool opening = state.is(ServedModel::State::kOpening);
    json["status"] = opening ? "loading" : state.model == nullptr ? "unloaded" : "failed";
    return json;
  }
  const auto shared = state.model->shared_facts();
  const ModelFacts& facts = *shared;
  json["status"] = "loaded";
  json["max_model_len"] = facts.context;
  json["meta"] = {{"n_ctx", facts.context},
                  {"n_ctx_train", facts.max_context},
                  {"n_vocab", facts.vocab_size},
                  {"n_embd", facts.d_model},
                  {"size", facts.file_bytes}};
  return json;
}

// What replies of both kinds have in common.
CompletionOptions codec_options(const Fields& fields, const NamedModel& model) {
  CompletionOptions options;
  options.model = model.id();
  options.stream = fields.flag("stream").value_or(false);
  options.return_speed = fields.flag("return_speed").value_or(false);
  if (const Json* stream = fields.find("stream_options"); stream != nullptr) {
    if (!stream->is_object()) fields.refuse("stream_options", "an object");
    options.include_usage =
        Fields(*stream, "stream_options.").flag("include_usage").value_or(false);
  }
  options.texts.bytes = [model](std::int32_t token) { return model.token_bytes(token); };
  options.texts.is_control = [model](std::int32_t token) { return model.is_control(token); };
  return options;
}

// More replies than are told: the likeliest are chosen of them.
void read_best_of(const Fields& fields, Ask* ask, CompletionOptions* options) {
  options->n = static_cast<std::size_t>(ask->n);
  const std::int64_t best_of = fields.whole("best_of", 1, 128).value_or(ask->n);
  if (best_of < ask->n)
    fail(ErrorCode::kUsage, "best_of", "{} is less than n, which is {}", best_of, ask->n);
  if (best_of == ask->n) return;
  if (options->stream)
    fail(ErrorCode::kUnsupported, "best_of", "needs whole replies; leave out stream");
  options->best_of = static_cast<std::size_t>(best_of);
  ask->n = static_cast<int>(best_of);
  ask->logprobs = true;
}

// The prompts as replies show them.
void read_echo(const NamedModel& model, Ask* ask, CompletionOptions* options) {
  if (options->logprobs && options->stream)
    fail(ErrorCode::kUnsupported, "echo", "with logprobs needs whole replies; leave out stream");
  ask->prompt_logprobs = options->logprobs;
  for (const Ask::Prompt& prompt : ask->prompts)
    options->echo.push_back(prompt.is_tokens ? model.detokenize(prompt.tokens) : prompt.text);
}

}  // namespace

Answer list_models(Service& service, const http::Request&) {
  Json data = Json::array();
  for (const Models::State& state : service.models().list())
    data.push_back(model_json(service, state));
  return json_reply({{"object", "list"}, {"data", std::move(data)}});
}

Answer show_model(Service& service, const http::Request& request) {
  const std::string name = request.path.substr(std::string_view("/v1/models/").size());
  return json_reply(model_json(service, service.models().state(name)));
}

Answer chat(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const NamedModel model = service.models().get(fields.text("model").value_or(""));
  Ask ask;
  read_sampling(fields, model.facts(), &ask);
  read_conversation(fields, model.facts(), &ask);
  CompletionOptions options = codec_options(fields, model);
  options.logprobs = ask.logprobs = fields.flag("logprobs").value_or(false);
  read_grammar(fields, &ask);
  if (const auto n = fields.whole("top_logprobs", 0, engine::kMaxTopLogprobs)) {
    if (!options.logprobs) fail(ErrorCode::kUsage, "top_logprobs", "needs logprobs: true");
    ask.n_top_logprobs = static_cast<int>(*n);
  }
  return service.reply(request, model.lease(), model.generate(ask),
                       make_completion_codec(std::move(options)));
}

Answer complete(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const NamedModel model = service.models().get(fields.text("model").value_or(""));
  Ask ask;
  read_sampling(fields, model.facts(), &ask);
  read_prompts(fields, "prompt", &ask);
  CompletionOptions options = codec_options(fields, model);
  options.chat = false;
  read_best_of(fields, &ask, &options);
  read_grammar(fields, &ask);
  if (const auto n = fields.whole("logprobs", 0, engine::kMaxTopLogprobs)) {
    options.logprobs = ask.logprobs = true;
    ask.n_top_logprobs = static_cast<int>(*n);
  }
  if (fields.find("suffix") != nullptr) {
    fail(ErrorCode::kUnsupported, "suffix", "filling in before a suffix is not supported");
  }
  if (fields.flag("echo").value_or(false)) read_echo(model, &ask, &options);
  return service.reply(request, model.lease(), model.generate(ask),
                       make_completion_codec(std::move(options)));
}

}  // namespace kt::serve::openai
