#include "text/messages.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "text/tool_schemas.h"

namespace kt::text {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxNesting = 100;

constexpr std::string_view kProbeName = "kt_probe_name";
constexpr std::string_view kProbeValue = "kt_probe_value";

// Renders a conversation with one call in it; empty when the template refuses.
std::string probe_render(const ChatTemplate& chat_template, const Json& content,
                         const Json& arguments) {
  const Json function = {{"name", kProbeName}, {"arguments", arguments}};
  const Json call = {{"id", "abcdefghi"}, {"type", "function"}, {"function", function}};
  const Json messages = {
      {{"role", "user"}, {"content", "a"}},
      {{"role", "assistant"}, {"content", content}, {"tool_calls", Json::array({call})}},
      {{"role", "tool"}, {"content", "b"}, {"tool_call_id", "abcdefghi"}, {"name", kProbeName}},
  };
  const std::string text = messages.dump();
  ChatInput input;
  input.messages_json = text;
  input.now = 0;
  try {
    return chat_template.render(input);
  } catch (const Error&) {
    return {};
  }
}

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

bool alphanumeric(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

// An id of another model's making, as nine characters; the same id gives the same.
std::string nine_characters(const std::string& id) {
  if (id.size() == 9 && std::all_of(id.begin(), id.end(), alphanumeric)) return id;
  std::uint64_t hash = 14695981039346656037u;  // FNV-1a
  for (const char c : id) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211u;
  constexpr std::string_view kCharacters = "0123456789abcdefghijklmnopqrstuvwxyz";
  std::string out;
  for (int i = 0; i < 9; ++i) {
    out += kCharacters[hash % kCharacters.size()];
    hash /= kCharacters.size();
  }
  return out;
}

class Preparer {
 public:
  explicit Preparer(const MessageStyle& style) : style_(style) {}

  void prepare(Json& message, std::size_t index) {
    where_ = fmt::format("messages[{}]", index);
    if (!message.is_object()) fail(ErrorCode::kUsage, where_, "an object is wanted");
    const auto role = message.find("role");
    if (role == message.end() || !role->is_string())
      fail(ErrorCode::kUsage, where_ + ".role", "a role is wanted");
    if (*role == "developer") *role = "system";
    if (*role == "function") *role = "tool";
    const std::string name = role->get<std::string>();  // adding keys moves the others
    if (name == "assistant") {
      reasoning(message);
      calls(message);
    }
    if (name == "tool") tool(message);
    content(message);
  }

 private:
  // One text of all parts.
  void content(Json& message) {
    const bool calls = message.contains("tool_calls");
    Json& value = message["content"];
    if (value.is_null()) value = "";
    if (value.is_array()) value = joined(value);
    if (!value.is_string())
      fail(ErrorCode::kUsage, where_ + ".content", "a text or a list of parts is wanted");
    if (calls && style_.calls_or_content) value = "";
    const bool empty = value.get_ref<const std::string&>().empty();
    if (calls && empty && style_.null_content_with_calls) value = nullptr;
    // gpt-oss takes one of both.
    if (calls && !empty && style_.thinking_key) message.erase("thinking");
  }

  std::string joined(const Json& parts) {
    std::string text;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const Json& part = parts[i];
      const auto path = [&] { return fmt::format("{}.content[{}]", where_, i); };
      const bool object = part.is_object();
      const std::string type = object ? part.value("type", Json("text")).dump() : "";
      if (object && type != "\"text\"" && type != "\"refusal\"") {
        fail(ErrorCode::kUnsupported, path(), "is of type {}; only text is supported", type);
      }
      const char* key = type == "\"refusal\"" ? "refusal" : "text";
      const bool good = part.is_string() || (object && part.contains(key) && part[key].is_string());
      if (!good) fail(ErrorCode::kUsage, path(), "has no text");
      if (i != 0) text += '\n';
      text += (part.is_string() ? part : part[key]).get_ref<const std::string&>();
    }
    return text;
  }

  void reasoning(Json& message) {
    std::string text;
    for (const char* key : {"reasoning_content", "reasoning", "thinking"}) {
      const auto found = message.find(key);
      if (found == message.end()) continue;
      if (found->is_string() && text.empty()) text = found->get<std::string>();
      message.erase(found);
    }
    if (text.empty()) return;
    if (style_.thinking_key) message["thinking"] = text;
    message["reasoning_content"] = std::move(text);
  }

  // Templates look whether the key is there, so an empty list goes.
  void calls(Json& message) {
    const auto found = message.find("tool_calls");
    if (found == message.end()) return;
    if (found->is_null() || (found->is_array() && found->empty())) {
      message.erase(found);
      return;
    }
    if (!found->is_array()) fail(ErrorCode::kUsage, where_ + ".tool_calls", "a list is wanted");
    for (std::size_t i = 0; i < found->size(); ++i)
      call((*found)[i], fmt::format("{}.tool_calls[{}]", where_, i));
  }

  void call(Json& call, const std::string& path) {
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object())
      fail(ErrorCode::kUsage, path, "an object with a function is wanted");
    if (!call.contains("type")) call["type"] = "function";
    const bool has_id = call.contains("id") && call["id"].is_string();
    const std::string id = has_id ? call["id"].get<std::string>() : std::string();
    if (style_.nine_character_ids) call["id"] = nine_characters(id);
    Json& function = call["function"];
    if (!function.contains("name") || !function["name"].is_string())
      fail(ErrorCode::kUsage, path + ".function.name", "a name is wanted");
    if (has_id) names_[id] = function["name"].get<std::string>();
    arguments(function["arguments"], path + ".function.arguments");
  }

