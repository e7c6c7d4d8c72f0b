#include "serve/api/ollama/request.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace kt::serve::ollama {
namespace {

Json messages_of(const char* messages) {
  const Json body = {{"messages", Json::parse(messages)}};
  return read_messages(Fields(body));
}

ModelFacts thinker() {
  ModelFacts facts;
  facts.thinks = true;
  facts.context = 100;
  return facts;
}

TEST(OllamaRequest, GivesResultsTheIdOfTheirCall) {
  const Json all = messages_of(R"([
      {"role":"assistant","content":"","tool_calls":[
        {"function":{"name":"f","arguments":{}}},{"function":{"name":"g","arguments":{}}}]},
      {"role":"tool","tool_name":"g","content":"2"},
      {"role":"tool","content":"1"},
      {"role":"assistant","content":"","tool_calls":[
        {"id":"own","function":{"name":"f","arguments":{}}}]},
      {"role":"tool","tool_call_id":"own","content":"3"}])");
  EXPECT_EQ(all[0]["tool_calls"][0]["id"], "call_0");
  EXPECT_EQ(all[1]["tool_call_id"], "call_1");
  EXPECT_EQ(all[1]["name"], "g");
  EXPECT_EQ(all[2]["tool_call_id"], "call_0");
  EXPECT_EQ(all[3]["tool_calls"][0]["id"], "own");
  EXPECT_EQ(all[4]["tool_call_id"], "own");
}

TEST(OllamaRequest, ThinksUnlessToldNotTo) {
  const auto kwargs = [](const Json& body) {
    Ask ask;
    read_think(Fields(body), thinker(), "m", &ask);
    return ask.template_kwargs.dump();
  };
  EXPECT_EQ(kwargs(Json::object()), R"({"enable_thinking":true,"thinking":true})");
  EXPECT_EQ(kwargs({{"think", false}}), R"({"enable_thinking":false,"thinking":false})");
  EXPECT_EQ(kwargs({{"think", "low"}}),
            R"({"reasoning_effort":"low","enable_thinking":true,"thinking":true})");
  EXPECT_THROW(kwargs({{"think", 1}}), Error);
}

TEST(OllamaRequest, ReadsOptions) {
  const auto ask = [](const char* options) {
    const Json body = {{"options", Json::parse(options)}};
    Ask a;
    read_options(Fields(body), thinker(), &a);
    return a;
  };
  const Ask all = ask(R"({"num_predict":7,"temperature":0,"top_k":-1,"repeat_penalty":1.1,
                          "repeat_last_n":-1,"stop":"x","num_ctx":100,"seed":0})");
  EXPECT_EQ(all.max_tokens, 7);
  EXPECT_EQ(all.sampling.temperature, 0.0f);
  EXPECT_EQ(all.sampling.top_k, 0);
  EXPECT_EQ(all.sampling.repetition_penalty, 1.1f);
  EXPECT_EQ(all.sampling.repeat_last_n, -1);
  EXPECT_EQ(all.stops, std::vector<std::string>{"x"});
  EXPECT_NE(all.sampling.seed, 0u);
  for (const char* unlimited :
       {R"({})", R"({"num_predict":-1})", R"({"num_predict":-2})", R"({"num_predict":0})"}) {
    EXPECT_EQ(ask(unlimited).max_tokens, -1) << unlimited;
  }
  EXPECT_EQ(ask(R"({"seed":-1})").sampling.seed, 0u);
  EXPECT_THROW(ask(R"({"num_ctx":101})"), Error);
}

}  // namespace
}  // namespace kt::serve::ollama
