// How a model writes what is not plain text: the tags around its reasoning and the syntax of its
// tool calls, recognised by the text of its chat template.
//
//   template source, end of the rendered prompt ─detect_reply_format→ ReplyFormat ─→ ReplyParser
//   (reply_parser.h)
//
// Markers are often control tokens, which a detokenizer leaves out: marker_tokens() are the ids
// that it must let through (IncrementalDetokenizer::keep). Thread rule: pure.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace kt::text {

enum class ToolSyntax {
  kNone,
  kHermes,       // <tool_call>{"name":…,"arguments":{…}}</tool_call>: Qwen2.5, Qwen3, Hermes
  kQwenCoder,    // <tool_call><function=F><parameter=k>v</parameter></function></tool_call>
  kSeed,         // the same within <seed:tool_call>
  kGlm,          // <tool_call>F<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>
  kMiniMax,      // <minimax:tool_call><invoke name="F"><parameter name="k">v</parameter>…
  kDsml,         // <｜DSML｜function_calls><｜DSML｜invoke name="F">…: DeepSeek V3.2, V4
  kDeepSeek,     // <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>…: R1, V3 (fenced) and V3.1
  kKimi,         // <|tool_calls_section_begin|><|tool_call_begin|>functions.F:0…
  kMistral,      // [TOOL_CALLS]F[ARGS]{…} and [TOOL_CALLS][{"name":…,"arguments":{…}}]
  kLlamaJson,    // {"name":…,"parameters":{…}} as the whole reply, maybe after <|python_tag|>
  kCommand,      // <|START_ACTION|>[{"tool_name":…,"parameters":{…}}]<|END_ACTION|>
  kToolCallList  // <TOOLCALL>[{"name":…,"arguments":{…}}]</TOOLCALL>, or <tool_calls>
};

struct ReplyFormat {
  bool harmony = false;  // gpt-oss: channels instead of tags; the fields below do not matter
  std::string reasoning_open, reasoning_close;  // empty: no reasoning is recognised
  bool starts_in_reasoning = false;             // the prompt ends with reasoning_open
  bool goes_on_in_reasoning = false;            // or in the midst of it
  ToolSyntax tools = ToolSyntax::kNone;         // set kNone for a request without tools
  /// The template writes the family's other form: DeepSeek's fenced calls, Mistral's list,
  /// <tool_calls> for <TOOLCALL>. Replies are read in both.
  bool other_form = false;
  std::vector<std::string> dropped;  // markers around plain content

  /// Every text that has a meaning; those of reasoning first.
  std::vector<std::string> markers() const;
};

/// What the template's text shows; `prompt_end` is the rendered prompt or the end of it.
ReplyFormat detect_reply_format(std::string_view template_source, std::string_view prompt_end);

/// Adds a reply that was begun to the prompt, as the model would have written it: its reasoning
/// within the tags, then its content. `format` is that of the prompt and becomes that of the rest.
void begin_reply(std::string_view reasoning, std::string_view content, std::string* prompt,
                 ReplyFormat* format);

/// Control tokens whose spelling is a marker or part of one, ascending. Looks at the whole
/// vocabulary: once per model.
std::vector<TokenId> marker_tokens(const ReplyFormat& format, const Tokenizer& tokenizer);

}  // namespace kt::text
