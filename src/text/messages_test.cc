// What OpenAI clients send, made into what templates take; templates that want it otherwise.
#include "text/messages.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace kt::text {
namespace {

ErrorCode code_of(std::string_view messages) {
  try {
    prepare_messages(messages);
  } catch (const Error& error) {
    return error.code();
  }
  return ErrorCode::kInternal;
}

MessageStyle style_of(std::string_view source) {
  return MessageStyle::probe(ChatTemplate::compile(source));
}

constexpr std::string_view kCalls = R"([{"role": "assistant", "content": null, "tool_calls": [
  {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"b\": 1, \"a\": \"é\"}"}}]},
  {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "x"}]}])";

TEST(Messages, RolesAndParts) {
  EXPECT_EQ(prepare_messages(R"([{"role": "developer", "content": "a"},
      {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
      {"role": "assistant", "content": null, "tool_calls": []}])"),
            R"([{"role":"system","content":"a"},{"role":"user","content":"b\nc"},)"
            R"({"role":"assistant","content":""}])");
}

TEST(Messages, CallsBecomeObjectsInTheirOrder) {
  EXPECT_EQ(prepare_messages(kCalls),
            R"([{"role":"assistant","content":"","tool_calls":[{"id":"call_1","type":"function",)"
            R"("function":{"name":"f","arguments":{"b":1,"a":"é"}}}]},)"
            R"({"role":"tool","tool_call_id":"call_1","content":"x","name":"f"}])");
  MessageStyle style;
  style.arguments_as_text = true;
  style.null_content_with_calls = true;
  style.nine_character_ids = true;
  const std::string text = prepare_messages(kCalls, style);
  EXPECT_NE(text.find(R"("content":null)"), std::string::npos);
  EXPECT_NE(text.find(R"("arguments":"{\"b\": 1, \"a\": \"é\"}")"), std::string::npos);
  EXPECT_EQ(text.find("call_1"), std::string::npos);
}

TEST(Messages, ReasoningHasOneName) {
  for (const std::string key : {"reasoning_content", "reasoning", "thinking"}) {
    EXPECT_EQ(prepare_messages(R"([{"role": "assistant", "content": "a", ")" + key + R"(": "r"}])"),
              R"([{"role":"assistant","content":"a","reasoning_content":"r"}])");
  }
}

TEST(Messages, ErrorsAreTheRequestsFault) {
  for (const std::string text :
       {"{}", "[", "[1]", R"([{"content": "a"}])", R"([{"role": "user", "content": 3}])",
        R"([{"role": "user", "content": [{"type": "text"}]}])",
        R"([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}])",
        R"([{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}])",
        R"([{"role": "assistant", "tool_calls": {}}])"}) {
    EXPECT_EQ(code_of(text), ErrorCode::kUsage) << text;
  }
  EXPECT_EQ(code_of(std::string(100000, '[')), ErrorCode::kUsage);
  EXPECT_EQ(code_of(R"([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])"),
            ErrorCode::kUnsupported);
}

TEST(Messages, TemplatesAreProbed) {
  const std::string loop =
      "{% for m in messages %}{{ m.content }}{% for t in m.tool_calls %}{{ t.function.name }}";
  const std::string end = "{% endfor %}{% endfor %}";
  const MessageStyle usual = style_of(loop + "{{ t.function.arguments | tojson }}" + end);
  EXPECT_FALSE(usual.arguments_as_text || usual.calls_or_content || usual.null_content_with_calls ||
               usual.thinking_key || usual.nine_character_ids);
  EXPECT_FALSE(
      style_of(loop + "{% for k, v in t.function.arguments.items() %}{{ v }}{% endfor %}" + end)
          .arguments_as_text);
  EXPECT_TRUE(style_of(loop + "{{ 'x' + t.function.arguments }}" + end).arguments_as_text);
  const MessageStyle old = style_of(
      "{% for m in messages %}{% if m['role'] == 'assistant' and m['content'] is none %}"
      "{% for t in m['tool_calls'] %}{{ t['function']['name'] + t['function']['arguments'] }}"
      "{% endfor %}{% endif %}{% endfor %}");
  EXPECT_TRUE(old.arguments_as_text);
  EXPECT_TRUE(old.null_content_with_calls);
  EXPECT_TRUE(old.calls_or_content);
  EXPECT_TRUE(style_of("{{ message.thinking }}").thinking_key);
  EXPECT_FALSE(style_of("{{ raise_exception('no') }}").arguments_as_text);
}

}  // namespace
}  // namespace kt::text
