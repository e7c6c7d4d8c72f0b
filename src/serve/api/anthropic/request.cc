#include "serve/api/anthropic/request.h"

#include "base/error.h"

namespace kt::serve::anthropic {
namespace {

// The type of a block, which must be an object.
std::string type_of(const Json& block, const std::string& where) {
  if (!block.is_object()) fail(ErrorCode::kUsage, where, "an object is wanted");
  const auto type = Fields(block, where + ".").text("type");
  if (!type) fail(ErrorCode::kUsage, where + ".type", "is missing");
  return *type;
}

[[noreturn]] void refuse_block(const std::string& type, const std::string& where) {
  fail(ErrorCode::kUnsupported, where, "blocks of type {} are not supported; this model reads text",
       type);
}

std::string block_text(const Json& block, const char* key, const std::string& where) {
  const auto text = Fields(block, where + ".").text(key);
  if (!text) fail(ErrorCode::kUsage, where + "." + key, "a string is wanted");
  return *text;
}

// A string, or the text of blocks, a line for each.
std::string text_of(const Json& value, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) fail(ErrorCode::kUsage, where, "a string or an array of blocks is wanted");
  std::string text;
  for (std::size_t i = 0; i < value.size(); ++i) {
    const std::string path = fmt::format("{}.{}", where, i);
    const std::string type = type_of(value[i], path);
    if (type != "text") refuse_block(type, path);
    if (i != 0) text += '\n';
    text += block_text(value[i], "text", path);
  }
  return text;
}

Json tool_result(const Json& block, const std::string& where) {
  const Fields fields(block, where + ".");
  const Json* content = fields.find("content");
  std::string text = content == nullptr ? std::string() : text_of(*content, where + ".content");
  // Templates have no place for it, so the text must say it.
  if (fields.flag("is_error").value_or(false)) text = "Error: " + text;
  return {{"role", "tool"},
          {"tool_call_id", block_text(block, "tool_use_id", where)},
          {"content", std::move(text)}};
}

// Results stand as messages of their own, in the order in which they come.
void add_user_blocks(const Json& blocks, const std::string& where, Json* messages) {
  std::string text;
  bool any = false;
  const auto flush = [&] {
    if (any) messages->push_back({{"role", "user"}, {"content", text}});
    text.clear();
    any = false;
  };
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const std::string path = fmt::format("{}.{}", where, i);
    const std::string type = type_of(blocks[i], path);
    if (type == "tool_result") {
      flush();
      messages->push_back(tool_result(blocks[i], path));
    } else if (type == "text") {
      if (any) text += '\n';
      text += block_text(blocks[i], "text", path);
      any = true;
    } else {
      refuse_block(type, path);
    }
  }
  flush();
}

Json tool_use(const Json& block, const std::string& where) {
  const Json* input = Fields(block, where + ".").find("input");
  if (input != nullptr && !input->is_object())
    fail(ErrorCode::kUsage, where + ".input", "an object is wanted");
  return {{"id", block_text(block, "id", where)},
          {"type", "function"},
          {"function",
           {{"name", block_text(block, "name", where)},
            {"arguments", input == nullptr ? Json::object() : *input}}}};
}

// What we sent as blocks of one reply becomes one message again.
void add_assistant_blocks(const Json& blocks, const std::string& where, Json* messages) {
  Json message = {{"role", "assistant"}, {"content", ""}};
  std::string content, reasoning;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const std::string path = fmt::format("{}.{}", where, i);
    const std::string type = type_of(blocks[i], path);
    if (type == "text") {
      content += block_text(blocks[i], "text", path);
    } else if (type == "thinking") {
      reasoning += block_text(blocks[i], "thinking", path);
    } else if (type == "tool_use") {
      message["tool_calls"].push_back(tool_use(blocks[i], path));
    } else if (type != "redacted_thinking") {  // of another model, for its own eyes
      refuse_block(type, path);
    }
  }
  message["content"] = std::move(content);
  if (!reasoning.empty()) message["reasoning_content"] = std::move(reasoning);
  messages->push_back(std::move(message));
}

void add_message(const Json& message, const std::string& where, Json* messages) {
  if (!message.is_object()) fail(ErrorCode::kUsage, where, "an object is wanted");
  const Fields fields(message, where + ".");
  const std::string role = fields.text("role").value_or("");
  if (role != "user" && role != "assistant" && role != "system")
    fail(ErrorCode::kUsage, where + ".role", "'{}' is none of user, assistant and system", role);
  const Json* content = fields.find("content");
  if (content == nullptr || (!content->is_string() && !content->is_array()))
    fields.refuse("content", "a string or an array of blocks");
  if (content->is_string()) {
    messages->push_back({{"role", role}, {"content", *content}});
  } else if (role == "system") {
    messages->push_back({{"role", role}, {"content", text_of(*content, where + ".content")}});
  } else if (role == "user") {
    add_user_blocks(*content, where + ".content", messages);
  } else {
    add_assistant_blocks(*content, where + ".content", messages);
  }
}

Json read_tool(const Json& tool, const std::string& where) {
  if (!tool.is_object()) fail(ErrorCode::kUsage, where, "an object is wanted");
  const Fields fields(tool, where + ".");
  const std::string type = fields.text("type").value_or("custom");
  if (type != "custom") {
    fail(ErrorCode::kUnsupported, where, "tools of type {} run at Anthropic; there are none here",
         type);
  }
  Json function = {{"name", block_text(tool, "name", where)}};
  if (const auto description = fields.text("description")) function["description"] = *description;
  const Json* schema = fields.find("input_schema");
  if (schema == nullptr || !schema->is_object()) fields.refuse("input_schema", "an object");
  function["parameters"] = *schema;
  return {{"type", "function"}, {"function", std::move(function)}};
}

