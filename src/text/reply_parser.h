// Takes a reply apart as it streams: content, reasoning, tool calls with their arguments as JSON
// text.
//
//   push(text with markers) → events that are certain; finish() → the rest
//
// What may begin a marker is held back until it is certain, so that no marker shows in content.
// Calls are looked for in content only, never inside reasoning. Unknown functions are reported too.
// Arguments stream as the model writes them, except where its syntax is not JSON: then they are put
// together, typed by the tool's schema. A call that the text breaks off is reported as far as it
// came, without its kCallEnd. Time is linear in the text; how it is cut does not change what the
// events add up to. Thread rule: one thread per object.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/reply_format.h"

namespace kt::text {

struct ReplyEvent {
  enum class Kind { kContent, kReasoning, kCallBegin, kCallArguments, kCallEnd };
  Kind kind = Kind::kContent;
  std::string text;  // kCallBegin: the function's name; kCallArguments: more of the JSON text
  std::string id;    // kCallBegin
  int index = 0;     // of the call
};

/// Random 64-bit numbers, of which ids of calls are made; tests give their own.
using IdMaker = std::function<std::uint64_t()>;

class ReplyParser {
 public:
  /// tools_json: the request's tools, for the types of arguments; may be empty. Throws kUsage when
  /// it is no JSON array.
  explicit ReplyParser(const ReplyFormat& format, std::string_view tools_json = {},
                       IdMaker make_id = {});
  ~ReplyParser();
  ReplyParser(ReplyParser&&) noexcept;
  ReplyParser& operator=(ReplyParser&&) noexcept;

  /// The next piece of the text; the detokenizer must have kept the markers (marker_tokens()).
  std::vector<ReplyEvent> push(std::string_view text);
  /// The end of the text.
  std::vector<ReplyEvent> finish();
  /// Calls begun so far.
  int n_calls() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kt::text
