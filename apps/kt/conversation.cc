#include "conversation.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "input.h"
#include "io/atomic_file.h"
#include "session/generate.h"

namespace kt::app {

void Conversation::set_system(const std::string& text) {
  if (!messages_.empty() && messages_.front().role == "system") messages_.erase(messages_.begin());
  if (!text.empty()) messages_.insert(messages_.begin(), Message{"system", text});
}

bool Conversation::drop_last(const std::string& role) {
  if (messages_.empty() || messages_.back().role != role) return false;
  messages_.pop_back();
  return true;
}

void Conversation::clear() {
  std::erase_if(messages_, [](const Message& message) { return message.role != "system"; });
}

std::string Conversation::json(int indent) const {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (const Message& message : messages_) {
    array.push_back({{"role", message.role}, {"content", message.content}});
  }
  return array.dump(indent, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

void Conversation::save(const std::string& path) const { io::write_file(path, json(2) + "\n"); }

Conversation Conversation::load(const std::string& path) {
  const nlohmann::json array = nlohmann::json::parse(read_text_file(path), nullptr, false);
  if (!array.is_array()) {
    fail(ErrorCode::kBadFile, path,
         "is not a conversation: a JSON array of messages is wanted, as /save writes");
  }
  Conversation conversation;
  for (const auto& item : array) {
    const std::string where = "message " + std::to_string(conversation.messages_.size());
    if (!item.is_object() || !item.contains("role") || !item["role"].is_string() ||
        !item.contains("content") || !item["content"].is_string()) {
      fail(ErrorCode::kBadFile, path, "{} is not an object with the strings role and content",
           where);
    }
    const auto role = item["role"].get<std::string>();
    if (role != "system" && role != "user" && role != "assistant") {
      fail(ErrorCode::kBadFile, path, "{} has the role '{}'; system, user or assistant is wanted",
           where, role);
    }
    conversation.add(role, item["content"].get<std::string>());
  }
  return conversation;
}

std::string Conversation::render(const session::Session& session) const {
  const std::string messages = json(-1);
  text::ChatInput input;
  input.messages_json = messages;
  return session::render_chat(session, input);
}

}  // namespace kt::app
