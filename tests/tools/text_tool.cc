// Lets Python tests drive kt::text: one JSON request per line of standard input, one JSON answer
// per line.
//   {"op": "open_hf", "folder": …}   {"op": "open_gguf", "vocab": {…}}
//   {"op": "encode", "text": …, "add_special": …, "parse_special": …}  -> {"ids": […]}
//   {"op": "decode", "ids": […], "skip_special": …}                    -> {"text": …, "pieces":
//   […]}
//   {"op": "info"}   {"op": "token", "id": …}
//   {"op": "template", "source": …}   {"op": "template_hf", "folder": …}
//   {"op": "render", "messages": …, "tools": …, "kwargs": …, …}        -> {"text": …}
// A kt::Error is answered as {"error": message, "code": name}.
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/chat_template.h"
#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace {

using Json = nlohmann::ordered_json;
using kt::text::TokenId;

struct State {
  std::optional<kt::text::Tokenizer> tokenizer;
  std::optional<kt::text::ChatTemplate> chat_template;
};

kt::text::GgufVocab vocab_of(const Json& in) {
  kt::text::GgufVocab v;
  v.model = in.value("model", "");
  v.pre = in.value("pre", "");
  v.tokens = in.value("tokens", std::vector<std::string>());
  v.scores = in.value("scores", std::vector<float>());
  v.types = in.value("types", std::vector<std::int32_t>());
  v.merges = in.value("merges", std::vector<std::string>());
  v.bos = in.value("bos", -1);
  v.eos = in.value("eos", -1);
  v.eot = in.value("eot", -1);
  v.unk = in.value("unk", -1);
  v.pad = in.value("pad", -1);
  if (in.contains("add_bos")) v.add_bos = in["add_bos"].get<bool>();
  if (in.contains("add_eos")) v.add_eos = in["add_eos"].get<bool>();
  if (in.contains("add_space_prefix")) v.add_space_prefix = in["add_space_prefix"].get<bool>();
  return v;
}

Json decode(const kt::text::Tokenizer& tokenizer, const Json& in) {
  const auto ids = in.at("ids").get<std::vector<TokenId>>();
  const bool skip_special = in.value("skip_special", false);
  kt::text::IncrementalDetokenizer detokenizer(tokenizer, skip_special);
  Json pieces = Json::array();
  for (const TokenId id : ids) pieces.push_back(std::string(detokenizer.push(id)));
  pieces.push_back(std::string(detokenizer.flush()));
  return {{"text", tokenizer.decode(ids, skip_special)}, {"pieces", pieces}};
}

Json info(const kt::text::Tokenizer& t) {
  return {{"vocab_size", t.vocab_size()}, {"bos", t.bos().value_or(-1)},
          {"eos", t.eos().value_or(-1)},  {"eot", t.eot().value_or(-1)},
          {"end", t.end_tokens()},        {"adds_bos", t.adds_bos()}};
}

Json render(const kt::text::ChatTemplate& chat_template, const Json& in) {
  const auto text_of = [&](const char* key) {
    return in.contains(key) && !in[key].is_null() ? in[key].dump() : std::string();
  };
  const std::string messages = text_of("messages");
  const std::string tools = text_of("tools");
  const std::string documents = text_of("documents");
  const std::string kwargs = text_of("kwargs");
  const std::string bos = in.value("bos", "");
  const std::string eos = in.value("eos", "");
  kt::text::ChatInput input;
  input.messages_json = messages;
  input.tools_json = tools;
  input.documents_json = documents;
  input.kwargs_json = kwargs;
  input.add_generation_prompt = in.value("add_generation_prompt", true);
  input.bos_token = bos;
  input.eos_token = eos;
  if (in.contains("now")) input.now = in["now"].get<std::int64_t>();
  return {{"text", chat_template.render(input)}};
}

Json answer(State& state, const Json& in) {
  const auto op = in.at("op").get<std::string>();
  if (op == "open_hf") {
    state.tokenizer = kt::text::Tokenizer::from_hf_folder(in.at("folder").get<std::string>());
    return info(*state.tokenizer);
  }
  if (op == "open_gguf") {
    state.tokenizer = kt::text::Tokenizer::from_gguf(vocab_of(in.at("vocab")), "vocab");
    return info(*state.tokenizer);
  }
  if (op == "template") {
    state.chat_template = kt::text::ChatTemplate::compile(in.at("source").get<std::string>());
    return Json::object();
  }
  if (op == "template_hf") {
    const auto found = kt::text::read_hf_chat_templates(in.at("folder").get<std::string>());
    return {{"standard", found.standard.value_or("")}, {"tool_use", found.tool_use.value_or("")}};
  }
  if (op == "encode") {
    return {{"ids", state.tokenizer.value().encode(in.at("text").get<std::string>(),
                                                   in.value("add_special", false),
                                                   in.value("parse_special", false))}};
  }
  if (op == "decode") return decode(state.tokenizer.value(), in);
  if (op == "info") return info(state.tokenizer.value());
  if (op == "token") {
    const auto id = in.at("id").get<TokenId>();
    return {{"piece", std::string(state.tokenizer.value().id_to_piece(id))},
            {"special", state.tokenizer.value().is_special(id)}};
  }
  if (op == "render") return render(state.chat_template.value(), in);
  kt::fail(kt::ErrorCode::kUsage, op, "no such op");
}

}  // namespace

int main() {
  State state;
  std::string line;
  while (std::getline(std::cin, line)) {
    Json out;
    try {
      out = answer(state, Json::parse(line));
    } catch (const kt::Error& error) {
      out = {{"error", error.what()}, {"code", std::string(kt::error_code_name(error.code()))}};
    } catch (const std::exception& error) {
      out = {{"error", error.what()}, {"code", "tool"}};
    }
    std::cout << out.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
  }
  return 0;
}
