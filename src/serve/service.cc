#include "serve/service.h"

#include <ctime>

#include "base/error.h"
#include "base/suggest.h"
#include "serve/deferred.h"
#include "serve/ids.h"
#include "serve/routes.h"

namespace kt::serve {
namespace {

constexpr std::chrono::minutes kLongestLoad{30};

bool matches(const Route& route, std::string_view path) {
  if (!route.path.ends_with('*')) return route.path == path;
  const std::string_view prefix = route.path.substr(0, route.path.size() - 1);
  return path.size() > prefix.size() && path.starts_with(prefix);
}

bool same_method(std::string_view wanted, std::string_view got) {
  return wanted == got || (wanted == "GET" && got == "HEAD");
}

const Route* find_route(const http::Request& request) {
  for (const Route& route : routes()) {
    if (same_method(route.method, request.method) && matches(route, request.path)) return &route;
  }
  return nullptr;
}

// Nothing there at all, or nothing for this method.
Problem no_route(const http::Request& request) {
  std::string allowed;
  std::vector<std::string> paths;
  for (const Route& route : routes()) {
    if (matches(route, request.path)) {
      allowed += (allowed.empty() ? "" : ", ") + std::string(route.method);
    }
    paths.emplace_back(route.path);
  }
  if (!allowed.empty()) {
    Problem problem{405, fmt::format("{} takes {}, not {}", request.path, allowed, request.method)};
    problem.headers = {{"allow", allowed}};
    return problem;
  }
  const auto near = nearest(request.path, paths);
  return {404, fmt::format("there is nothing at {}{}", request.path,
                           near ? fmt::format("; did you mean {}?", *near) : "")};
}

// The client's own id of the request, when it is a short one, or one of ours.
void name_request(http::Request& request) {
  constexpr std::size_t kLongest = 128;
  const std::string_view given = request.header("x-request-id");
  if (!given.empty() && given.size() <= kLongest) return;
  std::erase_if(request.headers, [](const auto& h) { return h.first == "x-request-id"; });
  request.headers.emplace_back("x-request-id", make_id("req_"));
}

std::string now_text() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

}  // namespace

http::Reply json_reply(const Json& json, int status) {
  http::Reply reply;
  reply.head.status = status;
  reply.body = wire(json);
  return reply;
}

Service::Service(ServiceOptions options, Models& models)
    : options_(std::move(options)),
      access_(options_.access),
      models_(models),
      started_(std::time(nullptr)) {}

std::optional<http::Reply> Service::admit(const http::Request& request) {
  const Route* route = find_route(request);
  std::optional<Problem> problem = access_.check(request, route != nullptr && route->open);
  if (!problem && route == nullptr && request.method != "OPTIONS") problem = no_route(request);
  if (!problem) return std::nullopt;
  return finish(request, route != nullptr ? route->path : "none",
                problem_reply(protocol_of(request.path), *problem));
}

Answer Service::handle(http::Request request) {
  name_request(request);
  if (request.method == "OPTIONS") return finish(request, "options", {{204, {}, {}}, {}});
  const Route& route = *find_route(request);
  if (auto answer = attempt(route, request, true)) return std::move(*answer);
  // The model is being opened for this request.
  const auto shared = std::make_shared<const http::Request>(std::move(request));
  const auto end = std::chrono::steady_clock::now() + kLongestLoad;
  try {
    return defer([this, &route, shared, end] {
      return attempt(route, *shared, std::chrono::steady_clock::now() < end);
    });
  } catch (...) {
    return finish(*shared, route.path, problem_reply(protocol_of(shared->path), current_problem()));
  }
}

// The answer of a handler; null when the request is to wait for its model, and may.
std::unique_ptr<Answer> Service::attempt(const Route& route, const http::Request& request,
                                         bool may_wait) {
  try {
    Answer answer = route.handler(*this, request);
    if (auto* reply = std::get_if<http::Reply>(&answer)) {
      answer = finish(request, route.path, std::move(*reply));
    } else {
      metrics_.count_request(route.path, request.method, 200);
    }
    return std::make_unique<Answer>(std::move(answer));
  } catch (...) {
    const Problem problem = current_problem();
    if (problem.may_wait && may_wait && request.method == "POST") return nullptr;
    return std::make_unique<Answer>(
        finish(request, route.path, problem_reply(protocol_of(request.path), problem)));
  }
}

http::Reply Service::refuse(const http::Request& request, int status, const std::string& why) {
  return finish(request, "unread", problem_reply(protocol_of(request.path), {status, why}));
}

http::Headers Service::common_headers(const http::Request& request) const {
  http::Headers headers = access_.cors(request);
  const std::string_view id = request.header("x-request-id");
  if (!id.empty()) headers.emplace_back("x-request-id", std::string(id));
  return headers;
}

http::Reply Service::finish(const http::Request& request, std::string_view route,
                            http::Reply reply) {
  metrics_.count_request(route, request.method, reply.head.status);
  for (auto& header : common_headers(request)) reply.head.headers.push_back(std::move(header));
  if (options_.log && route != "none") log(request, reply.head.status, nullptr, 0.0);
  return reply;
}

Answer Service::reply(const http::Request& request, Generation generation,
                      std::unique_ptr<Codec> codec) {
  const auto on_done =
      [this, request = http::Request{request.method, request.path, {}, request.headers, {}}](
          const Usage& usage, const std::vector<Choice>& choices, double seconds_to_first,
          const Problem* problem) {
        metrics_.count_reply(usage, choices, seconds_to_first, problem);
        if (options_.log)
          log(request, problem != nullptr ? problem->status : 200, &usage, usage.total_seconds);
      };
  return make_reply(protocol_of(request.path), std::move(generation), std::move(codec), on_done,
                    common_headers(request));
}

void Service::log(const http::Request& request, int status, const Usage* usage, double seconds) {
  const std::string_view id = request.header("x-request-id");
  Json line = {{"time", now_text()},
               {"method", request.method},
               {"path", request.path},
               {"status", status},
               {"request_id", id.empty() ? make_id("req_") : std::string(id)}};
  if (usage != nullptr) {
    line["seconds"] = seconds;
    line["prompt_tokens"] = usage->n_prompt;
    line["cached_tokens"] = usage->n_cached;
    line["completion_tokens"] = usage->n_generated;
    line["prefill_seconds"] = usage->prefill_seconds;
    line["decode_seconds"] = usage->decode_seconds;
  }
  options_.log(wire(line));
}

}  // namespace kt::serve
