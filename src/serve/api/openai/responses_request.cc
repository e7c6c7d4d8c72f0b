#include "serve/api/openai/responses_request.h"

#include "base/error.h"
#include "serve/api/openai/request.h"

namespace kt::serve::openai {
namespace {

std::string required_text(const Json& object, const char* key, const std::string& where) {
  const auto text = Fields(object, where + ".").text(key);
  if (!text) fail(ErrorCode::kUsage, where + "." + key, "a string is wanted");
  return *text;
}

// A string, or the text of parts, a line for each.
std::string text_of(const Json& value, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) fail(ErrorCode::kUsage, where, "a string or an array of parts is wanted");
  std::string text;
  for (std::size_t i = 0; i < value.size(); ++i) {
    const std::string path = fmt::format("{}[{}]", where, i);
    if (!value[i].is_object()) fail(ErrorCode::kUsage, path, "an object is wanted");
    const std::string type = required_text(value[i], "type", path);
    const bool refusal = type == "refusal";
    if (!refusal && type != "input_text" && type != "output_text" && type != "text" &&
        type != "reasoning_text" && type != "summary_text") {
      fail(ErrorCode::kUnsupported, path, "is of type {}; only text is supported", type);
    }
    if (i != 0) text += '\n';
    text += required_text(value[i], refusal ? "refusal" : "text", path);
  }
  return text;
}

const Json& required(const Json& item, const char* key, const std::string& where) {
  const Json* value = Fields(item, where + ".").find(key);
  if (value == nullptr) fail(ErrorCode::kUsage, where + "." + key, "is missing");
  return *value;
}

// Puts items together to messages.
class Conversation {
 public:
  void add(const Json& item, const std::string& where) {
    if (!item.is_object()) fail(ErrorCode::kUsage, where, "an object is wanted");
    const std::string type = Fields(item, where + ".").text("type").value_or("message");
    if (type == "message") {
      message(item, where);
    } else if (type == "reasoning") {
      reasoning(item, where);
    } else if (type == "function_call") {
      assistant()["tool_calls"].push_back(
          {{"id", required_text(item, "call_id", where)},
           {"type", "function"},
           {"function",
            {{"name", required_text(item, "name", where)},
             {"arguments", required_text(item, "arguments", where)}}}});
    } else if (type == "function_call_output") {
      const Json& output = required(item, "output", where);
      messages_.push_back({{"role", "tool"},
                           {"tool_call_id", required_text(item, "call_id", where)},
                           {"content", text_of(output, where + ".output")}});
    } else if (type == "item_reference") {
      fail(ErrorCode::kUnsupported, where, "refers to an earlier reply; none are kept here");
    } else {
      fail(ErrorCode::kUnsupported, where, "items of type {} are not supported", type);
    }
  }
  void instruct(const std::string& text) {
    messages_.push_back({{"role", "system"}, {"content", text}});
  }
  Json take() { return std::move(messages_); }

 private:
  void message(const Json& item, const std::string& where) {
    const std::string role = required_text(item, "role", where);
    std::string text = text_of(required(item, "content", where), where + ".content");
    if (role != "assistant") {
      if (role != "user" && role != "system" && role != "developer") {
        fail(ErrorCode::kUsage, where + ".role",
             "'{}' is none of user, assistant, system and developer", role);
      }
      messages_.push_back({{"role", role}, {"content", std::move(text)}});
      return;
    }
    Json& reply = assistant();
    // Calls end a message; text behind them begins another one.
    const bool begun = reply.contains("tool_calls") || reply["content"] != "";
    if (begun) messages_.push_back({{"role", "assistant"}, {"content", ""}});
    messages_.back()["content"] = std::move(text);
  }

  void reasoning(const Json& item, const std::string& where) {
    const Fields fields(item, where + ".");
    std::string text;
    for (const char* key : {"content", "summary"}) {
      const Json* parts = fields.find(key);
      if (parts != nullptr && text.empty()) text = text_of(*parts, where + "." + key);
    }
    if (text.empty()) return;  // encrypted, by another server
    messages_.push_back(
        {{"role", "assistant"}, {"content", ""}, {"reasoning_content", std::move(text)}});
  }

  // The message of the assistant that is being put together.
  Json& assistant() {
    if (messages_.empty() || messages_.back()["role"] != "assistant")
      messages_.push_back({{"role", "assistant"}, {"content", ""}});
    return messages_.back();
  }

