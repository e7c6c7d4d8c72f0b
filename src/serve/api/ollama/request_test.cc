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

ModelDefaults defaults_of(const ModelFacts& facts, const char* body) {
  const Json json = Json::parse(body);
  return read_defaults(Fields(json), facts);
}

TEST(OllamaRequest, ReadsWhatANameIsToSay) {
  ModelFacts facts = thinker();
  facts.chat_template = "{{ messages }}";
  facts.defaults.sampling.temperature = 0.25f;
  facts.defaults = defaults_of(facts, R"({
      "system":"Be brief.","license":["MIT","BSD"],"messages":[{"role":"user","content":"hi"}],
      "parameters":{"num_predict":9,"top_k":3,"stop":["a","b"],"num_ctx":50}})");
  EXPECT_EQ(facts.defaults.system, "Be brief.");
  EXPECT_EQ(facts.defaults.license, "MIT\nBSD");
  EXPECT_EQ(facts.defaults.messages[0]["content"], "hi");
  EXPECT_EQ(facts.defaults.max_tokens, 9);
  EXPECT_EQ(facts.defaults.sampling.top_k, 3);
  EXPECT_EQ(facts.defaults.sampling.temperature, 0.25f);
  EXPECT_EQ(facts.defaults.stops, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(facts.defaults.chat_template, nullptr);
  // A name of that name takes over what it does not say itself.
  const ModelDefaults next = defaults_of(facts, R"({"parameters":{"top_k":4},"system":""})");
  EXPECT_TRUE(next.system.empty());
  EXPECT_EQ(next.sampling.top_k, 4);
  EXPECT_EQ(next.max_tokens, 9);
  EXPECT_EQ(next.parameters.dump(), R"({"num_predict":9,"top_k":4,"stop":["a","b"],"num_ctx":50})");
  // A request's own values win.
  const auto ask = [&](const char* body) {
    const Json json = Json::parse(body);
    Ask a;
    read_options(Fields(json), facts, &a);
    return a;
  };
  EXPECT_EQ(ask("{}").max_tokens, 9);
  EXPECT_EQ(ask("{}").stops.size(), 2u);
  const Ask own = ask(R"({"options":{"num_predict":-1,"stop":[],"top_k":7}})");
  EXPECT_EQ(own.max_tokens, -1);
  EXPECT_TRUE(own.stops.empty());
  EXPECT_EQ(own.sampling.top_k, 7);
}

TEST(OllamaRequest, TakesTemplatesOfJinjaOnly) {
  const ModelFacts facts = thinker();
  EXPECT_NE(
      defaults_of(facts, R"({"template":"{{ messages[0].content }}","system":"x"})").chat_template,
      nullptr);
  for (const char* go : {"{{ .Prompt }}", "{{ if .System }}{{ .System }}{{ end }}",
                         "{{- range $i, $_ := .Messages }}{{ .Content }}{{ end }}"}) {
    try {
      defaults_of(facts, Json({{"template", go}}).dump().c_str());
      ADD_FAILURE() << go;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUnsupported) << go;
      EXPECT_NE(std::string(e.what()).find("not in Go's"), std::string::npos) << e.what();
    }
  }
  for (const char* refused :
       {R"({"system":"without a template"})", R"({"messages":[{"role":"king"}]})",
        R"({"parameters":{"top_p":7}})", R"({"parameters":[]})", R"({"license":5})",
        R"({"parameters":{"num_ctx":101}})", R"({"system":5})"}) {
    EXPECT_THROW(defaults_of(facts, refused), Error) << refused;
  }
}

}  // namespace
}  // namespace kt::serve::ollama
