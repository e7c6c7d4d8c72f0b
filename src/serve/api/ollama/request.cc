#include "serve/api/ollama/request.h"

#include <algorithm>
#include <deque>

#include "base/error.h"
#include "serve/api/ollama/times.h"

namespace kt::serve::ollama {
namespace {

template <class T>
void set(std::optional<double> value, T* target) {
  if (value) *target = static_cast<T>(*value);
}

[[noreturn]] void refuse_images(const std::string& where) {
  fail(ErrorCode::kUnsupported, where, "this model reads text only");
}

// Gives ids to calls, and results the id of their call: clients may leave both out.
class CallIds {
 public:
  void call(Json* call) {
    if (!call->is_object()) return;
    Json& id = (*call)["id"];
    if (!id.is_string()) id = fmt::format("call_{}", n_++);
    const Json& function = call->value("function", Json::object());
    open_.push_back(
        {id.get<std::string>(), function.is_object() ? function.value("name", Json()) : Json()});
  }
  void result(Json* message) {
    const Json name = message->value("tool_name", message->value("name", Json()));
    if (name.is_string()) (*message)["name"] = name;
    message->erase("tool_name");
    const Json given = message->value("tool_call_id", Json());
    auto found = std::find_if(open_.begin(), open_.end(), [&](const Call& call) {
      return given.is_string() ? given == call.id : name.is_null() || name == call.name;
    });
    // A name that no call has still belongs to the next one in order.
    if (found == open_.end() && !given.is_string()) found = open_.begin();
    if (found == open_.end()) return;
    (*message)["tool_call_id"] = found->id;
    open_.erase(found);
  }

