#include "serve/problem.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "session/worker.h"

namespace kt::serve {
namespace {

using Json = nlohmann::ordered_json;

struct Names {
  int status;
  const char* openai;
  const char* anthropic;
};

// The kinds of errors of the two protocols that have kinds.
const Names& names(int status) {
  static constexpr Names kNames[] = {
      {400, "invalid_request_error", "invalid_request_error"},
      {401, "authentication_error", "authentication_error"},
      {403, "permission_error", "permission_error"},
      {404, "not_found_error", "not_found_error"},
      {413, "invalid_request_error", "request_too_large"},
      {429, "rate_limit_error", "rate_limit_error"},
      {500, "server_error", "api_error"},
      {503, "unavailable_error", "overloaded_error"},
  };
  const Names* found = status < 500 ? &kNames[0] : &kNames[6];
  for (const Names& n : kNames) {
    if (n.status == status) found = &n;
  }
  return *found;
}

int status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::kUsage:
    case ErrorCode::kTooLong:
    case ErrorCode::kUnsupported: return 400;
    case ErrorCode::kNotFound: return 404;
    case ErrorCode::kCancelled: return 408;
    case ErrorCode::kNoMemory: return 503;
    case ErrorCode::kBadFile:
    case ErrorCode::kMismatch:
    case ErrorCode::kIo:
    case ErrorCode::kInternal: break;
  }
  return 500;
}

}  // namespace

Protocol protocol_of(std::string_view path) {
  if (path.starts_with("/api/")) return Protocol::kOllama;
  if (path.starts_with("/v1/messages")) return Protocol::kAnthropic;
  return Protocol::kOpenAi;
}

Problem current_problem() {
  try {
    throw;
  } catch (const Refusal& refusal) {
    return refusal.problem();
  } catch (const session::QueueFull& full) {
    return {503, full.what(), {}, "queue_full", 5};
  } catch (const Error& error) {
    Problem problem{status_of(error.code()), error.what()};
    if (problem.status == 400) problem.param = error.path();
    if (error.code() == ErrorCode::kTooLong) problem.code = "context_length_exceeded";
    return problem;
  } catch (const std::bad_alloc&) {
    return {503, "out of memory"};
  } catch (const std::exception& error) {
    return {500, error.what()};
  }
}

std::string problem_json(Protocol protocol, const Problem& problem) {
  Json json;
  const Names& kind = names(problem.status);
  const auto text_or_null = [](const std::string& text) {
    return text.empty() ? Json() : Json(text);
  };
  switch (protocol) {
    case Protocol::kOllama: json = {{"error", problem.message}}; break;
    case Protocol::kAnthropic:
      json = {{"type", "error"},
              {"error", {{"type", kind.anthropic}, {"message", problem.message}}},
              {"request_id", nullptr}};
      break;
    case Protocol::kOpenAi:
      json = {{"error",
               {{"message", problem.message},
                {"type", kind.openai},
                {"param", text_or_null(problem.param)},
                {"code", text_or_null(problem.code)}}}};
      break;
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

http::Reply problem_reply(Protocol protocol, const Problem& problem) {
  http::Reply reply;
  reply.head.status = problem.status;
  reply.head.headers = problem.headers;
  if (protocol == Protocol::kOllama) reply.head.content_type = "application/json; charset=utf-8";
  if (problem.retry_after > 0) {
    reply.head.headers.emplace_back("retry-after", fmt::format("{}", problem.retry_after));
  }
  reply.body = problem_json(protocol, problem);
  return reply;
}

}  // namespace kt::serve
