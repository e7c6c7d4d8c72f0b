#include "text/reply_format.h"

#include <algorithm>
#include <array>
#include <utility>

#include "text/reply_syntax.h"

namespace kt::text {
namespace {

bool has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// A family is known by a text that its template alone contains; the first that fits counts, so the
// narrower ones come first.
ToolSyntax tools_of(std::string_view source) {
  constexpr std::array<std::pair<std::string_view, ToolSyntax>, 14> kSigns = {{
      {"｜DSML｜", ToolSyntax::kDsml},
      {"<｜tool▁call", ToolSyntax::kDeepSeek},
      {"<|tool_calls_section_begin|>", ToolSyntax::kKimi},
      {"<minimax:tool_call>", ToolSyntax::kMiniMax},
      {"<seed:tool_call>", ToolSyntax::kSeed},
      {"[TOOL_CALLS]", ToolSyntax::kMistral},
      {"<|START_ACTION|>", ToolSyntax::kCommand},
      {"<arg_key>", ToolSyntax::kGlm},
      {"<function=", ToolSyntax::kQwenCoder},
      {"minimax[>[", ToolSyntax::kNone},  // MiniMax M3: names as tags
      {"<tool_calls>", ToolSyntax::kToolCallList},
      {"<tool_call>", ToolSyntax::kHermes},
      {"<TOOLCALL>", ToolSyntax::kToolCallList},
      {"<|python_tag|>", ToolSyntax::kLlamaJson},
  }};
  for (const auto& [sign, syntax] : kSigns) {
    // Functionary writes <function=F>{json}</function>, which is another syntax.
    if (syntax == ToolSyntax::kQwenCoder && !has(source, "<parameter=")) continue;
    if (has(source, sign)) return syntax;
  }
  const bool asks_for_json = has(source, "Respond in the format {\"name\": function name");
  return asks_for_json ? ToolSyntax::kLlamaJson : ToolSyntax::kNone;
}

std::string_view without_trailing_space(std::string_view text) {
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return text;
}

}  // namespace

ReplyFormat detect_reply_format(std::string_view source, std::string_view prompt_end) {
  ReplyFormat format;
  if (has(source, "<|channel|>") && has(source, "<|message|>")) {
    format.harmony = true;
    return format;
  }
  format.tools = tools_of(source);
  format.other_form = (format.tools == ToolSyntax::kDeepSeek && has(source, "```json")) ||
                      (format.tools == ToolSyntax::kMistral && !has(source, "[ARGS]")) ||
                      (format.tools == ToolSyntax::kToolCallList && has(source, "<tool_calls>"));
  constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kTags = {{
      {"<seed:think>", "</seed:think>"},
      {"[THINK]", "[/THINK]"},
      {"<|START_THINKING|>", "<|END_THINKING|>"},
      {"<think>", "</think>"},
  }};
  prompt_end = without_trailing_space(prompt_end);
  for (const auto& [open, close] : kTags) {
    if (!has(source, open) && !prompt_end.ends_with(open)) continue;
    format.reasoning_open = open;
    format.reasoning_close = close;
    format.starts_in_reasoning = prompt_end.ends_with(open);
    break;
  }
  if (format.tools == ToolSyntax::kCommand) {
    format.dropped = {"<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"};
  }
  return format;
}

void begin_reply(std::string_view reasoning, std::string_view content, std::string* prompt,
                 ReplyFormat* format) {
  const std::string &open = format->reasoning_open, &close = format->reasoning_close;
  // A prompt that ends with the closing tag has turned reasoning off.
  const bool may = !open.empty() && !without_trailing_space(*prompt).ends_with(close);
  if (may && (format->starts_in_reasoning || !reasoning.empty())) {
    if (!format->starts_in_reasoning) *prompt += open + "\n";
    *prompt += reasoning;
    format->goes_on_in_reasoning = content.empty() && !reasoning.empty();
    if (!content.empty()) *prompt += "\n" + close + "\n\n";
  }
  *prompt += content;
  format->starts_in_reasoning = !open.empty() && without_trailing_space(*prompt).ends_with(open);
}

std::vector<std::string> ReplyFormat::markers() const {
  std::vector<std::string> all;
  if (harmony) {
    for (const std::string_view marker : harmony_markers()) all.emplace_back(marker);
    return all;
  }
  if (!reasoning_open.empty()) all = {reasoning_open, reasoning_close};
  for (const std::string_view marker : call_markers(tools)) all.emplace_back(marker);
  all.insert(all.end(), dropped.begin(), dropped.end());
  return all;
}

std::vector<TokenId> marker_tokens(const ReplyFormat& format, const Tokenizer& tokenizer) {
  const std::vector<std::string> markers = format.markers();
  std::vector<TokenId> ids;
  for (TokenId id = 0; id < static_cast<TokenId>(tokenizer.vocab_size()); ++id) {
    if (!tokenizer.is_special(id)) continue;
    const std::string_view text = tokenizer.token_bytes(id);
    if (text.size() < 2) continue;
    const bool part = std::any_of(markers.begin(), markers.end(), [&](const std::string& marker) {
      return has(marker, text) || has(text, marker);
    });
    if (part) ids.push_back(id);
  }
  return ids;
}

}  // namespace kt::text