 private:
  struct Call {
    std::string id;
    Json name;
  };
  std::deque<Call> open_;  // calls without a result yet
  int n_ = 0;
};

void check_message(const Json& message, const std::string& where) {
  if (!message.is_object()) fail(ErrorCode::kUsage, where, "an object is wanted");
  const Fields fields(message, where + ".");
  const std::string role = fields.text("role").value_or("");
  if (role != "system" && role != "user" && role != "assistant" && role != "tool" &&
      role != "developer") {
    fail(ErrorCode::kUsage, where + ".role",
         "'{}' is none of system, user, assistant, tool and developer", role);
  }
  fields.text("content");
  fields.text("thinking");
  if (const Json* images = fields.find("images"); images != nullptr && !images->empty())
    refuse_images(where + ".images");
}

std::vector<std::int32_t> read_context(const Fields& fields, const ModelFacts& facts) {
  std::vector<std::int32_t> tokens;
  const Json* context = fields.find("context");
  if (context == nullptr) return tokens;
  const std::string wanted = fmt::format("an array of token ids below {}", facts.vocab_size);
  if (!context->is_array()) fields.refuse("context", wanted);
  for (const Json& id : *context) {
    if (!id.is_number_integer() || id.get<std::int64_t>() < 0 ||
        id.get<std::int64_t>() >= facts.vocab_size) {
      fields.refuse("context", wanted);
    }
    tokens.push_back(id.get<std::int32_t>());
  }
  return tokens;
}

void read_sampling(const Fields& fields, engine::SamplingParams* p) {
  set(fields.number("temperature", 0, 100), &p->temperature);
  set(fields.number("top_p", 0, 1), &p->top_p);
  set(fields.number("min_p", 0, 1), &p->min_p);
  set(fields.number("typical_p", 0, 1), &p->typical_p);
  set(fields.number("repeat_penalty", 0, 100), &p->repetition_penalty);
  set(fields.number("presence_penalty", -2, 2), &p->presence_penalty);
  set(fields.number("frequency_penalty", -2, 2), &p->frequency_penalty);
  if (const auto k = fields.whole("top_k", -1, INT32_MAX))
    p->top_k = static_cast<std::int32_t>(std::max<std::int64_t>(*k, 0));
  if (const auto last = fields.whole("repeat_last_n", -1, INT32_MAX))
    p->repeat_last_n = static_cast<std::int32_t>(*last);
  if (const auto seed = fields.seed()) p->seed = *seed;
}

// Options: sampling, limits and stops, over what is asked for already.
void read_object(const Fields& fields, const char* name, const ModelFacts& facts, Ask* ask) {
  const Json* object = fields.find(name);
  if (object == nullptr) return;
  if (!object->is_object()) fields.refuse(name, "an object");
  const Fields options(*object, fmt::format("{}.", name));
  read_sampling(options, &ask->sampling);
  // Zero and all below mean no limit.
  if (const auto most = options.whole("num_predict", INT32_MIN, INT32_MAX))
    ask->max_tokens = *most > 0 ? *most : -1;
  if (options.find("stop") != nullptr) ask->stops = options.texts("stop", 16);
  if (const auto context = options.whole("num_ctx", 0, INT64_MAX);
      context && *context > facts.context) {
    fail(ErrorCode::kUnsupported, fmt::format("{}.num_ctx", name),
         "{} is more than the {} tokens that are served; kt serve --ctx serves more", *context,
         facts.context);
  }
  if (options.whole("mirostat", 0, 2).value_or(0) != 0)
    fail(ErrorCode::kUnsupported, fmt::format("{}.mirostat", name),
         "Mirostat sampling is not there");
}

void set_template(const std::string& source, ModelDefaults* defaults) {
  try {
    defaults->chat_template =
        std::make_shared<const text::ChatTemplate>(text::ChatTemplate::compile(source, "template"));
    defaults->style = text::MessageStyle::probe(*defaults->chat_template);
  } catch (const Error& e) {
    fail(ErrorCode::kUnsupported, {},
         "a template is taken in Jinja's syntax, as models bring it, not in Go's: {}", e.what());
  }
}

}  // namespace

std::string read_name(const Fields& fields) {
  for (const char* key : {"model", "name"}) {
    const auto name = fields.text(key);
    if (name && !name->empty()) return *name;
  }
  fail(ErrorCode::kUsage, {}, "model is required");
}

void read_options(const Fields& fields, const ModelFacts& facts, Ask* ask) {
  start_ask(facts.defaults, ask);
  read_object(fields, "options", facts, ask);
}

ModelDefaults read_defaults(const Fields& fields, const ModelFacts& facts) {
  ModelDefaults defaults = facts.defaults;
  if (auto system = fields.text("system")) defaults.system = std::move(*system);
  if (fields.find("messages") != nullptr) defaults.messages = read_messages(fields);
  if (const auto source = fields.text("template"); source && !source->empty())
    set_template(*source, &defaults);
  if (fields.find("license") != nullptr)
    defaults.license = fmt::format("{}", fmt::join(fields.texts("license", 64), "\n"));
  if (const Json* parameters = fields.find("parameters"); parameters != nullptr) {
    Ask ask;
    start_ask(defaults, &ask);
    read_object(fields, "parameters", facts, &ask);
    defaults.sampling = ask.sampling;
    defaults.max_tokens = ask.max_tokens;
    defaults.stops = std::move(ask.stops);
    defaults.parameters.update(*parameters);
  }
  const bool speaks = !defaults.system.empty() || !defaults.messages.empty();
  if (speaks && facts.chat_template.empty() && defaults.chat_template == nullptr) {
    fail(ErrorCode::kUnsupported, defaults.system.empty() ? "messages" : "system",
         "{} has no chat template; only prompts can be completed", facts.id);
  }
  return defaults;
}

void read_think(const Fields& fields, const ModelFacts& facts, const std::string& name, Ask* ask) {
  bool on = facts.thinks;
  if (const Json* think = fields.find("think"); think != nullptr) {
    static constexpr const char* kLevels[] = {"low", "medium", "high", "max"};
    const bool level =
        std::find(std::begin(kLevels), std::end(kLevels), *think) != std::end(kLevels);
    if (!think->is_boolean() && !level) {
      fail(ErrorCode::kUsage, {},
           "invalid think value: {} (must be \"high\", \"medium\", \"low\", \"max\", true, or "
           "false)",
           wire(*think));
    }
    on = level || think->get<bool>();
    if (on && !facts.thinks)
      fail(ErrorCode::kUnsupported, {}, "\"{}\" does not support thinking", name);
    if (level) ask->template_kwargs["reasoning_effort"] = *think;
  }
  if (!facts.thinks) return;
  // Families call the switch by two names.
  ask->template_kwargs["enable_thinking"] = on;
  ask->template_kwargs["thinking"] = on;
}

void read_format(const Fields& fields, Ask* ask) {
  const Json* format = fields.find("format");
  if (format == nullptr || *format == "") return;
  if (*format != "json" && !format->is_object())
    fields.refuse("format", "\"json\" or a JSON schema");
  ask->grammar = json_grammar(format->is_object() ? format : nullptr);
}

std::optional<double> read_keep_alive(const Fields& fields) {
  const Json* value = fields.find("keep_alive");
  if (value == nullptr) return std::nullopt;
  if (value->is_number()) return value->get<double>();
  const auto seconds = value->is_string() ? duration_seconds(value->get_ref<const std::string&>())
                                          : std::optional<double>();
  if (!seconds) fields.refuse("keep_alive", "a number of seconds or a duration such as \"5m\"");
  return seconds;
}

Json read_messages(const Fields& fields) {
  const Json* messages = fields.find("messages");
  if (messages == nullptr) return Json::array();
  if (!messages->is_array()) fields.refuse("messages", "an array");
  Json all = *messages;
  CallIds ids;
  for (std::size_t i = 0; i < all.size(); ++i) {
    Json& message = all[i];
    check_message(message, fmt::format("messages[{}]", i));
    message.erase("images");
    if (message["role"] == "tool") ids.result(&message);
    if (const auto calls = message.find("tool_calls");
        calls != message.end() && calls->is_array()) {
      for (Json& call : *calls) ids.call(&call);
    }
  }
  return all;
}

void read_tools(const Fields& fields, const ModelFacts& facts, const std::string& name, Ask* ask) {
  const Json* tools = fields.find("tools");
  if (tools == nullptr) return;
  if (!tools->is_array()) fields.refuse("tools", "an array");
  if (tools->empty()) return;
  for (const Json& tool : *tools) {
    if (!tool.is_object() || !tool.contains("function") || !tool["function"].is_object())
      fields.refuse("tools", "an array of objects with a function each");
  }
  if (!facts.calls_tools) fail(ErrorCode::kUnsupported, {}, "\"{}\" does not support tools", name);
  ask->tools = *tools;
}

bool read_prompt(const Fields& fields, const ModelFacts& facts, const std::string& name, Ask* ask) {
  const std::string prompt = fields.text("prompt").value_or("");
  const std::string system = fields.text("system").value_or("");
  const bool raw = fields.flag("raw").value_or(false);
  const bool own_template = !fields.text("template").value_or("").empty();
  const bool context = fields.find("context") != nullptr;
  if (raw && (own_template || !system.empty() || context))
    fail(ErrorCode::kUsage, {}, "raw mode does not support template, system, or context");
  if (own_template)
    fail(ErrorCode::kUnsupported, "template", "a model's own chat template cannot be replaced");
  if (!fields.text("suffix").value_or("").empty())
    fail(ErrorCode::kUnsupported, {}, "\"{}\" does not support insert", name);
  if (const Json* images = fields.find("images"); images != nullptr && !images->empty())
    refuse_images("images");
  ask->before = read_context(fields, facts);
  if (prompt.empty()) return false;
  if (raw || facts.chat_template.empty()) {
    if (!system.empty() || !ask->before.empty()) {
      fail(ErrorCode::kUnsupported, context ? "context" : "system",
           "{} has no chat template; only a prompt can be completed", facts.id);
    }
    ask->prompts.push_back({prompt, {}, false});
    return true;
  }
  ask->messages = Json::array();
  if (!system.empty()) ask->messages.push_back({{"role", "system"}, {"content", system}});
  ask->messages.push_back({{"role", "user"}, {"content", prompt}});
  return true;
}

}  // namespace kt::serve::ollama
