#include "serve/request_spans.h"

#include <gtest/gtest.h>

namespace kt::serve {
namespace {

constexpr const char* kParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceParent, IsReadAsTheStandardWritesIt) {
  const auto parent = parse_traceparent(kParent);
  ASSERT_TRUE(parent);
  EXPECT_EQ(parent->trace_id, "0af7651916cd43dd8448eb211c80319c");
  EXPECT_EQ(parent->span_id, "b7ad6b7169203331");
  EXPECT_TRUE(parent->sampled);
  EXPECT_FALSE(parse_traceparent(std::string(kParent).replace(53, 2, "00"))->sampled);
  EXPECT_TRUE(parse_traceparent(std::string(kParent).replace(0, 2, "01") + "-more"));
}

TEST(TraceParent, IsNothingWhenItIsWrong) {
  const std::string good = kParent;
  for (const std::string& bad :
       {std::string(), good.substr(1), good + "-more", good + "0",
        std::string(good).replace(0, 2, "ff"),
        std::string(good).replace(3, 32, std::string(32, '0')),
        std::string(good).replace(5, 1, "F"),
        std::string(good).replace(36, 16, std::string(16, '0')),
        std::string(good).replace(35, 1, "_"), std::string(good).replace(0, 2, "01") + "more"}) {
    EXPECT_FALSE(parse_traceparent(bad)) << bad;
  }
}

struct Example {
  http::Request request{"POST", "/v1/messages", {}, {{"traceparent", kParent}}, {}};
  Asked asked{"m", {}, 5, 2};
  Usage usage;
  std::vector<Choice> choices{2};
  Example() {
    request.received -= std::chrono::seconds(10);
    usage.n_prompt = 10;
    usage.n_cached = 4;
    usage.queue_seconds = 1;
    usage.total_seconds = 8;
    choices[1].finish = Finish::kLength;
  }
};

double seconds(const Json& span, const char* name) {
  return std::stod(span[name].get<std::string>()) * 1e-9;
}

TEST(RequestSpans, TheTimesOfARequestFollowEachOther) {
  const Example e;
  const auto spans = request_spans({e.request, "/v1/messages", nullptr,
                                    FinishedRequest::Reply{e.asked, e.usage, e.choices, 3.0}});
  ASSERT_EQ(spans.size(), 4u);
  EXPECT_EQ(spans[0]["name"], "chat m");
  EXPECT_EQ(spans[0]["parentSpanId"], "b7ad6b7169203331");
  const double begin = seconds(spans[0], "startTimeUnixNano");
  const double end = seconds(spans[0], "endTimeUnixNano");
  EXPECT_NEAR(end - begin, 10, 0.5);
  const double wanted[] = {8, 7, 5, 0};  // before the end
  for (std::size_t i = 1; i < 4; ++i) {
    EXPECT_EQ(spans[i]["name"], (std::vector{"", "queue", "prefill", "decode"}[i]));
    EXPECT_EQ(spans[i]["traceId"], "0af7651916cd43dd8448eb211c80319c");
    EXPECT_EQ(spans[i]["parentSpanId"], spans[0]["spanId"]);
    EXPECT_NEAR(end - seconds(spans[i], "startTimeUnixNano"), wanted[i - 1], 1e-3);
    EXPECT_NEAR(end - seconds(spans[i], "endTimeUnixNano"), wanted[i], 1e-3);
  }
  const std::string attributes = spans[0]["attributes"].dump();
  for (const char* part :
       {R"({"key":"gen_ai.operation.name","value":{"stringValue":"chat"}})",
        R"({"key":"gen_ai.request.temperature","value":{"doubleValue":0.8}})",
        R"({"key":"gen_ai.usage.input_tokens","value":{"intValue":"10"}})",
        R"({"arrayValue":{"values":[{"stringValue":"stop"},{"stringValue":"length"}]}})"}) {
    EXPECT_NE(attributes.find(part), std::string::npos) << part << " in " << attributes;
  }
}

TEST(RequestSpans, WhatWentWrongIsTold) {
  const Example e;
  const Problem broken{500, "it broke"}, refused{404, "no such model", {}, "model_not_found"};
  auto spans = request_spans({e.request, "/v1/messages", &broken});
  ASSERT_EQ(spans.size(), 1u);
  EXPECT_EQ(spans[0]["status"]["code"], 2);
  EXPECT_EQ(spans[0]["status"]["message"], "it broke");
  spans = request_spans({e.request, "/tokenize", &refused});
  EXPECT_EQ(spans[0]["name"], "POST /tokenize");
  EXPECT_FALSE(spans[0].contains("status"));  // the client's fault is none of the server
  EXPECT_NE(spans[0]["attributes"].dump().find("model_not_found"), std::string::npos);
}

TEST(RequestSpans, ClientsMayLeaveTheirTraceOut) {
  Example e;
  e.request.headers[0].second.back() = '0';
  EXPECT_TRUE(request_spans({e.request, "/v1/messages"}).empty());
}

}  // namespace
}  // namespace kt::serve
