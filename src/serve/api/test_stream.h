// Drives a codec as a reply does, for tests: events one by one, then the end.
//
// Thread rule: one thread.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "serve/reply.h"

namespace kt::serve {

using Kind = text::ReplyEvent::Kind;

/// A call of `weather` with these arguments, in two pieces; `ended`: with its kCallEnd.
inline std::vector<text::ReplyEvent> call_events(int index, const std::string& arguments,
                                                 bool ended = true) {
  const std::size_t half = arguments.size() / 2;
  std::vector<text::ReplyEvent> events = {
      {Kind::kCallBegin, "weather", "call_" + std::to_string(index), index},
      {Kind::kCallArguments, arguments.substr(0, half), {}, index},
      {Kind::kCallArguments, arguments.substr(half), {}, index}};
  if (ended) events.push_back({Kind::kCallEnd, {}, {}, index});
  return events;
}

/// What the events add up to.
inline Choice choice_of(const std::vector<text::ReplyEvent>& events, Finish finish) {
  Choice choice;
  choice.finish = finish;
  for (const text::ReplyEvent& e : events) {
    if (e.kind == Kind::kContent) choice.content += e.text;
    if (e.kind == Kind::kReasoning) choice.reasoning += e.text;
    if (e.kind == Kind::kCallBegin) choice.calls.push_back({e.id, e.text, {}});
    if (e.kind == Kind::kCallArguments) choice.calls.back().arguments += e.text;
  }
  return choice;
}

inline Usage test_usage() {
  Usage usage;
  usage.n_prompt = 10;
  usage.n_cached = 4;
  usage.n_generated = 7;
  usage.prefill_seconds = 1;
  usage.decode_seconds = 2;
  usage.total_seconds = 4;
  return usage;
}

/// The body of the stream.
inline std::string stream(Codec& codec, const std::vector<text::ReplyEvent>& events,
                          const Choice& choice) {
  std::string out;
  codec.begin(1, out);
  for (const text::ReplyEvent& event : events) codec.event(0, event, {}, out);
  codec.end_choice(0, choice, out);
  codec.end({choice}, test_usage(), out);
  return out;
}

}  // namespace kt::serve