  Json messages_ = Json::array();
};

Json read_tool(const Json& tool, const std::string& where) {
  if (!tool.is_object()) fail(ErrorCode::kUsage, where, "an object is wanted");
  const std::string type = required_text(tool, "type", where);
  if (type != "function")
    fail(ErrorCode::kUnsupported, where, "tools of type {} are not supported; functions are", type);
  Json function = {{"name", required_text(tool, "name", where)}};
  for (const char* key : {"description", "parameters"}) {
    if (const Json* value = Fields(tool).find(key); value != nullptr) function[key] = *value;
  }
  return {{"type", "function"}, {"function", std::move(function)}};
}

// The one tool that must be called, as chat completions name it.
Json chat_choice(const Json& choice) {
  if (!choice.is_object()) return choice;
  if (required_text(choice, "type", "tool_choice") != "function")
    fail(ErrorCode::kUnsupported, "tool_choice", "only functions can be chosen");
  return {{"type", "function"},
          {"function", {{"name", required_text(choice, "name", "tool_choice")}}}};
}

// JSON that the reply must be.
void read_format(const Fields& fields, Ask* ask) {
  const Json* text = fields.find("text");
  if (text == nullptr) return;
  if (!text->is_object()) fields.refuse("text", "an object");
  const Json* format = Fields(*text, "text.").find("format");
  if (format == nullptr) return;
  if (!format->is_object()) fail(ErrorCode::kUsage, "text.format", "an object is wanted");
  const std::string type = required_text(*format, "type", "text.format");
  if (type == "text") return;
  if (type != "json_object" && type != "json_schema")
    fail(ErrorCode::kUsage, "text.format.type", "'{}' is none of text, json_object, json_schema",
         type);
  const Json* schema = Fields(*format).find("schema");
  if (type == "json_schema" && schema == nullptr)
    fail(ErrorCode::kUsage, "text.format.schema", "a JSON schema is wanted");
  ask->grammar = json_grammar(type == "json_schema" ? schema : nullptr);
}

void refuse_state(const Fields& fields) {
  for (const char* key : {"previous_response_id", "conversation", "prompt"}) {
    if (fields.find(key) == nullptr) continue;
    fail(ErrorCode::kUnsupported, key,
         "nothing is kept between requests; send the whole conversation as input");
  }
  if (fields.flag("background").value_or(false))
    fail(ErrorCode::kUnsupported, "background", "replies are sent as they are made");
  if (fields.whole("top_logprobs", 0, 20).value_or(0) > 0)
    fail(ErrorCode::kUnsupported, "top_logprobs", "use /v1/chat/completions with logprobs");
}

}  // namespace

void read_response_input(const Fields& fields, const ModelFacts& facts, Ask* ask) {
  refuse_state(fields);
  read_format(fields, ask);
  Conversation conversation;
  if (const auto text = fields.text("instructions"); text && !text->empty())
    conversation.instruct(*text);
  const Json* input = fields.find("input");
  if (input == nullptr || (!input->is_string() && !input->is_array()) || input->empty())
    fields.refuse("input", "a string or an array of items");
  if (input->is_string()) {
    conversation.add({{"role", "user"}, {"content", *input}}, "input");
  } else {
    for (std::size_t i = 0; i < input->size(); ++i)
      conversation.add((*input)[i], fmt::format("input[{}]", i));
  }
  Json chat = {{"messages", conversation.take()}};
  if (const Json* tools = fields.find("tools"); tools != nullptr) {
    if (!tools->is_array()) fields.refuse("tools", "an array");
    chat["tools"] = Json::array();
    for (std::size_t i = 0; i < tools->size(); ++i)
      chat["tools"].push_back(read_tool((*tools)[i], fmt::format("tools[{}]", i)));
  }
  if (const Json* reasoning = fields.find("reasoning"); reasoning != nullptr) {
    if (!reasoning->is_object()) fields.refuse("reasoning", "an object");
    if (const auto effort = Fields(*reasoning, "reasoning.").text("effort"))
      chat["reasoning_effort"] = *effort;
  }
  for (const char* key : {"chat_template_kwargs", "parallel_tool_calls"}) {
    if (const Json* value = fields.find(key); value != nullptr) chat[key] = *value;
  }
  if (const Json* choice = fields.find("tool_choice"); choice != nullptr)
    chat["tool_choice"] = chat_choice(*choice);
  read_conversation(Fields(chat), facts, ask);
}

void read_response_sampling(const Fields& fields, const ModelFacts& facts, Ask* ask) {
  read_sampling(fields, facts, ask);
  ask->n = 1;
  ask->max_tokens =
      fields.whole("max_output_tokens", 1, INT32_MAX).value_or(facts.defaults.max_tokens);
}

}  // namespace kt::serve::openai
