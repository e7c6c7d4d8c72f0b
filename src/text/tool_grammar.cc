#include "text/tool_grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "base/error.h"
#include "text/tool_schemas.h"

namespace kt::text {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kMaxNesting = 100;

struct Tool {
  std::string name;
  Json schema;
  bool strict = false;
};

std::vector<Tool> tools_of(std::string_view tools_json, const ToolChoice& choice) {
  const char* kPath = "tools";
  if (nests_deeper(tools_json, kMaxNesting))
    fail(ErrorCode::kUsage, kPath, "nests deeper than {} levels", kMaxNesting);
  const Json all = Json::parse(tools_json, nullptr, false);
  if (!all.is_array()) fail(ErrorCode::kUsage, kPath, "a JSON array is wanted");
  std::vector<Tool> tools;
  for (const Json& entry : all) {
    const bool wrapped = entry.is_object() && entry.contains("function");
    const Json& function = wrapped ? entry["function"] : entry;
    const bool named = function.is_object() && function.contains("name");
    if (!named || !function["name"].is_string())
      fail(ErrorCode::kUsage, kPath, "a function with a name is wanted");
    Tool tool;
    tool.name = function["name"].get<std::string>();
    if (!choice.name.empty() && tool.name != choice.name) continue;
    tool.schema = function.value("parameters", Json::object());
    if (!tool.schema.is_object()) fail(ErrorCode::kUsage, kPath, "parameters are a JSON object");
    if (!tool.schema.contains("type")) tool.schema["type"] = "object";
    tool.strict = function.value("strict", Json(false)) == Json(true);
    tools.push_back(std::move(tool));
  }
  if (tools.empty() && !choice.name.empty())
    fail(ErrorCode::kUsage, "tool_choice", "there is no tool named {}", choice.name);
  if (tools.empty()) fail(ErrorCode::kUsage, kPath, "a call is required but there are no tools");
  return tools;
}

/// Text between the parts of a call. Each is Lark text; `call` holds {name} and {arguments}.
struct CallForm {
  std::string before, call, between, after;
};

/// Around untyped values.
struct ValueForm {
  std::string_view open, key_end, close;
  bool string_attribute = false;
};

class Writer {
 public:
  Writer(const ReplyFormat& format, const Tokenizer& tokenizer)
      : format_(format), tokenizer_(tokenizer) {}

  std::string grammar(const std::vector<Tool>& tools, bool parallel) {
    const CallForm form = call_form();
    std::string rules, any;
    for (std::size_t i = 0; i < tools.size(); ++i) {
      const std::string arguments = fmt::format("arguments_{}", i);
      const std::string rule = arguments_rule(tools[i], arguments);
      rules +=
          fmt::format("call_{}: ", i) + filled(form.call, tools[i].name, arguments) + '\n' + rule;
      any += fmt::format("{}call_{}", i == 0 ? "" : " | ", i);
    }
    std::string start = form.before + " call";
    if (parallel) start += " (" + form.between + " call)*";
    return "start: " + start + ' ' + form.after + "\ncall: " + any + '\n' + rules + extra_;
  }

 private:
  /// A literal: control tokens by id, other text as it is.
  std::string text(std::string_view whole) const {
    constexpr std::string_view kInner = "｜DSML｜";
    if (const auto id = special(whole)) return fmt::format("<[{}]>", *id);
    const std::size_t at = whole.find(kInner);
    if (at != std::string_view::npos && special(kInner) && whole != kInner) {
      return text(whole.substr(0, at)) + ' ' + text(kInner) + ' ' +
             text(whole.substr(at + kInner.size()));
    }
    return Json(whole).dump();
  }

  std::optional<TokenId> special(std::string_view piece) const {
    const std::optional<TokenId> id = tokenizer_.token_to_id(piece);
    return id && tokenizer_.is_special(*id) ? id : std::nullopt;
  }

  std::string texts(std::initializer_list<std::string_view> parts) const {
    std::string out;
    for (const std::string_view part : parts) out += (out.empty() ? "" : " ") + text(part);
    return out;
  }

  // A JSON object with name and arguments.
  std::string json_call(std::string_view name_key, std::string_view arguments_key) const {
    return Json(fmt::format("{{\"{}\": ", name_key)).dump() + " {quoted} " +
           Json(fmt::format(", \"{}\": ", arguments_key)).dump() + " {arguments} \"}\"";
  }

