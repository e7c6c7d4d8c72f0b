// Ollama's endpoints that change which models there are, and under which names.
#include <algorithm>

#include "base/error.h"
#include "serve/api/ollama/codec.h"
#include "serve/api/ollama/handlers.h"
#include "serve/api/ollama/request.h"
#include "session/registry.h"

namespace kt::serve::ollama {
namespace {

// The steps of what is done already, as the client wants them: the last, or all as lines.
http::Reply done(const Fields& fields, const std::vector<std::string>& steps) {
  http::Reply reply = json_reply({{"status", steps.back()}});
  reply.head.content_type = kJsonType;
  if (!fields.flag("stream").value_or(true)) return reply;
  reply.head.content_type = "application/x-ndjson";
  reply.body.clear();
  for (const std::string& step : steps) reply.body += wire({{"status", step}}) + "\n";
  return reply;
}

bool is_served(Service& service, const std::string& name) {
  const auto models = service.models().list();
  return std::any_of(models.begin(), models.end(),
                     [&](const Models::State& state) { return same_model(state.id, name); });
}

http::Reply empty() { return {{200, "text/plain; charset=utf-8", {}}, {}}; }

}  // namespace

Answer pull(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const std::string name = read_name(fields);
  if (is_served(service, name)) return done(fields, {"success"});
  return service.aside(request, [&models = service.models(), body, name] {
    const auto local = session::local_models();
    const auto here = std::find_if(local.begin(), local.end(), [&](const session::LocalModel& m) {
      return same_model(m.name, name);
    });
    models.add(name, here != local.end() ? here->path : session::pull_model(name));
    return done(Fields(body), {"pulling " + name, "success"});
  });
}

Answer copy(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  service.models().copy(fields.text("source").value_or(""),
                        fields.text("destination").value_or(""));
  return empty();
}

Answer create(Service& service, const http::Request& request) {
  constexpr std::size_t kMostBytes = std::size_t{1} << 20;  // they stay in memory
  if (request.body.size() > kMostBytes)
    fail(ErrorCode::kUsage, {}, "a name can be given {} bytes to say at most", kMostBytes);
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const auto has = [&fields](const char* key) { return fields.find(key) != nullptr; };
  for (const char* key : {"files", "adapters", "quantize", "renderer", "parser", "modelfile"}) {
    if (!has(key)) continue;
    fail(ErrorCode::kUnsupported, key,
         "cannot be given: models are created as names of those that are here, with system, "
         "messages, parameters, template and license; kt quantize makes files");
  }
  const auto from = fields.text("from");
  if (!from || from->empty()) fail(ErrorCode::kUsage, "from", "the model to begin from is missing");
  constexpr const char* kDefaults[] = {"system", "messages", "parameters", "template", "license"};
  std::shared_ptr<const ModelDefaults> defaults;
  if (std::any_of(std::begin(kDefaults), std::end(kDefaults), has)) {
    defaults = std::make_shared<const ModelDefaults>(
        read_defaults(fields, *service.models().facts(*from)));
  }
  service.models().create(*from, read_name(fields), std::move(defaults));
  return done(fields, {"success"});
}

Answer remove(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  service.models().remove(read_name(Fields(body)));
  return empty();
}

Answer refuse_files(Service&, const http::Request& request) {
  fail(ErrorCode::kUnsupported, {}, "{} is not supported: no files are taken or sent on",
       request.path);
}

}  // namespace kt::serve::ollama