  void arguments(Json& value, const std::string& path) {
    if (value.is_null()) value = Json::object();
    if (value.is_string()) {
      const std::string text = value.get<std::string>();
      if (nests_deeper(text, kMaxNesting))
        fail(ErrorCode::kUsage, path, "nests deeper than {} levels", kMaxNesting);
      const bool none = text.find_first_not_of(" \n\r\t") == std::string::npos;
      Json parsed = none ? Json::object() : Json::parse(text, nullptr, false);
      if (!parsed.is_object()) fail(ErrorCode::kUsage, path, "JSON text of an object is wanted");
      // The model's own text is in the cache, so it is not written anew.
      if (style_.arguments_as_text && !none) return;
      value = std::move(parsed);
    }
    if (!value.is_object()) fail(ErrorCode::kUsage, path, "JSON text of an object is wanted");
    if (style_.arguments_as_text)
      value = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

  // Some templates want the function's name with its result.
  void tool(Json& message) {
    const auto id = message.find("tool_call_id");
    if (id == message.end() || !id->is_string()) return;
    const auto name = names_.find(id->get<std::string>());
    if (style_.nine_character_ids) *id = nine_characters(id->get<std::string>());
    if (name != names_.end() && !message.contains("name")) message["name"] = name->second;
  }

  const MessageStyle& style_;
  std::string where_;
  std::map<std::string, std::string> names_;  // of functions, by call id
};

}  // namespace

MessageStyle MessageStyle::probe(const ChatTemplate& chat_template) {
  const Json arguments = {{"kt_probe_key", kProbeValue}};
  const std::string& source = chat_template.source();
  MessageStyle style;
  style.thinking_key = has(source, "message.thinking") || has(source, "message['thinking']");
  style.nine_character_ids = has(source, "length != 9") || has(source, "length == 9");
  const auto shows = [&](const Json& content, const Json& given) {
    const std::string text = probe_render(chat_template, content, given);
    return has(text, kProbeName) && has(text, kProbeValue);
  };
  for (const bool text : {false, true}) {
    for (const bool null : {false, true}) {
      if (!shows(null ? Json(nullptr) : Json(""), text ? Json(arguments.dump()) : arguments))
        continue;
      style.arguments_as_text = text;
      style.null_content_with_calls = null;
      style.calls_or_content = !shows("c", text ? Json(arguments.dump()) : arguments);
      return style;
    }
  }
  return style;
}

std::string prepare_messages(std::string_view messages_json, const MessageStyle& style) {
  if (nests_deeper(messages_json, kMaxNesting))
    fail(ErrorCode::kUsage, "messages", "nests deeper than {} levels", kMaxNesting);
  Json messages = Json::parse(messages_json, nullptr, false);
  if (!messages.is_array()) fail(ErrorCode::kUsage, "messages", "a JSON array is wanted");
  Preparer preparer(style);
  for (std::size_t i = 0; i < messages.size(); ++i) preparer.prepare(messages[i], i);
  return messages.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace kt::text
