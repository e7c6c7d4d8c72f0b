// What a finished request looks like as spans of OpenTelemetry: one for all of it, and within it
// its time in the queue, in its prompt and in the steps after.
//
//   POST /v1/chat/completions → "chat MODEL" { "queue", "prefill", "decode" }
//
// Attributes follow the semantic conventions for generative AI and for HTTP; no text of prompts or
// replies is among them. Thread rule: pure.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "serve/reply.h"

namespace kt::serve {

/// Where a trace goes on (W3C Trace Context).
struct TraceParent {
  std::string trace_id, span_id;  // lower-case hexadecimal
  bool sampled = true;
};
/// Nothing for a header that is missing or not as the standard wants it.
std::optional<TraceParent> parse_traceparent(std::string_view header);

struct FinishedRequest {
  const http::Request& request;
  std::string_view route;
  const Problem* problem = nullptr;  // null: it went well
  /// Of replies by a model.
  struct Reply {
    const Asked& asked;
    const Usage& usage;
    const std::vector<Choice>& choices;
    double seconds_to_first;  // below 0: no token came
  };
  std::optional<Reply> reply{};
};

/// The spans of a request that ends now, as OTLP writes them in JSON. None when the client's own
/// span is not recorded.
std::vector<Json> request_spans(const FinishedRequest& finished);

}  // namespace kt::serve