  CallForm call_form() const {
    switch (format_.tools) {
      case ToolSyntax::kHermes:
        return {"",
                texts({"<tool_call>", "\n"}) + ' ' + json_call("name", "arguments") + ' ' +
                    texts({"\n", "</tool_call>"}),
                text("\n"), ""};
      case ToolSyntax::kLlamaJson: return {"", json_call("name", "parameters"), "\"; \"", ""};
      case ToolSyntax::kCommand:
        return {text("<|START_ACTION|>") + " \"[\"",
                "\"{\\\"tool_call_id\\\": \\\"\" /[0-9]+/ \"\\\", \\\"tool_name\\\": \" {quoted} "
                "\", \\\"parameters\\\": \" {arguments} \"}\"",
                "\", \"", "\"]\" " + text("<|END_ACTION|>")};
      case ToolSyntax::kToolCallList: {
        const bool other = format_.other_form;
        return {text(other ? "<tool_calls>" : "<TOOLCALL>") + " \"[\"",
                json_call("name", "arguments"), "\", \"",
                "\"]\" " + text(other ? "</tool_calls>" : "</TOOLCALL>")};
      }
      case ToolSyntax::kMistral:
        if (format_.other_form)
          return {text("[TOOL_CALLS]") + " \"[\"", json_call("name", "arguments"), "\", \"",
                  "\"]\""};
        return {"", text("[TOOL_CALLS]") + " {name} " + text("[ARGS]") + " {arguments}", "", ""};
      case ToolSyntax::kKimi:
        return {text("<|tool_calls_section_begin|>"),
                texts({"<|tool_call_begin|>", "functions."}) + " {name} \":\" /[0-9]+/ " +
                    text("<|tool_call_argument_begin|>") + " {arguments} " +
                    text("<|tool_call_end|>"),
                "", text("<|tool_calls_section_end|>")};
      case ToolSyntax::kDeepSeek:
        return {text("<｜tool▁calls▁begin｜>"),
                format_.other_form
                    ? texts({"<｜tool▁call▁begin｜>", "function", "<｜tool▁sep｜>"}) +
                          " {name} \"\\n```json\\n\" {arguments} \"\\n```\" " +
                          text("<｜tool▁call▁end｜>")
                    : text("<｜tool▁call▁begin｜>") + " {name} " + text("<｜tool▁sep｜>") +
                          " {arguments} " + text("<｜tool▁call▁end｜>"),
                format_.other_form ? text("\n") : "", text("<｜tool▁calls▁end｜>")};
      default: return value_call_form();
    }
  }

  CallForm value_call_form() const {
    const auto function = [&](std::string_view section, std::string_view end) {
      return texts({section, "\n", "<function="}) + " {name} \">\\n\" {arguments} " +
             texts({"</function>", "\n", end});
    };
    switch (format_.tools) {
      case ToolSyntax::kQwenCoder:
        return {"", function("<tool_call>", "</tool_call>"), text("\n"), ""};
      case ToolSyntax::kSeed:
        return {"", function("<seed:tool_call>", "</seed:tool_call>"), text("\n"), ""};
      case ToolSyntax::kGlm:
        return {"", text("<tool_call>") + " {name} \"\\n\"? {arguments} " + text("</tool_call>"),
                "\"\\n\"?", ""};
      case ToolSyntax::kMiniMax:
        return {texts({"<minimax:tool_call>", "\n"}),
                texts({"<invoke name=\""}) + " {name} \"\\\">\\n\" {arguments} " +
                    texts({"</invoke>", "\n"}),
                "", text("</minimax:tool_call>")};
      case ToolSyntax::kDsml:
        return {texts({"<｜DSML｜function_calls>", "\n"}),
                text("<｜DSML｜invoke name=\"") + " {name} \"\\\">\\n\" {arguments} " +
                    texts({"</｜DSML｜invoke>", "\n"}),
                "", text("</｜DSML｜function_calls>")};
      default:
        fail(ErrorCode::kUnsupported, "tool_choice",
             "this model's tool calls cannot be required; use auto");
    }
  }

  std::optional<ValueForm> value_form() const {
    switch (format_.tools) {
      case ToolSyntax::kQwenCoder: return ValueForm{"<parameter=", ">\n", "\n</parameter>"};
      case ToolSyntax::kSeed: return ValueForm{"<parameter=", ">", "</parameter>"};
      case ToolSyntax::kMiniMax: return ValueForm{"<parameter name=\"", "\">", "</parameter>"};
      case ToolSyntax::kGlm: return ValueForm{"<arg_key>", "</arg_key>", "</arg_value>"};
      case ToolSyntax::kDsml:
        return ValueForm{"<｜DSML｜parameter name=\"", "\" string=\"", "</｜DSML｜parameter>",
                         true};
      default: return std::nullopt;
    }
  }

