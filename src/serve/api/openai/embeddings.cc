#include <cstring>

#include "base/error.h"
#include "serve/api/openai/handlers.h"
#include "serve/api/openai/request.h"
#include "serve/embedding.h"

namespace kt::serve::openai {
namespace {

// Little-endian floats, as OpenAI's clients ask for them.
std::string base64(const std::vector<float>& values) {
  static constexpr char kDigits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string bytes(values.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t j = 0; j < 3; ++j) {
      const auto byte = i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0u;
      group = group << 8 | byte;
    }
    for (std::size_t j = 0; j < 4; ++j) {
      const bool there = i + j <= bytes.size();
      out += there ? kDigits[group >> (18 - 6 * j) & 63] : '=';
    }
  }
  return out;
}

}  // namespace

Answer embed(Service& service, const http::Request& request) {
  const Json body = parse_object(request.body);
  const Fields fields(body);
  const NamedModel model = service.models().get(fields.text("model").value_or(""));
  const ModelFacts& facts = model.facts();
  Ask ask;
  read_prompts(fields, "input", &ask);
  const std::string encoding = fields.text("encoding_format").value_or("float");
  if (encoding != "float" && encoding != "base64")
    fields.refuse("encoding_format", "float or base64");
  const std::int64_t dimensions = fields.whole("dimensions", 1, facts.d_model).value_or(0);
  const auto job = std::make_shared<Embedding>(model.prompt_tokens(ask.prompts), dimensions);
  const auto make = [job, encoding, id = facts.id] {
    Json data = Json::array();
    for (const std::vector<float>& vector : job->vectors) {
      data.push_back({{"object", "embedding"},
                      {"index", data.size()},
                      {"embedding", encoding == "float" ? Json(vector) : Json(base64(vector))}});
    }
    const std::size_t n_tokens = job->n_tokens();
    return json_reply({{"object", "list"},
                       {"data", std::move(data)},
                       {"model", id},
                       {"usage", {{"prompt_tokens", n_tokens}, {"total_tokens", n_tokens}}}});
  };
  return service.in_parts(
      request, model.lease(), [job](session::Session& session) { return job->step(session); },
      make);
}

}  // namespace kt::serve::openai
