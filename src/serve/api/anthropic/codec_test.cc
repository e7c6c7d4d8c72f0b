#include "serve/api/anthropic/codec.h"

#include <gtest/gtest.h>

#include "serve/api/test_stream.h"

namespace kt::serve::anthropic {
namespace {

// The events of a stream; each line `event:` must name its type.
std::vector<Json> events_of(const std::string& text) {
  std::vector<Json> all;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find("\n\n", begin);
    const std::string event = text.substr(begin, end - begin);
    const std::size_t data = event.find("\ndata: ");
    all.push_back(Json::parse(event.substr(data + 7)));
    EXPECT_EQ(event.substr(0, data), "event: " + all.back()["type"].get<std::string>());
    begin = end + 2;
  }
  return all;
}

std::vector<Json> streamed(const std::vector<text::ReplyEvent>& events, const Choice& choice) {
  CodecOptions options;
  options.stream = true;
  options.n_prompt = 10;
  return events_of(stream(*make_codec(options), events, choice));
}

std::string types(const std::vector<Json>& events) {
  std::string text;
  for (const Json& event : events) {
    text += text.empty() ? "" : " ";
    text += event["type"].get<std::string>();
    if (event.contains("index")) text += event["index"].dump();
  }
  return text;
}

Json whole(const Choice& choice) {
  return Json::parse(make_codec({})->whole({choice}, test_usage()));
}

std::vector<text::ReplyEvent> thought_text_call() {
  std::vector<text::ReplyEvent> events = {{Kind::kReasoning, "h", {}, 0},
                                          {Kind::kReasoning, "m", {}, 0},
                                          {Kind::kContent, "so", {}, 0}};
  for (auto& event : call_events(0, R"({"city":"Bonn"})")) events.push_back(event);
  return events;
}

TEST(AnthropicCodec, ClosesABlockBeforeTheNext) {
  const auto events = thought_text_call();
  const auto all = streamed(events, choice_of(events, Finish::kToolCalls));
  EXPECT_EQ(types(all),
            "message_start "
            "content_block_start0 content_block_delta0 content_block_delta0 content_block_delta0 "
            "content_block_stop0 "
            "content_block_start1 content_block_delta1 content_block_stop1 "
            "content_block_start2 content_block_delta2 content_block_delta2 content_block_stop2 "
            "message_delta message_stop");
  EXPECT_EQ(all[0]["message"]["content"], Json::array());
  EXPECT_EQ(all[0]["message"]["usage"]["input_tokens"], 10);
  EXPECT_EQ(all[1]["content_block"].dump(), R"({"type":"thinking","thinking":"","signature":""})");
  EXPECT_EQ(all[4]["delta"].dump(), R"({"type":"signature_delta","signature":""})");
  EXPECT_EQ(all[9]["content_block"].dump(),
            R"({"type":"tool_use","id":"call_0","name":"weather","input":{}})");
  EXPECT_EQ(all[10]["delta"]["partial_json"].get<std::string>() +
                all[11]["delta"]["partial_json"].get<std::string>(),
            R"({"city":"Bonn"})");
  EXPECT_EQ(all[13]["delta"].dump(), R"({"stop_reason":"tool_use","stop_sequence":null})");
  EXPECT_EQ(all[13]["usage"]["input_tokens"], 6);
  EXPECT_EQ(all[13]["usage"]["cache_read_input_tokens"], 4);
  EXPECT_EQ(all[13]["usage"]["output_tokens"], 7);
}

TEST(AnthropicCodec, WritesWholeMessages) {
  const Json message = whole(choice_of(thought_text_call(), Finish::kToolCalls));
  EXPECT_EQ(message["content"].dump(),
            R"([{"type":"thinking","thinking":"hm","signature":""},{"type":"text","text":"so"},)"
            R"({"type":"tool_use","id":"call_0","name":"weather","input":{"city":"Bonn"}}])");
  EXPECT_EQ(message["stop_reason"], "tool_use");
  EXPECT_FALSE(message.contains("timings"));
}

TEST(AnthropicCodec, LeavesThinkingOutWhenAsked) {
  CodecOptions options;
  options.show_thinking = false;
  const auto events = thought_text_call();
  const Choice choice = choice_of(events, Finish::kToolCalls);
  const Json message = Json::parse(make_codec(options)->whole({choice}, test_usage()));
  EXPECT_EQ(message["content"][0].dump(), R"({"type":"thinking","thinking":"","signature":""})");
  options.stream = true;
  EXPECT_EQ(types(events_of(stream(*make_codec(options), events, choice))).substr(0, 75),
            "message_start content_block_start0 content_block_delta0 content_block_stop0");
}

TEST(AnthropicCodec, TellsWhyItStopped) {
  Choice choice;
  EXPECT_EQ(whole(choice)["stop_reason"], "end_turn");
  choice.stop_string = "END";
  EXPECT_EQ(whole(choice)["stop_reason"], "stop_sequence");
  EXPECT_EQ(whole(choice)["stop_sequence"], "END");
  choice.finish = Finish::kLength;
  EXPECT_EQ(whole(choice)["stop_reason"], "max_tokens");
  EXPECT_EQ(whole(choice)["stop_sequence"], nullptr);
}

TEST(AnthropicCodec, ClosesACallThatTheLimitCutOff) {
  const auto events = call_events(0, R"({"city":"Bo)", false);
  const Choice choice = choice_of(events, Finish::kLength);
  EXPECT_EQ(types(streamed(events, choice)),
            "message_start content_block_start0 content_block_delta0 content_block_delta0 "
            "content_block_stop0 message_delta message_stop");
  EXPECT_EQ(whole(choice)["content"], Json::array());
}

TEST(AnthropicCodec, TellsWhatGoesWrongInAnEvent) {
  std::string out;
  make_codec({})->fail({503, "full"}, out);
  EXPECT_EQ(out,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\","
            "\"message\":\"full\"},\"request_id\":null}\n\n");
}

}  // namespace
}  // namespace kt::serve::anthropic
