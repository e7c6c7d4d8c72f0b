#include "serve/request_spans.h"

#include <fmt/format.h>

#include <chrono>
#include <random>

namespace kt::serve {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kServer = 2, kInternal = 1;  // kinds of spans
constexpr int kError = 2;                  // status

std::string random_hex(int n_words) {
  thread_local std::mt19937_64 random{std::random_device{}()};
  std::string hex;
  for (int i = 0; i < n_words; ++i) hex += fmt::format("{:016x}", random() | 1u);
  return hex;
}

Json value_of(const Json& value) {
  if (value.is_boolean()) return {{"boolValue", value}};
  if (value.is_number_integer()) return {{"intValue", value.dump()}};
  if (value.is_number()) return {{"doubleValue", value}};
  if (!value.is_array()) return {{"stringValue", value}};
  Json values = Json::array();
  for (const Json& v : value) values.push_back(value_of(v));
  return {{"arrayValue", {{"values", std::move(values)}}}};
}

// The members of an object as a list of attributes.
Json attributes_of(const Json& object) {
  Json list = Json::array();
  for (const auto& [key, value] : object.items())
    list.push_back({{"key", key}, {"value", value_of(value)}});
  return list;
}

std::string_view operation_of(std::string_view route) {
  if (route.ends_with("/chat/completions") || route == "/v1/messages" || route == "/v1/responses" ||
      route == "/api/chat") {
    return "chat";
  }
  return route.ends_with("/completions") || route == "/api/generate" ? "text_completion"
                                                                     : std::string_view();
}

double plain(float value) { return std::stod(fmt::format("{}", value)); }

void add_reply(const FinishedRequest::Reply& reply, Json* attributes) {
  Json& a = *attributes;
  const engine::SamplingParams& sampling = reply.asked.sampling;
  a["gen_ai.provider.name"] = "ktransformers";
  a["gen_ai.request.model"] = a["gen_ai.response.model"] = reply.asked.model;
  if (reply.asked.max_tokens >= 0) a["gen_ai.request.max_tokens"] = reply.asked.max_tokens;
  a["gen_ai.request.temperature"] = plain(sampling.temperature);
  a["gen_ai.request.top_p"] = plain(sampling.top_p);
  a["gen_ai.request.top_k"] = sampling.top_k;
  if (reply.asked.n > 1) a["gen_ai.request.choice.count"] = reply.asked.n;
  a["gen_ai.usage.input_tokens"] = reply.usage.n_prompt;
  a["gen_ai.usage.cache_read.input_tokens"] = reply.usage.n_cached;
  std::size_t n_generated = 0;
  Json reasons = Json::array();
  for (const Choice& choice : reply.choices) {
    n_generated += choice.tokens.size();
    reasons.push_back(choice.finish == Finish::kLength      ? "length"
                      : choice.finish == Finish::kToolCalls ? "tool_calls"
                                                            : "stop");
  }
  a["gen_ai.usage.output_tokens"] = n_generated;
  a["gen_ai.usage.reasoning.output_tokens"] = reply.usage.n_reasoning;
  a["gen_ai.response.finish_reasons"] = std::move(reasons);
}

struct Interval {
  Clock::time_point begin, end;
};

class Spans {
 public:
  explicit Spans(const std::optional<TraceParent>& parent)
      : trace_id_(parent ? parent->trace_id : random_hex(2)),
        parent_id_(parent ? parent->span_id : std::string()) {}

  // The first span is the parent of all later ones.
  void add(std::string name, Interval time, const Json& attributes) {
    Json span = {{"traceId", trace_id_}, {"spanId", random_hex(1)}};
    if (!parent_id_.empty()) span["parentSpanId"] = parent_id_;
    span["name"] = std::move(name);
    span["kind"] = all_.empty() ? kServer : kInternal;
    span["startTimeUnixNano"] = unix_time(time.begin);
    span["endTimeUnixNano"] = unix_time(time.end);
    span["attributes"] = attributes_of(attributes);
    if (all_.empty()) parent_id_ = span["spanId"];
    all_.push_back(std::move(span));
  }
  void fail(const std::string& message) {
    all_.front()["status"] = {{"code", kError}, {"message", message}};
  }
  std::vector<Json> take() { return std::move(all_); }

