// Messages as an OpenAI client sends them, made into what chat templates expect.
//
//   MessageStyle = probe(template) once at load; prepare_messages(JSON, style) per request → render
//
// Roles developer → system and function → tool; content parts → one text; tool arguments as JSON
// text → object (or text, where the template adds texts up); reasoning, thinking →
// reasoning_content. What we sent as a reply comes back as the model wrote it. Thread rule: pure.
#pragma once
#include <string>
#include <string_view>

#include "text/chat_template.h"

namespace kt::text {

/// What a template wants otherwise than most do.
struct MessageStyle {
  bool arguments_as_text = false;        // tool arguments are a string
  bool null_content_with_calls = false;  // calls show only where content is null
  bool calls_or_content = false;         // calls do not show beside content, which then goes
  bool thinking_key = false;             // reasoning is looked for as `thinking` (gpt-oss)
  bool nine_character_ids = false;       // tool call ids other than 9 alphanumerics are refused

  /// Renders small conversations and looks at the template's text. Throws nothing that rendering
  /// throws.
  static MessageStyle probe(const ChatTemplate& chat_template);
};

/// Throws kUsage naming the message and field that is wrong, kUnsupported for content that is not
/// text.
std::string prepare_messages(std::string_view messages_json, const MessageStyle& style = {});

}  // namespace kt::text