// Whether the model may call tools; also whether it must.
bool read_tool_choice(const Fields& fields, Ask* ask) {
  const Json* choice = fields.find("tool_choice");
  if (choice == nullptr) return true;
  const std::string type = type_of(*choice, "tool_choice");
  if (type == "auto") return true;
  if (type == "none") return false;
  if (type != "any" && type != "tool")
    fail(ErrorCode::kUsage, "tool_choice.type", "'{}' is none of auto, any, tool and none", type);
  const Fields inner(*choice, "tool_choice.");
  text::ToolChoice required;
  required.parallel = !inner.flag("disable_parallel_tool_use").value_or(false);
  if (type == "tool") {
    const auto name = inner.text("name");
    if (!name) inner.refuse("name", "a string");
    required.name = *name;
  }
  ask->required_tool = required;
  return true;
}

// Forms that the reply must have.
void read_format(const Fields& fields, Ask* ask) {
  const Json* config = fields.find("output_config");
  if (config != nullptr && !config->is_object()) fields.refuse("output_config", "an object");
  const Json* format = fields.find("output_format");
  if (format == nullptr && config != nullptr) format = Fields(*config).find("format");
  if (format == nullptr) return;
  if (!format->is_object() || type_of(*format, "output_format") != "json_schema")
    fields.refuse("output_format", "an object of type json_schema");
  const Json* schema = Fields(*format).find("schema");
  if (schema == nullptr) fail(ErrorCode::kUsage, "output_format.schema", "a JSON schema is wanted");
  ask->grammar = json_grammar(schema);
}

void read_tools(const Fields& fields, Ask* ask) {
  const Json* tools = fields.find("tools");
  const bool may_call = read_tool_choice(fields, ask);
  if (tools == nullptr && ask->required_tool)
    fields.refuse("tools", "an array of tools to choose from");
  if (tools == nullptr) return;
  if (!tools->is_array()) fields.refuse("tools", "an array");
  Json all = Json::array();
  for (std::size_t i = 0; i < tools->size(); ++i)
    all.push_back(read_tool((*tools)[i], fmt::format("tools.{}", i)));
  if (may_call && !all.empty()) ask->tools = std::move(all);
}

// Off unless it is asked for, as Anthropic's models do it.
void read_thinking(const Fields& fields, const ModelFacts& facts, Ask* ask) {
  bool on = false;
  if (const Json* thinking = fields.find("thinking"); thinking != nullptr) {
    const std::string type = type_of(*thinking, "thinking");
    if (type != "enabled" && type != "disabled" && type != "adaptive") {
      fail(ErrorCode::kUsage, "thinking.type", "'{}' is none of enabled, disabled and adaptive",
           type);
    }
    Fields(*thinking, "thinking.").whole("budget_tokens", 1, INT64_MAX);
    if (type == "enabled" && !facts.thinks)
      fail(ErrorCode::kUnsupported, "thinking", "{} does not think", facts.id);
    on = type != "disabled";
  }
  if (!facts.thinks) return;
  // Families call the switch by two names.
  ask->template_kwargs["enable_thinking"] = on;
  ask->template_kwargs["thinking"] = on;
  if (const Json* config = fields.find("output_config"); config != nullptr && on) {
    if (const auto effort = Fields(*config, "output_config.").text("effort"))
      ask->template_kwargs["reasoning_effort"] = *effort;
  }
}

template <class T>
void set(std::optional<double> value, T* target) {
  if (value) *target = static_cast<T>(*value);
}

}  // namespace

void read_conversation(const Fields& fields, const ModelFacts& facts, Ask* ask) {
  const Json* messages = fields.find("messages");
  if (messages == nullptr || !messages->is_array() || messages->empty())
    fields.refuse("messages", "an array of at least one message");
  if (facts.chat_template.empty()) {
    fail(ErrorCode::kUnsupported, "model",
         "{} has no chat template; /v1/completions completes plain text", facts.id);
  }
  ask->messages = Json::array();
  if (const Json* system = fields.find("system"); system != nullptr) {
    if (std::string text = text_of(*system, "system"); !text.empty())
      ask->messages.push_back({{"role", "system"}, {"content", std::move(text)}});
  }
  for (std::size_t i = 0; i < messages->size(); ++i)
    add_message((*messages)[i], fmt::format("messages.{}", i), &ask->messages);
  read_tools(fields, ask);
  read_format(fields, ask);
  read_thinking(fields, facts, ask);
}

void read_sampling(const Fields& fields, const ModelFacts& facts, Ask* ask) {
  start_ask(facts.defaults, ask);
  engine::SamplingParams& p = ask->sampling;
  // Zero only reads the prompt into the cache.
  const auto most = fields.whole("max_tokens", 0, INT32_MAX);
  if (!most) fields.refuse("max_tokens", "a whole number");
  ask->max_tokens = *most;
  set(fields.number("temperature", 0, 1), &p.temperature);
  set(fields.number("top_p", 0, 1), &p.top_p);
  if (const auto k = fields.whole("top_k", 0, INT32_MAX)) p.top_k = static_cast<std::int32_t>(*k);
  if (fields.find("stop_sequences") != nullptr) ask->stops = fields.texts("stop_sequences", 64);
}

bool shows_thinking(const Fields& fields) {
  const Json* thinking = fields.find("thinking");
  if (thinking == nullptr) return true;
  const auto display = Fields(*thinking, "thinking.").text("display").value_or("summarized");
  if (display != "summarized" && display != "omitted") {
    fail(ErrorCode::kUsage, "thinking.display", "'{}' is none of summarized and omitted", display);
  }
  return display == "summarized";
}

}  // namespace kt::serve::anthropic
