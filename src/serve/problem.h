// What went wrong with a request, and how each protocol says it.
//
// Thread rule: pure.
#pragma once
#include <exception>
#include <string>
#include <string_view>

#include "serve/http/message.h"

namespace kt::serve {

enum class Protocol { kOpenAi, kOllama, kAnthropic };

/// The protocol that a path belongs to.
Protocol protocol_of(std::string_view path);

struct Problem {
  int status = 500;  // HTTP
  std::string message;
  std::string param;        // the field concerned, or empty
  std::string code;         // as OpenAI names it ("model_not_found"), or empty
  int retry_after = 0;      // seconds; 0: not said
  http::Headers headers{};  // more of the reply's
};

/// Thrown by what handles requests, besides kt::Error.
class Refusal : public std::exception {
 public:
  explicit Refusal(Problem problem) : problem_(std::move(problem)) {}
  const char* what() const noexcept override { return problem_.message.c_str(); }
  const Problem& problem() const { return problem_; }

 private:
  Problem problem_;
};

/// Of an exception in flight: a Refusal, a kt::Error (its code gives the status), or anything else.
Problem current_problem();

/// The body that tells it: a JSON object.
std::string problem_json(Protocol protocol, const Problem& problem);
http::Reply problem_reply(Protocol protocol, const Problem& problem);

}  // namespace kt::serve
