#include "serve/api/openai/responses_request.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace kt::serve::openai {
namespace {

Ask ask_of(const char* body) {
  ModelFacts facts;
  facts.chat_template = "x";
  const Json json = Json::parse(body);
  Ask ask;
  read_response_input(Fields(json), facts, &ask);
  return ask;
}

TEST(ResponsesRequest, MakesMessagesOfItems) {
  const Ask ask = ask_of(R"({"instructions":"i","input":[
      {"role":"user","content":"u"},
      {"type":"reasoning","id":"rs_1","summary":[],"content":[{"type":"reasoning_text","text":"hm"}]},
      {"type":"message","role":"assistant","content":[{"type":"output_text","text":"so"}]},
      {"type":"function_call","call_id":"a","name":"f","arguments":"{}"},
      {"type":"function_call","call_id":"b","name":"g","arguments":"{}"},
      {"type":"function_call_output","call_id":"a","output":"1"},
      {"type":"function_call_output","call_id":"b","output":[{"type":"input_text","text":"2"}]},
      {"type":"reasoning","id":"rs_2","summary":[{"type":"summary_text","text":"oh"}]},
      {"role":"assistant","content":"x"},{"role":"assistant","content":"y"}]})");
  EXPECT_EQ(ask.messages.dump(),
            R"([{"role":"system","content":"i"},{"role":"user","content":"u"},)"
            R"({"role":"assistant","content":"so","reasoning_content":"hm","tool_calls":[)"
            R"({"id":"a","type":"function","function":{"name":"f","arguments":"{}"}},)"
            R"({"id":"b","type":"function","function":{"name":"g","arguments":"{}"}}]},)"
            R"({"role":"tool","tool_call_id":"a","content":"1"},)"
            R"({"role":"tool","tool_call_id":"b","content":"2"},)"
            R"({"role":"assistant","content":"x","reasoning_content":"oh"},)"
            R"({"role":"assistant","content":"y"}])");
}

TEST(ResponsesRequest, ReadsToolsAndReasoning) {
  const Ask ask = ask_of(R"({"input":"u","tools":[{"type":"function","name":"f","strict":true,
      "description":"d","parameters":{"type":"object"}}],"reasoning":{"effort":"high"}})");
  EXPECT_EQ(ask.messages.dump(), R"([{"role":"user","content":"u"}])");
  EXPECT_EQ(ask.tools.dump(), R"([{"type":"function","function":{"name":"f","description":"d",)"
                              R"("parameters":{"type":"object"}}}])");
  EXPECT_EQ(ask.template_kwargs["reasoning_effort"], "high");
  EXPECT_TRUE(ask_of(R"({"input":"u","tool_choice":"none",
                         "tools":[{"type":"function","name":"f"}]})")
                  .tools.is_null());
}

TEST(ResponsesRequest, RefusesWhatNeedsMemory) {
  for (const char* body : {R"({"input":"u","previous_response_id":"resp_1"})",
                           R"({"input":"u","conversation":"conv_1"})",
                           R"({"input":[{"type":"item_reference","id":"msg_1"}]})"}) {
    EXPECT_THROW(ask_of(body), Error) << body;
  }
}

}  // namespace
}  // namespace kt::serve::openai