 private:
  std::string unix_time(Clock::time_point time) const {
    const auto nanoseconds = std::chrono::nanoseconds(now_unix_.time_since_epoch()) -
                             std::chrono::nanoseconds(now_ - time);
    return fmt::format("{}", nanoseconds.count());
  }
  const std::string trace_id_;
  std::string parent_id_;
  const Clock::time_point now_ = Clock::now();
  const std::chrono::system_clock::time_point now_unix_ = std::chrono::system_clock::now();
  std::vector<Json> all_;
};

void add_phases(const FinishedRequest::Reply& reply, Clock::time_point end, Spans& spans) {
  const Usage& usage = reply.usage;
  const auto at = [&](double seconds) {
    return end - std::chrono::duration_cast<Clock::duration>(
                     std::chrono::duration<double>(usage.total_seconds - seconds));
  };
  const double first = reply.seconds_to_first;
  if (usage.queue_seconds >= 0) {
    spans.add("queue", {at(0), at(usage.queue_seconds)}, Json::object());
    spans.add("prefill", {at(usage.queue_seconds), at(first >= 0 ? first : usage.total_seconds)},
              {{"kt.prompt_tokens", usage.n_prompt - usage.n_cached}});
  }
  if (first >= 0)
    spans.add("decode", {at(first), at(usage.total_seconds)}, {{"kt.steps", usage.n_decoded}});
}

}  // namespace

std::optional<TraceParent> parse_traceparent(std::string_view header) {
  // version "-" trace-id "-" parent-id "-" flags; later versions may go on behind another "-".
  constexpr std::size_t kLength = 55;
  const std::string_view version = header.substr(0, 2);
  if (header.size() < kLength || version == "ff" || (version == "00" && header.size() > kLength) ||
      (header.size() > kLength && header[kLength] != '-')) {
    return std::nullopt;
  }
  for (std::size_t i = 0; i < kLength; ++i) {
    const bool dash = i == 2 || i == 35 || i == 52;
    const bool hex =
        (header[i] >= '0' && header[i] <= '9') || (header[i] >= 'a' && header[i] <= 'f');
    if (dash ? header[i] != '-' : !hex) return std::nullopt;
  }
  TraceParent parent{std::string(header.substr(3, 32)), std::string(header.substr(36, 16))};
  const auto is_zero = [](const std::string& id) {
    return id.find_first_not_of('0') == std::string::npos;
  };
  if (is_zero(parent.trace_id) || is_zero(parent.span_id)) return std::nullopt;
  const char low = header[54];
  parent.sampled = ((low >= 'a' ? low - 'a' + 10 : low - '0') & 1) != 0;
  return parent;
}

std::vector<Json> request_spans(const FinishedRequest& finished) {
  const auto parent = parse_traceparent(finished.request.header("traceparent"));
  if (parent && !parent->sampled) return {};
  const Clock::time_point now = Clock::now();
  const std::string_view operation = operation_of(finished.route);
  std::string name = operation.empty()
                         ? fmt::format("{} {}", finished.request.method, finished.route)
                         : std::string(operation);
  Json attributes = {
      {"http.request.method", finished.request.method},
      {"http.route", finished.route},
      {"url.path", finished.request.path},
      {"http.response.status_code", finished.problem != nullptr ? finished.problem->status : 200}};
  const std::string_view id = finished.request.header("x-request-id");
  if (!id.empty()) attributes["http.response.header.x-request-id"] = Json::array({id});
  if (!operation.empty()) attributes["gen_ai.operation.name"] = operation;
  if (finished.problem != nullptr) {
    const std::string& code = finished.problem->code;
    attributes["error.type"] = code.empty() ? std::to_string(finished.problem->status) : code;
  }
  if (finished.reply) {
    add_reply(*finished.reply, &attributes);
    name += " " + finished.reply->asked.model;
  }
  Spans spans(parent);
  spans.add(std::move(name), {finished.request.received, now}, attributes);
  if (finished.problem != nullptr && finished.problem->status >= 500)
    spans.fail(finished.problem->message);
  if (finished.reply) add_phases(*finished.reply, now, spans);
  return spans.take();
}

}  // namespace kt::serve
