#include "serve/api/openai/responses_codec.h"

#include <gtest/gtest.h>

#include "serve/api/test_stream.h"

namespace kt::serve::openai {
namespace {

// The events of a stream, whose lines `event:` and numbers must be right.
std::vector<Json> streamed(const std::vector<text::ReplyEvent>& events, Finish finish) {
  ResponseOptions options;
  options.stream = true;
  const std::string text = stream(*make_response_codec(options), events, choice_of(events, finish));
  std::vector<Json> all;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find("\n\n", begin);
    const std::string event = text.substr(begin, end - begin);
    const std::size_t data = event.find("\ndata: ");
    all.push_back(Json::parse(event.substr(data + 7)));
    EXPECT_EQ(event.substr(0, data), "event: " + all.back()["type"].get<std::string>());
    EXPECT_EQ(all.back()["sequence_number"], all.size() - 1);
    begin = end + 2;
  }
  return all;
}

std::string types(const std::vector<Json>& events) {
  std::string text;
  for (const Json& event : events)
    text += event["type"].get<std::string>().substr(std::string_view("response.").size()) + " ";
  return text;
}

Json whole(const std::vector<text::ReplyEvent>& events, Finish finish) {
  return Json::parse(make_response_codec({})->whole({choice_of(events, finish)}, test_usage()));
}

// Ids are random.
Json without_ids(Json output) {
  for (Json& item : output) item.erase("id");
  return output;
}

TEST(ResponsesCodec, StreamsItemsOneAfterTheOther) {
  std::vector<text::ReplyEvent> events = {{Kind::kReasoning, "hm", {}, 0},
                                          {Kind::kContent, "so", {}, 0}};
  for (auto& event : call_events(0, R"({"city":"Bonn"})")) events.push_back(event);
  const auto all = streamed(events, Finish::kToolCalls);
  EXPECT_EQ(types(all),
            "created in_progress "
            "output_item.added content_part.added reasoning_text.delta reasoning_text.done "
            "content_part.done output_item.done "
            "output_item.added content_part.added output_text.delta output_text.done "
            "content_part.done output_item.done "
            "output_item.added function_call_arguments.delta function_call_arguments.delta "
            "function_call_arguments.done output_item.done "
            "completed ");
  EXPECT_EQ(all[4]["delta"], "hm");
  EXPECT_EQ(all[11]["text"], "so");
  EXPECT_EQ(all[11]["output_index"], 1);
  EXPECT_EQ(all[11]["content_index"], 0);
  EXPECT_EQ(all[14]["item"]["call_id"], "call_0");
  EXPECT_EQ(all[17]["arguments"], R"({"city":"Bonn"})");
  EXPECT_EQ(all[17]["item_id"], all[14]["item"]["id"]);
  const Json& response = all.back()["response"];
  EXPECT_EQ(response["output"][2], all[18]["item"]);
  EXPECT_EQ(response["usage"]["total_tokens"], 17);
  EXPECT_EQ(response["usage"]["input_tokens_details"]["cached_tokens"], 4);
  EXPECT_EQ(without_ids(response["output"]),
            without_ids(whole(events, Finish::kToolCalls)["output"]));
}

TEST(ResponsesCodec, TellsWhatTheLimitCutOff) {
  for (const auto& events : {std::vector<text::ReplyEvent>{{Kind::kReasoning, "hm", {}, 0}},
                             std::vector<text::ReplyEvent>{{Kind::kReasoning, "hm", {}, 0},
                                                           {Kind::kContent, "s", {}, 0}},
                             call_events(0, R"({"city":"Bo)", false)}) {
    const auto all = streamed(events, Finish::kLength);
    const Json& response = all.back()["response"];
    EXPECT_EQ(all.back()["type"], "response.incomplete");
    EXPECT_EQ(response["status"], "incomplete");
    EXPECT_EQ(response["incomplete_details"]["reason"], "max_output_tokens");
    EXPECT_EQ(response["output"].back()["status"], "incomplete");
    EXPECT_EQ(without_ids(response["output"]),
              without_ids(whole(events, Finish::kLength)["output"]));
  }
}

TEST(ResponsesCodec, TellsWhatGoesWrong) {
  std::string out;
  make_response_codec({})->fail({500, "broke"}, out);
  EXPECT_TRUE(out.starts_with("event: response.failed\n")) << out;
  EXPECT_NE(out.find(R"("error":{"code":"server_error","message":"broke"})"), std::string::npos);
}

}  // namespace
}  // namespace kt::serve::openai
