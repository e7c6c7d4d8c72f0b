// Chat templates: the Jinja program that a model ships, rendered as transformers renders it.
//
//   compile(source) once at load -> render(messages, tools, …) per request -> prompt text
//
// The work is done by the Rust crate `minijinja` (rust/). Templates are untrusted: work, memory,
// recursion and output size are limited, and nothing outside the given values can be reached.
// Thread rule: immutable once compiled; render() may be called from several threads at once.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace kt::text {

/// What one rendering gets. The JSON texts keep the order of their keys.
struct ChatInput {
  std::string_view messages_json;   // array of {"role", "content", …}
  std::string_view tools_json;      // array, or empty: `tools` is none
  std::string_view documents_json;  // array, or empty: `documents` is none
  std::string_view kwargs_json;     // object of extra variables (e.g. enable_thinking), or empty
  bool add_generation_prompt = true;
  std::string_view bos_token;       // empty if the model has none
  std::string_view eos_token;       // empty if the model has none
  std::optional<std::int64_t> now;  // seconds since 1970, read as local time; absent: the clock
};

class ChatTemplate {
 public:
  /// Compiles; `path` is for messages. Throws kBadFile with line and reason, also for a template
  /// that needs other files (include, import, extends) or is larger than 512 KiB.
  static ChatTemplate compile(std::string_view source, const std::string& path = "chat template");

  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  /// The prompt. Throws kUsage: JSON that does not parse, or a conversation that the template
  /// refuses (raise_exception); kBadFile: the template itself fails or exceeds its limits.
  std::string render(const ChatInput& input) const;

  const std::string& source() const noexcept;

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// The template texts of a Hugging Face folder: chat_template.jinja, else the string or the named
/// list `chat_template` of tokenizer_config.json. Both absent when it has none.
struct HfChatTemplates {
  std::optional<std::string> standard;  // the only one, or the one named "default"
  std::optional<std::string> tool_use;  // the one named "tool_use"
};

/// Throws kBadFile when a file is there but unreadable as JSON, kIo.
HfChatTemplates read_hf_chat_templates(const std::string& folder);

}  // namespace kt::text
