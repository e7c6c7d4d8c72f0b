#include "serve/api/ollama/codec.h"

#include <gtest/gtest.h>

#include "serve/api/ollama/models.h"
#include "serve/api/ollama/times.h"
#include "serve/api/test_stream.h"

namespace kt::serve::ollama {
namespace {

std::vector<Json> lines(const std::string& text) {
  std::vector<Json> all;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    all.push_back(Json::parse(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return all;
}

std::vector<Json> streamed(const std::vector<text::ReplyEvent>& events, Finish finish) {
  const auto codec = make_codec({});
  return lines(stream(*codec, events, choice_of(events, finish)));
}

Json whole(const std::vector<text::ReplyEvent>& events, Finish finish, bool chat = true) {
  CodecOptions options;
  options.stream = false;
  options.chat = chat;
  return Json::parse(make_codec(options)->whole({choice_of(events, finish)}, test_usage()));
}

std::vector<text::ReplyEvent> joined(std::vector<text::ReplyEvent> a,
                                     const std::vector<text::ReplyEvent>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(OllamaCodec, StreamsThinkingThenContentThenWholeCalls) {
  const auto events = joined({{Kind::kReasoning, "hm", {}, 0}, {Kind::kContent, "so", {}, 0}},
                             joined(call_events(0, R"({"city":"Bonn"})"), call_events(1, "")));
  const auto all = streamed(events, Finish::kToolCalls);
  ASSERT_EQ(all.size(), 5u);
  EXPECT_EQ(all[0]["message"], (Json{{"role", "assistant"}, {"content", ""}, {"thinking", "hm"}}));
  EXPECT_EQ(all[1]["message"], (Json{{"role", "assistant"}, {"content", "so"}}));
  EXPECT_EQ(all[2]["message"]["tool_calls"].dump(),
            R"([{"id":"call_0","function":{"index":0,"name":"weather",)"
            R"("arguments":{"city":"Bonn"}}}])");
  EXPECT_EQ(all[3]["message"]["tool_calls"][0]["function"]["arguments"], Json::object());
  EXPECT_EQ(all[4]["done_reason"], "stop");
  EXPECT_EQ(all[4]["total_duration"], 4'000'000'000);
  EXPECT_EQ(all[4]["load_duration"], 1'000'000'000);
  EXPECT_EQ(all[4]["prompt_eval_count"], 10);

  const Json message = whole(events, Finish::kToolCalls)["message"];
  EXPECT_EQ(message["thinking"], "hm");
  EXPECT_EQ(message["tool_calls"].size(), 2u);
  EXPECT_EQ(message["tool_calls"][0], all[2]["message"]["tool_calls"][0]);
}

TEST(OllamaCodec, LeavesOutACallThatTheLimitCutOff) {
  const auto events =
      joined(call_events(0, R"({"city":"Bonn"})"), call_events(1, R"({"city":"Bo)", false));
  const auto all = streamed(events, Finish::kLength);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0]["message"]["tool_calls"][0]["id"], "call_0");
  EXPECT_EQ(all[1]["done_reason"], "length");
  EXPECT_EQ(whole(events, Finish::kLength)["message"]["tool_calls"].size(), 1u);
}

TEST(OllamaCodec, KeepsArgumentsThatAreNoObject) {
  const auto all = streamed(call_events(0, "Bonn", false), Finish::kToolCalls);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0]["message"]["tool_calls"][0]["function"]["arguments"],
            (Json{{"invalid_arguments", "Bonn"}}));
}

TEST(OllamaCodec, GeneratesWithThinking) {
  const Json reply =
      whole({{Kind::kReasoning, "hm", {}, 0}, {Kind::kContent, "so", {}, 0}}, Finish::kStop, false);
  EXPECT_EQ(reply["response"], "so");
  EXPECT_EQ(reply["thinking"], "hm");
  EXPECT_FALSE(reply.contains("message"));
}

TEST(OllamaCodec, TellsWhatGoesWrongInALine) {
  std::string out;
  make_codec({})->fail({500, "broke"}, out);
  EXPECT_EQ(out, "{\"error\":\"broke\"}\n");
}

TEST(OllamaTimes, ReadsDurations) {
  EXPECT_EQ(duration_seconds("5m"), 300);
  EXPECT_EQ(duration_seconds("1h30m"), 5400);
  EXPECT_EQ(duration_seconds("1.5h"), 5400);
  EXPECT_EQ(duration_seconds("-1s"), -1);
  EXPECT_EQ(duration_seconds("250ms"), 0.25);
  EXPECT_EQ(duration_seconds("0"), 0);
  EXPECT_EQ(duration_seconds("-1"), -1);
  for (const char* wrong : {"", "m", "5 m", "5x", "5m3", "--1s", "inf", "nan", "1e3s"})
    EXPECT_EQ(duration_seconds(wrong), std::nullopt) << wrong;
}

TEST(OllamaTimes, WritesNanoseconds) {
  EXPECT_EQ(time_text(std::chrono::system_clock::time_point(std::chrono::nanoseconds(1500))),
            "1970-01-01T00:00:00.000001500Z");
}

}  // namespace
}  // namespace kt::serve::ollama
