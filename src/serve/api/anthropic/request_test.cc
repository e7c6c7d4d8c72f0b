#include "serve/api/anthropic/request.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace kt::serve::anthropic {
namespace {

ModelFacts facts(bool thinks = false) {
  ModelFacts f;
  f.id = "m";
  f.chat_template = "x";
  f.thinks = thinks;
  return f;
}

Ask ask_of(const char* body, const ModelFacts& f = facts()) {
  const Json json = Json::parse(body);
  Ask ask;
  read_conversation(Fields(json), f, &ask);
  return ask;
}

std::string messages_of(const char* body) { return ask_of(body).messages.dump(); }

std::string error_of(const char* body) {
  try {
    ask_of(body);
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

TEST(AnthropicRequest, PutsTheSystemFirst) {
  EXPECT_EQ(messages_of(R"({"system":"s","messages":[{"role":"user","content":"u"}]})"),
            R"([{"role":"system","content":"s"},{"role":"user","content":"u"}])");
  EXPECT_EQ(messages_of(R"({"system":[{"type":"text","text":"a","cache_control":{}},
                            {"type":"text","text":"b"}],
                            "messages":[{"role":"user","content":"u"}]})"),
            R"([{"role":"system","content":"a\nb"},{"role":"user","content":"u"}])");
  EXPECT_EQ(messages_of(R"({"messages":[{"role":"user","content":"u"},
                            {"role":"system","content":[{"type":"text","text":"t"}]}]})"),
            R"([{"role":"user","content":"u"},{"role":"system","content":"t"}])");
}

TEST(AnthropicRequest, MakesResultsMessagesOfTheirOwn) {
  EXPECT_EQ(messages_of(R"({"messages":[{"role":"user","content":[
              {"type":"tool_result","tool_use_id":"a","content":"1"},
              {"type":"tool_result","tool_use_id":"b","is_error":true,
               "content":[{"type":"text","text":"no"},{"type":"text","text":"way"}]},
              {"type":"tool_result","tool_use_id":"c"},
              {"type":"text","text":"x"},{"type":"text","text":"y"}]}]})"),
            R"([{"role":"tool","tool_call_id":"a","content":"1"},)"
            R"({"role":"tool","tool_call_id":"b","content":"Error: no\nway"},)"
            R"({"role":"tool","tool_call_id":"c","content":""},)"
            R"({"role":"user","content":"x\ny"}])");
}

TEST(AnthropicRequest, PutsTheBlocksOfAReplyTogether) {
  EXPECT_EQ(messages_of(R"({"messages":[{"role":"assistant","content":[
              {"type":"thinking","thinking":"hm","signature":""},
              {"type":"redacted_thinking","data":"zz"},
              {"type":"text","text":"so"},
              {"type":"tool_use","id":"a","name":"f","input":{"k":1}}]}]})"),
            R"([{"role":"assistant","content":"so","tool_calls":[{"id":"a","type":"function",)"
            R"("function":{"name":"f","arguments":{"k":1}}}],"reasoning_content":"hm"}])");
}

TEST(AnthropicRequest, ReadsTools) {
  const char* body = R"({"messages":[{"role":"user","content":"u"}],"tool_choice":{"type":"auto"},
    "tools":[{"name":"f","description":"d","input_schema":{"type":"object"}}]})";
  EXPECT_EQ(ask_of(body).tools.dump(),
            R"([{"type":"function","function":{"name":"f","description":"d",)"
            R"("parameters":{"type":"object"}}}])");
  EXPECT_TRUE(ask_of(R"({"messages":[{"role":"user","content":"u"}],"tool_choice":{"type":"none"},
    "tools":[{"name":"f","input_schema":{"type":"object"}}]})")
                  .tools.is_null());
}

TEST(AnthropicRequest, ThinksWhenAskedOnly) {
  const auto kwargs = [](const char* thinking) {
    const std::string body =
        std::string(R"({"messages":[{"role":"user","content":"u"}],"thinking":)") + thinking +
        R"(,"output_config":{"effort":"high"}})";
    return ask_of(body.c_str(), facts(true)).template_kwargs.dump();
  };
  EXPECT_EQ(kwargs("null"), R"({"enable_thinking":false,"thinking":false})");
  EXPECT_EQ(kwargs(R"({"type":"disabled"})"), R"({"enable_thinking":false,"thinking":false})");
  const char* on = R"({"enable_thinking":true,"thinking":true,"reasoning_effort":"high"})";
  EXPECT_EQ(kwargs(R"({"type":"enabled","budget_tokens":1024})"), on);
  EXPECT_EQ(kwargs(R"({"type":"adaptive"})"), on);
}

TEST(AnthropicRequest, NamesWhatIsWrong) {
  EXPECT_NE(error_of(R"({"messages":[{"role":"user","content":[{"type":"image"}]}]})")
                .find("messages.0.content.0: blocks of type image"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"messages":[{"role":"user","content":[
              {"type":"tool_result","tool_use_id":"a","content":[{"type":"image"}]}]}]})")
                .find("messages.0.content.0.content.0: blocks of type image"),
            std::string::npos);
  EXPECT_NE(error_of(R"({"messages":[{"role":"assistant","content":[
              {"type":"tool_use","id":"a","name":"f","input":"x"}]}]})")
                .find("messages.0.content.0.input"),
            std::string::npos);
}

}  // namespace
}  // namespace kt::serve::anthropic
