// The grammar of a reply that must call tools (tool_choice required, or one function by name), in
// the syntax that the model was trained on.
//
//   ReplyFormat, tools JSON, choice → Lark text → GrammarFactory::compile
//
// Arguments follow the tool's schema. Keywords of a schema that cannot be honoured are an error for
// a function with "strict": true, else they are left out. Thread rule: pure.
#pragma once
#include <string>
#include <string_view>

#include "text/grammar.h"
#include "text/reply_format.h"

namespace kt::text {

struct ToolChoice {
  std::string name;      // the only function; empty: any
  bool parallel = true;  // more calls than one may come
};

/// Throws kUsage: no tools, none of that name, JSON that is wrong; kUnsupported: a format without
/// tool calls that can be bound (harmony, none).
GrammarSpec tool_grammar(const ReplyFormat& format, std::string_view tools_json,
                         const Tokenizer& tokenizer, const ToolChoice& choice = {});

}  // namespace kt::text
