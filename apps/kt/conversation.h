// The messages of a chat, their file form (a JSON array of {role, content}), and the prompt that
// the model's chat template makes of them. Thread rule: main thread.
#pragma once
#include <string>
#include <vector>

#include "session/session.h"

namespace kt::app {

struct Message {
  std::string role;  // system, user or assistant
  std::string content;
};

class Conversation {
 public:
  /// Replaces the system message; empty removes it.
  void set_system(const std::string& text);
  void add(std::string role, std::string content) {
    messages_.push_back({std::move(role), std::move(content)});
  }
  /// Removes the last message when its role is `role`; says whether it did.
  bool drop_last(const std::string& role);
  /// Removes everything but the system message.
  void clear();
  const std::vector<Message>& messages() const { return messages_; }

  /// Writes the messages; the file is replaced as a whole. Throws kIo.
  void save(const std::string& path) const;
  /// Throws kNotFound, kIo, and kBadFile when the file is not what save() writes.
  static Conversation load(const std::string& path);

  /// The prompt for the assistant's next turn. Throws kUnsupported when the model has no chat
  /// template, and what the template raises.
  std::string render(const session::Session& session) const;

 private:
  std::string json(int indent) const;
  std::vector<Message> messages_;
};

}  // namespace kt::app