  static std::string filled(std::string form, const std::string& name,
                            const std::string& arguments) {
    const auto replace = [&form](std::string_view key, const std::string& value) {
      if (const std::size_t at = form.find(key); at != std::string::npos)
        form.replace(at, key.size(), value);
    };
    replace("{arguments}", arguments);
    replace("{quoted}", Json(Json(name).dump()).dump());
    replace("{name}", Json(name).dump());
    return form;
  }

  static std::string schema_text(Json schema, bool strict) {
    if (!schema.is_object()) schema = Json::object();
    if (schema.contains("x-guidance"))
      fail(ErrorCode::kUsage, "tools", "x-guidance is not accepted");
    Json& options = schema["x-guidance"] = Json::object();
    options["whitespace_pattern"] = "[ \\n\\r\\t]{0,64}";
    if (!strict) options["lenient"] = true;
    return "%json " + schema.dump();
  }

  std::string arguments_rule(const Tool& tool, const std::string& rule) {
    const std::optional<ValueForm> form = value_form();
    if (!form) return rule + ": " + schema_text(tool.schema, tool.strict) + '\n';
    std::string body, rules;
    const Json properties = tool.schema.value("properties", Json::object());
    const Json required = tool.schema.value("required", Json::array());
    std::size_t n = 0;
    for (const auto& [key, property] : properties.items()) {
      const std::string value = fmt::format("{}_{}", rule, n++);
      const bool must = std::find(required.begin(), required.end(), Json(key)) != required.end();
      body += value + (must ? " " : "? ");
      rules += value + ": " + parameter(tool, *form, key, property, value) + '\n';
    }
    if (body.empty()) body = "\"\"";
    return rule + ": " + body + '\n' + rules;
  }

  // Any text with the tag that closes it: the lexer does not look back, so that the two are one
  // expression unless a control token parts them.
  std::string any_text(const ValueForm& form, const std::string& rule) {
    if (special(form.close)) return "(/(?s:.+)/)? " + text(form.close);
    if (form.string_attribute && special("｜DSML｜"))
      return "/(?s:.*)<\\//" + (' ' + texts({"｜DSML｜", "parameter>"}));
    extra_ += rule + "[suffix=" + Json(form.close).dump() + "]: /(?s:.*)/\n";
    return rule;
  }

  std::string parameter(const Tool& tool, const ValueForm& form, const std::string& key,
                        const Json& property, const std::string& rule) {
    const Json only =
        Json::array({{{"function", {{"name", tool.name}, {"parameters", tool.schema}}}}});
    const unsigned types = ToolSchemas(only.dump()).types(tool.name, key);
    const bool string = types == kTypeUnknown || (types & kTypeString) != 0;
    std::string out = text(form.open) + ' ' + Json(key).dump() + ' ' + text(form.key_end) + ' ';
    if (form.string_attribute) out += string ? "\"true\\\">\" " : "\"false\\\">\" ";
    if (format_.tools == ToolSyntax::kGlm) out += "\"\\n\"? " + text("<arg_value>") + ' ';
    const std::string newline = format_.tools == ToolSyntax::kGlm ? " \"\\n\"?" : " \"\\n\"";
    const std::string end = text(form.close) + newline;
    if (string && property.is_object() && property.contains("enum") && types == kTypeString) {
      std::string options;
      for (const Json& option : property["enum"])
        options += (options.empty() ? "" : " | ") + option.dump();
      return out + '(' + options + ") " + end;
    }
    if (string) return out + any_text(form, rule + "_text") + newline;
    Json schema = property.is_object() ? property : Json::object();
    for (const char* definitions : {"$defs", "definitions"}) {
      if (tool.schema.contains(definitions)) schema[definitions] = tool.schema[definitions];
    }
    return out + rule + "_json " + end + '\n' + rule + "_json: " + schema_text(schema, tool.strict);
  }

  const ReplyFormat& format_;
  const Tokenizer& tokenizer_;
  std::string extra_;  // rules of values
};

}  // namespace

GrammarSpec tool_grammar(const ReplyFormat& format, std::string_view tools_json,
                         const Tokenizer& tokenizer, const ToolChoice& choice) {
  if (format.harmony || format.tools == ToolSyntax::kNone) {
    fail(ErrorCode::kUnsupported, "tool_choice",
         "this model's tool calls cannot be required; use auto");
  }
  const std::vector<Tool> tools = tools_of(tools_json, choice);
  return {GrammarKind::kLark, Writer(format, tokenizer).grammar(tools, choice.parallel)};
}

}  // namespace kt::text
