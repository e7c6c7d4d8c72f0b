// Any text as a reply of any family, whole and in pieces: both must say the same, and no more than
// the text could.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "text/reply_parser.h"

namespace {

using kt::text::ReplyEvent;

constexpr std::string_view kTools =
    R"([{"type": "function", "function": {"name": "f", "parameters": {"properties":
        {"s": {"type": "string"}, "n": {"type": "integer"}, "o": {"type": "object"}}}}}])";

std::string spelled(const std::vector<ReplyEvent>& events, std::string text) {
  static int last = -1;
  if (text.empty()) last = -1;
  for (const ReplyEvent& e : events) {
    if (static_cast<int>(e.kind) != last || e.kind == ReplyEvent::Kind::kCallBegin)
      text += "\n#" + std::to_string(static_cast<int>(e.kind)) + std::to_string(e.index) + e.id;
    last = static_cast<int>(e.kind);
    text += e.text;
  }
  return text;
}

std::string parsed(const kt::text::ReplyFormat& format, std::string_view text, std::size_t step) {
  kt::text::ReplyParser parser(format, kTools, [] { return 7u; });
  std::string all;
  for (std::size_t at = 0; at < text.size(); at += step)
    all = spelled(parser.push(text.substr(at, step)), std::move(all));
  return spelled(parser.finish(), std::move(all));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 2) return 0;
  kt::text::ReplyFormat format;
  const int n_families = static_cast<int>(kt::text::ToolSyntax::kToolCallList) + 1;
  format.harmony = (data[0] & 64) != 0;
  format.starts_in_reasoning = (data[0] & 128) != 0;
  format.tools = static_cast<kt::text::ToolSyntax>((data[0] & 63) % n_families);
  format.reasoning_open = "<think>";
  format.reasoning_close = "</think>";
  const std::string_view text(reinterpret_cast<const char*>(data + 2), size - 2);
  const std::string whole = parsed(format, text, text.size() + 1);
  if (parsed(format, text, 1 + data[1] % 17) != whole) __builtin_trap();
  if (whole.size() > 64 * text.size() + 64) __builtin_trap();
  return 0;
}
