#include "serve/api/openai/request.h"

#include <charconv>

#include "base/error.h"

namespace kt::serve::openai {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 40;

void read_logit_bias(const Fields& fields, const ModelFacts& facts, engine::SamplingParams* p) {
  const Json* bias = fields.find("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object()) fields.refuse("logit_bias", "an object of token ids and numbers");
  for (const auto& [key, value] : bias->items()) {
    std::int32_t id = -1;
    const char* end = key.data() + key.size();
    const auto parsed = std::from_chars(key.data(), end, id);
    if (parsed.ec != std::errc() || parsed.ptr != end || id < 0 || id >= facts.vocab_size) {
      fail(ErrorCode::kUsage, "logit_bias", "'{}' is no token id of the vocabulary of {}", key,
           facts.vocab_size);
    }
    if (!value.is_number() || value.get<double>() < -100 || value.get<double>() > 100) {
      fail(ErrorCode::kUsage, "logit_bias", "the bias of {} is no number from -100 to 100", key);
    }
    p->logit_bias[id] = value.get<float>();
  }
}

template <class T>
void set(std::optional<double> value, T* target) {
  if (value) *target = static_cast<T>(*value);
}

void read_tool_choice(const Fields& fields, Ask* ask) {
  const Json* choice = fields.find("tool_choice");
  if (choice == nullptr || *choice == "auto") return;
  if (*choice == "none") {
    ask->tools = nullptr;
    return;
  }
  text::ToolChoice required;
  required.parallel = fields.flag("parallel_tool_calls").value_or(true);
  if (choice->is_object()) {
    const Json* function = Fields(*choice).find("function");
    const auto name = function != nullptr && function->is_object()
                          ? Fields(*function, "tool_choice.function.").text("name")
                          : std::nullopt;
    if (!name) fields.refuse("tool_choice", "none, auto, required or a function's name");
    required.name = *name;
  } else if (*choice != "required") {
    fields.refuse("tool_choice", "none, auto, required or a function's name");
  }
  if (ask->tools.is_null()) fail(ErrorCode::kUsage, "tool_choice", "needs tools");
  ask->required_tool = required;
}

bool is_token(const Json& item) { return item.is_number_integer(); }

Ask::Prompt token_prompt(const Fields& fields, const char* name, const Json& ids) {
  Ask::Prompt prompt;
  prompt.is_tokens = true;
  for (const Json& id : ids) {
    if (!is_token(id) || id.get<std::int64_t>() < 0 || id.get<std::int64_t>() > INT32_MAX) {
      fields.refuse(name, "a string, or an array of strings or token ids,");
    }
    prompt.tokens.push_back(id.get<std::int32_t>());
  }
  return prompt;
}

}  // namespace

void read_sampling(const Fields& fields, const ModelFacts& facts, Ask* ask) {
  start_ask(facts.defaults, ask);
  engine::SamplingParams& p = ask->sampling;
  set(fields.number("temperature", 0, 2), &p.temperature);
  set(fields.number("top_p", 0, 1), &p.top_p);
  set(fields.number("min_p", 0, 1), &p.min_p);
  set(fields.number("typical_p", 0, 1), &p.typical_p);
  set(fields.number("frequency_penalty", -2, 2), &p.frequency_penalty);
  set(fields.number("presence_penalty", -2, 2), &p.presence_penalty);
  set(fields.number("repeat_penalty", 0, 10), &p.repetition_penalty);
  set(fields.number("repetition_penalty", 0, 10), &p.repetition_penalty);
  if (const auto k = fields.whole("top_k", -1, INT32_MAX))
    p.top_k = static_cast<std::int32_t>(std::max<std::int64_t>(*k, 0));
  if (const auto last = fields.whole("repeat_last_n", -1, INT32_MAX))
    p.repeat_last_n = static_cast<std::int32_t>(*last);
  if (const auto seed = fields.seed()) p.seed = *seed;
  read_logit_bias(fields, facts, &p);
  for (const char* name : {"max_completion_tokens", "max_tokens"}) {
    const auto most = fields.whole(name, -1, kMost);
    if (!most) continue;
    ask->max_tokens = *most;
    break;
  }
  if (fields.find("stop") != nullptr) ask->stops = fields.texts("stop", 16);
  ask->ignore_eos = fields.flag("ignore_eos").value_or(false);
  ask->n = static_cast<int>(fields.whole("n", 1, 128).value_or(1));
  ask->seconds = fields.number("timeout", 0, 1e6).value_or(0.0);
}

void read_conversation(const Fields& fields, const ModelFacts& facts, Ask* ask) {
  const Json* messages = fields.find("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty())
    fields.refuse("messages", "an array of at least one message");
  if (facts.chat_template.empty()) {
    fail(ErrorCode::kUnsupported, "model",
         "{} has no chat template; /v1/completions completes plain text", facts.id);
  }
  ask->messages = *messages;
  if (const Json* tools = fields.find("tools"); tools != nullptr) {
    if (!tools->is_array()) fields.refuse("tools", "an array");
    if (!tools->empty()) ask->tools = *tools;
  }
  read_tool_choice(fields, ask);
  if (const Json* kwargs = fields.find("chat_template_kwargs"); kwargs != nullptr) {
    if (!kwargs->is_object()) fields.refuse("chat_template_kwargs", "an object");
    ask->template_kwargs = *kwargs;
  }
  if (const auto effort = fields.text("reasoning_effort")) {
    if (*effort == "none") {
      ask->template_kwargs["enable_thinking"] = false;
    } else {
      ask->template_kwargs["reasoning_effort"] = *effort;
    }
  }
  // Families call the same switch by two names.
  for (const auto& [from, to] :
       {std::pair{"enable_thinking", "thinking"}, std::pair{"thinking", "enable_thinking"}}) {
    if (ask->template_kwargs.contains(from) && !ask->template_kwargs.contains(to))
      ask->template_kwargs[to] = ask->template_kwargs[from];
  }
}

namespace {

void read_response_format(const Fields& fields, Ask* ask) {
  const Json* format = fields.find("response_format");
  if (format == nullptr) return;
  constexpr const char* kWanted = "an object of type text, json_object or json_schema";
  if (!format->is_object()) fields.refuse("response_format", kWanted);
  const Fields inner(*format, "response_format.");
  const std::string type = inner.text("type").value_or("");
  if (type == "text") return;
  if (type == "json_object") {
    ask->grammar = json_grammar(inner.find("schema"));
  } else if (type == "json_schema") {
    const Json* named = inner.find("json_schema");
    if (named == nullptr || !named->is_object()) inner.refuse("json_schema", "an object");
    const Json* schema = Fields(*named).find("schema");
    if (schema == nullptr) inner.refuse("json_schema", "an object with a schema");
    ask->grammar = json_grammar(schema);
  } else {
    fields.refuse("response_format", kWanted);
  }
}

}  // namespace

void read_grammar(const Fields& fields, Ask* ask) {
  read_response_format(fields, ask);
  for (const char* name : {"json_schema", "guided_json"}) {
    if (const Json* schema = fields.find(name); schema != nullptr)
      ask->grammar = json_grammar(schema);
  }
  for (const char* name : {"grammar", "guided_grammar"}) {
    const auto grammar = fields.text(name);
    if (!grammar || grammar->empty()) continue;
    const bool gbnf = grammar->find("::=") != std::string::npos;
    ask->grammar = {gbnf ? text::GrammarKind::kGbnf : text::GrammarKind::kLark, *grammar};
  }
  for (const char* name : {"regex", "guided_regex"}) {
    const auto regex = fields.text(name);
    if (regex) ask->grammar = {text::GrammarKind::kRegex, *regex};
  }
}

void read_prompts(const Fields& fields, const char* name, Ask* ask) {
  const Json* prompt = fields.find(name);
  constexpr const char* kWanted = "a string, or an array of strings or token ids,";
  if (prompt == nullptr) fields.refuse(name, kWanted);
  if (prompt->is_string()) {
    ask->prompts.push_back({prompt->get<std::string>(), {}, false});
    return;
  }
  if (!prompt->is_array() || prompt->empty()) fields.refuse(name, kWanted);
  if (is_token(prompt->front())) {
    ask->prompts.push_back(token_prompt(fields, name, *prompt));
    return;
  }
  if (prompt->size() > 1024) fields.refuse(name, "an array of at most 1024 prompts");
  for (const Json& item : *prompt) {
    if (item.is_string()) {
      ask->prompts.push_back({item.get<std::string>(), {}, false});
    } else if (item.is_array()) {
      ask->prompts.push_back(token_prompt(fields, name, item));
    } else {
      fields.refuse(name, kWanted);
    }
  }
}

}  // namespace kt::serve::openai
