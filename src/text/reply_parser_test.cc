// Every family's reply as its template writes it, cut everywhere; what must never happen; hostile
// text.
#include "text/reply_parser.h"

#include <gtest/gtest.h>

#include <chrono>

#include "base/error.h"
#include "text/detokenizer.h"
#include "text/tool_schemas.h"

namespace kt::text {
namespace {

constexpr std::string_view kTools = R"([{"type": "function", "function": {
  "name": "get_weather", "parameters": {"type": "object", "properties": {
    "city": {"type": "string"}, "days": {"type": "integer"}, "metric": {"type": "boolean"},
    "zip": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "where": {"type": "object"}, "tags": {"$ref": "#/$defs/tags"}, "kind": {"enum": ["a", "b"]}},
    "$defs": {"tags": {"type": "array", "items": {"type": "string"}}}}}}])";

// "R:reasoning|C:content|B0 id name|A:arguments|E", neighbours of one kind put together.
std::string spelled(const std::vector<ReplyEvent>& events) {
  std::string out;
  const ReplyEvent* last = nullptr;
  for (const ReplyEvent& e : events) {
    using Kind = ReplyEvent::Kind;
    const bool more = last != nullptr && last->kind == e.kind && e.kind != Kind::kCallBegin;
    if (!more && !out.empty()) out += '|';
    switch (e.kind) {
      case Kind::kContent: out += (more ? "" : "C:") + e.text; break;
      case Kind::kReasoning: out += (more ? "" : "R:") + e.text; break;
      case Kind::kCallBegin:
        out += 'B' + std::to_string(e.index) + ' ' + e.id + ' ' + e.text;
        break;
      case Kind::kCallArguments: out += (more ? "" : "A:") + e.text; break;
      case Kind::kCallEnd: out += 'E'; break;
    }
    last = &e;
  }
  return out;
}

std::string parsed(const ReplyFormat& format, const std::vector<std::string_view>& pieces) {
  std::uint64_t n = 0;
  ReplyParser parser(format, kTools, [&n] { return n++; });
  std::vector<ReplyEvent> all;
  const auto add = [&all](std::vector<ReplyEvent> more) {
    all.insert(all.end(), std::make_move_iterator(more.begin()),
               std::make_move_iterator(more.end()));
  };
  for (const std::string_view piece : pieces) add(parser.push(piece));
  add(parser.finish());
  return spelled(all);
}

// The events of `text`, the same for every cut.
std::string parsed(const ReplyFormat& format, std::string_view text) {
  const std::string whole = parsed(format, std::vector<std::string_view>{text});
  std::vector<std::string_view> bytes;
  for (std::size_t i = 0; i <= text.size(); ++i) {
    EXPECT_EQ(parsed(format, {text.substr(0, i), text.substr(i)}), whole) << "cut at " << i;
    if (i < text.size()) bytes.push_back(text.substr(i, 1));
  }
  EXPECT_EQ(parsed(format, bytes), whole) << "cut into bytes";
  return whole;
}

// Ids as the counter above makes them.
std::string id(std::uint64_t first, std::size_t n = 24) {
  std::string out;
  for (std::size_t i = 0; i < n; ++i) out += i % 8 == 0 ? static_cast<char>('0' + first++) : '0';
  return n == 24 ? "call_" + out : out;
}
const std::string kId0 = id(0), kId1 = id(3);

ReplyFormat format_of(ToolSyntax tools, bool think = true) {
  ReplyFormat format;
  format.tools = tools;
  if (think) {
    format.reasoning_open = "<think>";
    format.reasoning_close = "</think>";
  }
  return format;
}

TEST(ReplyParser, PlainTextPassesUnchanged) {
  EXPECT_EQ(parsed({}, " a <b> </think> \n"), "C: a <b> </think> \n");
  EXPECT_EQ(parsed(format_of(ToolSyntax::kHermes), " a <tool \n"), "C: a <tool \n");
  EXPECT_EQ(parsed(format_of(ToolSyntax::kHermes), "a <tool_cal"), "C:a <tool_cal");
}

TEST(ReplyParser, Reasoning) {
  const ReplyFormat format = format_of(ToolSyntax::kHermes);
  EXPECT_EQ(parsed(format, "<think>\na b\n</think>\n\nyes\n"), "R:a b|C:yes\n");
  EXPECT_EQ(parsed(format, "<think>\n\n</think>\n\nyes"), "C:yes");
  EXPECT_EQ(parsed(format, "<think>a"), "R:a");
  EXPECT_EQ(parsed(format, "</think>yes"), "C:yes");
  EXPECT_EQ(parsed(format, "say <think> twice"), "C:say <think> twice");
  ReplyFormat open = format;
  open.starts_in_reasoning = true;
  EXPECT_EQ(parsed(open, "a</think>yes"), "R:a|C:yes");
  EXPECT_EQ(parsed(open, "a </thi"), "R:a </thi");
  EXPECT_EQ(parsed(open, "a <tool_call>{\"name\": \"f\"}</tool_call></think>b"),
            "R:a <tool_call>{\"name\": \"f\"}</tool_call>|C:b");
}

TEST(ReplyParser, Hermes) {
  const ReplyFormat format = format_of(ToolSyntax::kHermes);
  EXPECT_EQ(
      parsed(format,
             "<think>\nt\n</think>\n\nLet me look. \n"
             "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Par\\\"{is\"}}\n"
             "</tool_call>\n<tool_call>\n{\"arguments\": {}, \"name\": \"x\"}\n</tool_call>\n"),
      "R:t|C:Let me look.|B0 " + kId0 + " get_weather|A:{\"city\": \"Par\\\"{is\"}|E|B1 " + kId1 +
          " x|A:{}|E");
  EXPECT_EQ(parsed(format, "<tool_call>{\"name\": \"f\"}</tool_call> and more"),
            "B0 " + kId0 + " f|A:{}|E|C:and more");
  EXPECT_EQ(
      parsed(format, "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>"),
      "B0 " + kId0 + " f|A:{\"a\": 1}|E");
}

TEST(ReplyParser, HermesBrokenOff) {
  const ReplyFormat format = format_of(ToolSyntax::kHermes);
  EXPECT_EQ(parsed(format, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": [1, \"b"),
            "B0 " + kId0 + " f|A:{\"a\": [1, \"b");
  EXPECT_EQ(parsed(format, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}</tool_call>"),
            "B0 " + kId0 + " f|A:{\"a\": 1}|E");
  EXPECT_EQ(parsed(format, "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1</tool_call>x"),
            "B0 " + kId0 + " f|A:{\"a\": 1|E|C:x");
  EXPECT_EQ(parsed(format, "<tool_call>{\"na"), "C:{\"na");
  EXPECT_EQ(parsed(format, "the <tool_call> tag"), "C:the tag");
  EXPECT_EQ(parsed(format, "<tool_call>{1}</tool_call>"), "C:{1}");
}

TEST(ReplyParser, QwenCoder) {
  const ReplyFormat format = format_of(ToolSyntax::kQwenCoder);
  const std::string_view call =
      "<function=get_weather>\n<parameter=city>\nNew\n\"York\"\n</parameter>\n<parameter=days>\n3\n"
      "</parameter>\n<parameter=metric>\nTrue\n</parameter>\n<parameter=tags>\n[\"a\"]\n</"
      "parameter>\n"
      "<parameter=zip>\n123\n</parameter>\n<parameter=kind>\n\n</parameter>\n</function>\n";
  const std::string events =
      "B0 " + kId0 +
      " get_weather|A:{\"city\": \"New\\n\\\"York\\\"\", \"days\": 3, \"metric\": true, "
      "\"tags\": [\"a\"], \"zip\": \"123\", \"kind\": \"\"}|E";
  EXPECT_EQ(parsed(format, "ok\n<tool_call>\n" + std::string(call) + "</tool_call>"),
            "C:ok|" + events);
  EXPECT_EQ(parsed(format, std::string(call) + "</tool_call>"), events);
  EXPECT_EQ(parsed(format,
                   "<tool_call><function=none></function></tool_call>\n<tool_call>"
                   "<function=other><parameter=a>1</parameter><parameter=b>x</parameter>"),
            "B0 " + kId0 + " none|A:{}|E|B1 " + kId1 + " other|A:{\"a\": 1, \"b\": \"x\"");
  EXPECT_EQ(parsed(format, "<tool_call><function=get_weather><parameter=city>Par"),
            "B0 " + kId0 + " get_weather|A:{\"city\": \"Par");
}

TEST(ReplyParser, SeedOss) {
  ReplyFormat format = format_of(ToolSyntax::kSeed);
  format.reasoning_open = "<seed:think>";
  format.reasoning_close = "</seed:think>";
  EXPECT_EQ(parsed(format,
                   "<seed:think>a</seed:think>\n<seed:tool_call>\n<function=get_weather>\n"
                   "<parameter=city>Rome</parameter>\n</function>\n</seed:tool_call>"),
            "R:a|B0 " + kId0 + " get_weather|A:{\"city\": \"Rome\"}|E");
}

TEST(ReplyParser, Glm) {
  const ReplyFormat format = format_of(ToolSyntax::kGlm);
  const std::string events =
      "B0 " + kId0 + " get_weather|A:{\"city\": \"B\", \"days\": 2}|E|B1 " + kId1 + " now|A:{}|E";
  EXPECT_EQ(parsed(format,
                   "\n<think>a</think>\n<tool_call>get_weather\n<arg_key>city</arg_key>\n"
                   "<arg_value>B</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n"
                   "</tool_call>\n<tool_call>now\n</tool_call>"),
            "R:a|" + events);
  EXPECT_EQ(parsed(format,
                   "<tool_call>get_weather<arg_key>city</arg_key><arg_value>B</arg_value>"
                   "<arg_key>days</arg_key><arg_value>2</arg_value></tool_call>"
                   "<tool_call>now</tool_call>"),
            events);
}

TEST(ReplyParser, MiniMax) {
  ReplyFormat format = format_of(ToolSyntax::kMiniMax);
  format.starts_in_reasoning = true;
  EXPECT_EQ(parsed(format,
                   "a\n</think>\n\nb\n<minimax:tool_call>\n<invoke name=\"get_weather\">\n"
                   "<parameter name=\"city\">B</parameter>\n<parameter name=\"where\">{\"a\": 1}"
                   "</parameter>\n</invoke>\n<invoke name=\"g\">\n</invoke>\n</minimax:tool_call>"),
            "R:a|C:b|B0 " + kId0 + " get_weather|A:{\"city\": \"B\", \"where\": {\"a\": 1}}|E|B1 " +
                kId1 + " g|A:{}|E");
}

TEST(ReplyParser, Dsml) {
  const ReplyFormat format = format_of(ToolSyntax::kDsml);
  for (const std::string section : {"function_calls", "tool_calls"}) {
    EXPECT_EQ(
        parsed(
            format,
            "b\n\n<｜DSML｜" + section +
                ">\n<｜DSML｜invoke name=\"f\">\n<｜DSML｜parameter name=\"k\" string=\"true\">12"
                "</｜DSML｜parameter>\n<｜DSML｜parameter name=\"n\" string=\"false\">[1]"
                "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜" +
                section + ">"),
        "C:b|B0 " + kId0 + " f|A:{\"k\": \"12\", \"n\": [1]}|E");
  }
}

TEST(ReplyParser, DeepSeek) {
  ReplyFormat format = format_of(ToolSyntax::kDeepSeek);
  format.starts_in_reasoning = true;
  EXPECT_EQ(
      parsed(
          format,
          "a\n</think>\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n"
          "```json\n{\"a\": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>"
          "g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
      "R:a|B0 " + kId0 + " f|A:{\"a\": 1}|E|B1 " + kId1 + " g|A:{}|E");
  format.starts_in_reasoning = false;
  EXPECT_EQ(
      parsed(format,
             "b<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": 1}"
             "<｜tool▁call▁end｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
             "<｜tool▁calls▁end｜>c"),
      "C:b|B0 " + kId0 + " f|A:{\"a\": 1}|E|B1 " + kId1 + " function|A:{}|E|C:c");
  EXPECT_EQ(parsed(format, "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"a\": \"b"),
            "B0 " + kId0 + " f|A:{\"a\": \"b");
}

TEST(ReplyParser, KimiKeepsIds) {
  EXPECT_EQ(parsed(format_of(ToolSyntax::kKimi),
                   "<think>a</think>b <|tool_calls_section_begin|><|tool_call_begin|>functions.f:7"
                   "<|tool_call_argument_begin|>{\"a\": 1}<|tool_call_end|><|tool_call_begin|>"
                   "functions.g:h:8<|tool_call_argument_begin|>{}<|tool_call_end|>"
                   "<|tool_calls_section_end|>"),
            "R:a|C:b|B0 functions.f:7 f|A:{\"a\": 1}|E|B1 functions.g:h:8 g:h|A:{}|E");
}

TEST(ReplyParser, Mistral) {
  ReplyFormat format = format_of(ToolSyntax::kMistral);
  format.reasoning_open = "[THINK]";
  format.reasoning_close = "[/THINK]";
  const std::string first = id(0, 9), second = id(2, 9);
  EXPECT_EQ(parsed(format,
                   "[THINK]a[/THINK]b[TOOL_CALLS]f[ARGS]{\"a\": [1]}[TOOL_CALLS]g"
                   "[CALL_ID]abcDEF123[ARGS]{}"),
            "R:a|C:b|B0 " + first + " f|A:{\"a\": [1]}|E|B1 abcDEF123 g|A:{}|E");
  EXPECT_EQ(parsed(format,
                   "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}}, "
                   "{\"name\": \"g\", \"arguments\": {}, \"id\": \"x\"}]"),
            "B0 " + first + " f|A:{\"a\": 1}|E|B1 " + second + " g|A:{}|E");
  EXPECT_EQ(parsed(format, "[TOOL_CALLS]f{\"a\": 1}"), "B0 " + first + " f|A:{\"a\": 1}|E");
}

TEST(ReplyParser, LlamaJson) {
  const ReplyFormat format = format_of(ToolSyntax::kLlamaJson, false);
  const std::string call = "B0 " + kId0 + " f|A:{\"a\": 1}|E";
  EXPECT_EQ(parsed(format, "{\"name\": \"f\", \"parameters\": {\"a\": 1}}"), call);
  EXPECT_EQ(parsed(format,
                   "\n<|python_tag|>{\"type\": \"function\", \"name\": \"f\", "
                   "\"parameters\": {\"a\": 1}}"),
            call);
  EXPECT_EQ(parsed(format,
                   "{\"name\": \"f\", \"parameters\": {\"a\": 1}}; {\"name\": \"g\", "
                   "\"parameters\": {}}"),
            call + "|B1 " + kId1 + " g|A:{}|E");
  for (const std::string text :
       {"{\"name\": \"Bob\", \"age\": 3}", "{1, 2}", "{\"name\": 3", "x {\"name\": \"f\"}", "{"}) {
    EXPECT_EQ(parsed(format, text), "C:" + text);
  }
}

TEST(ReplyParser, CommandAndLists) {
  ReplyFormat format = detect_reply_format("<|START_THINKING|> <|START_ACTION|>", "");
  EXPECT_EQ(
      parsed(format,
             "<|START_THINKING|>a<|END_THINKING|><|START_ACTION|>[\n    {\"tool_call_id\": \"0\", "
             "\"tool_name\": \"f\", \"parameters\": {\"a\": 1}},\n    {\"tool_call_id\": \"1\", "
             "\"tool_name\": \"g\", \"parameters\": {}}\n]<|END_ACTION|>"),
      "R:a|B0 " + kId0 + " f|A:{\"a\": 1}|E|B1 " + kId1 + " g|A:{}|E");
  EXPECT_EQ(parsed(format, "<|START_RESPONSE|>hi<|END_RESPONSE|>"), "C:hi");
  EXPECT_EQ(parsed(format_of(ToolSyntax::kToolCallList),
                   "<TOOLCALL>[{\"name\": \"f\", \"arguments\": {}}]</TOOLCALL>"),
            "B0 " + kId0 + " f|A:{}|E");
  EXPECT_EQ(parsed(format_of(ToolSyntax::kToolCallList),
                   "<tool_calls>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_calls>"),
            "B0 " + kId0 + " f|A:{}|E");
}

TEST(ReplyParser, Harmony) {
  ReplyFormat format;
  format.harmony = true;
  EXPECT_EQ(parsed(format,
                   "<|channel|>analysis<|message|>a b<|end|><|start|>assistant<|channel|>final"
                   "<|message|>yes <|no|><|return|>"),
            "R:a b|C:yes <|no|>");
  const std::string call = "B0 " + kId0 + " f|A:{\"a\": 1}|E";
  EXPECT_EQ(parsed(format,
                   "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>"
                   "commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>"),
            "R:a|" + call);
  EXPECT_EQ(parsed(format, " to=functions.f<|channel|>commentary json<|message|>{\"a\": 1}"), call);
  EXPECT_EQ(parsed(format, "<|channel|>commentary to=functions.f<|message|>{\"a\": "),
            "B0 " + kId0 + " f|A:{\"a\": ");
  EXPECT_EQ(parsed(format, "<|channel|>commentary<|message|>look<|end|>"), "C:look");
  EXPECT_EQ(parsed(format, "plain text"), "C:plain text");
  EXPECT_EQ(parsed(format, "<|channel|>ana"), "");
}

TEST(ReplyFormat, IsDetectedByTheTemplate) {
  const auto tools = [](std::string_view source) { return detect_reply_format(source, "").tools; };
  EXPECT_EQ(tools("x"), ToolSyntax::kNone);
  EXPECT_EQ(tools("'<tool_call>'"), ToolSyntax::kHermes);
  EXPECT_EQ(tools("<tool_call><function=a><parameter=b>"), ToolSyntax::kQwenCoder);
  EXPECT_EQ(tools("<tool_call><arg_key>"), ToolSyntax::kGlm);
  EXPECT_EQ(tools("<｜tool▁calls▁begin｜>"), ToolSyntax::kDeepSeek);
  EXPECT_EQ(tools("set dsml_token = '｜DSML｜'"), ToolSyntax::kDsml);
  EXPECT_EQ(tools("minimax[>[<tool_call>"), ToolSyntax::kNone);
  EXPECT_EQ(tools("[TOOL_CALLS]"), ToolSyntax::kMistral);
  EXPECT_EQ(tools("<function=a>{json}</function><|python_tag|>"), ToolSyntax::kLlamaJson);
  EXPECT_TRUE(detect_reply_format("<|channel|><|message|>", "").harmony);
  const ReplyFormat open = detect_reply_format("<think>", "user\n<think></think>\nai\n<think>\n");
  EXPECT_TRUE(open.starts_in_reasoning);
  EXPECT_EQ(open.reasoning_close, "</think>");
  EXPECT_FALSE(detect_reply_format("<think>", "<think>\n\n</think>\n\n").starts_in_reasoning);
  EXPECT_TRUE(detect_reply_format("no tags", "<think>").starts_in_reasoning);
}

TEST(ReplyParser, RepliesThatWereBegun) {
  struct Begun {
    std::string prompt_end, reasoning, content, prompt, rest, parsed;
  };
  const std::vector<Begun> cases = {
      {"ai\n", "", "a", "ai\na", " b", "C: b"},
      {"ai\n", "r", "a", "ai\n<think>\nr\n</think>\n\na", " b", "C: b"},
      {"ai\n", "r", "", "ai\n<think>\nr", " s</think>b", "R: s|C:b"},
      {"ai<think>\n", "r", "a", "ai<think>\nr\n</think>\n\na", " b", "C: b"},
      {"ai<think>\n", "r", "", "ai<think>\nr", " s</think>b", "R: s|C:b"},
      {"ai<think>\n", "", "a", "ai<think>\n\n</think>\n\na", " b", "C: b"},
      {"ai<think>\n", "", "", "ai<think>\n", " s</think>b", "R:s|C:b"},
      {"ai<think>\n\n</think>\n\n", "r", "a", "ai<think>\n\n</think>\n\na", " b", "C: b"},
      {"ai\n", "", "<think>", "ai\n<think>", " s</think>b", "R:s|C:b"},
  };
  for (const Begun& begun : cases) {
    std::string prompt = begun.prompt_end;
    ReplyFormat format = detect_reply_format("<think>", prompt);
    begin_reply(begun.reasoning, begun.content, &prompt, &format);
    EXPECT_EQ(prompt, begun.prompt);
    EXPECT_EQ(parsed(format, begun.rest), begun.parsed) << begun.prompt;
  }
  std::string prompt = "ai\n";
  ReplyFormat plain;
  begin_reply("r", "a", &prompt, &plain);
  EXPECT_EQ(prompt, "ai\na");
}

TEST(ReplyParser, BadToolsAreTheRequestsFault) {
  for (const std::string& tools : {std::string("{}"), std::string("["), std::string(9000, '[')}) {
    try {
      ReplyParser parser({}, tools);
      ADD_FAILURE() << tools.substr(0, 10);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage);
    }
  }
  ReplyParser odd({}, R"([1, {"function": 2}, {"function": {"name": 3, "parameters": []}}])");
}

TEST(ToolSchemas, ReferencesThatMultiplyAreCutOff) {
  std::string part = R"({"$ref": "#/$defs/a"})";
  for (int i = 0; i < 6; ++i) part += "," + part;
  const ToolSchemas schemas(
      R"([{"function": {"name": "f", "parameters": {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"anyOf": [)" +
      part + "]}}}}}]");
  EXPECT_EQ(schemas.types("f", "a"), unsigned{kTypeUnknown});
}

TEST(ReplyParser, HostileTextTakesLinearTime) {
  const auto repeated = [](std::string_view unit, std::size_t size = 1 << 18) {
    std::string text;
    while (text.size() < size) text += unit;
    return text;
  };
  for (int family = 0; family <= static_cast<int>(ToolSyntax::kToolCallList) + 1; ++family) {
    ReplyFormat format = format_of(static_cast<ToolSyntax>(family));
    format.harmony = family > static_cast<int>(ToolSyntax::kToolCallList);
    std::vector<std::string> texts = {repeated("<"),
                                      repeated("<tool_cal"),
                                      repeated("\n"),
                                      repeated("<｜tool▁call▁"),
                                      repeated("<think>"),
                                      repeated("</think>"),
                                      "{\"name\":\"f\",\"parameters\":" + repeated("[")};
    for (const std::string& marker : format.markers()) {
      texts.push_back(repeated(marker.substr(0, marker.size() - 1), 1 << 20));
      texts.push_back(repeated(marker));
      texts.push_back(marker + "{\"name\":\"f\",\"arguments\":" + repeated("{\"a\":["));
      texts.push_back(marker + repeated("x"));
    }
    const auto start = std::chrono::steady_clock::now();
    for (const std::string& text : texts) {
      ReplyParser parser(format, kTools);
      std::size_t given = 0;
      for (std::size_t at = 0; at < text.size(); at += 64) {
        for (const ReplyEvent& e : parser.push(std::string_view(text).substr(at, 64)))
          given += e.text.size();
      }
      for (const ReplyEvent& e : parser.finish()) given += e.text.size();
      EXPECT_LE(given, 2 * text.size());
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    EXPECT_LT(took.count() / static_cast<double>(texts.size()), 2.0) << family;
  }
}

// A vocabulary of control tokens and single bytes.
Tokenizer marker_vocab(const std::vector<std::string>& control) {
  GgufVocab vocab;
  vocab.model = "gpt2";
  vocab.pre = "gpt-2";
  for (const char c : std::string("abcdefgh{}:\"")) vocab.tokens.emplace_back(1, c);
  vocab.types.assign(vocab.tokens.size(), static_cast<std::int32_t>(TokenType::kNormal));
  for (const std::string& piece : control) {
    vocab.tokens.push_back(piece);
    vocab.types.push_back(static_cast<std::int32_t>(TokenType::kControl));
  }
  return Tokenizer::from_gguf(vocab);
}

TEST(ReplyFormat, MarkersArriveAsControlTokens) {
  const std::vector<std::string> control = {"<|im_end|>",
                                            "<｜tool▁calls▁begin｜>",
                                            "<｜tool▁call▁begin｜>",
                                            "<｜tool▁sep｜>",
                                            "<｜tool▁call▁end｜>",
                                            "<｜tool▁calls▁end｜>",
                                            "<think>",
                                            "</think>"};
  const Tokenizer tokenizer = marker_vocab(control);
  const ReplyFormat format = format_of(ToolSyntax::kDeepSeek);
  const std::string text =
      "<think>a</"
      "think>b<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
      "<｜tool▁calls▁end｜><|im_end|>";
  IncrementalDetokenizer detokenizer(tokenizer, true, false);
  const std::vector<TokenId> kept = marker_tokens(format, tokenizer);
  EXPECT_EQ(kept.size(), control.size() - 1);
  detokenizer.keep(kept);
  ReplyParser parser(format, {}, [] { return 0; });
  std::vector<ReplyEvent> events;
  for (const TokenId token : tokenizer.encode(text, false, true)) {
    for (ReplyEvent& e : parser.push(detokenizer.push(token))) events.push_back(std::move(e));
  }
  for (ReplyEvent& e : parser.finish()) events.push_back(std::move(e));
  EXPECT_EQ(spelled(events), "R:a|C:b|B0 call_000000000000000000000000 f|A:{}|E");
}

TEST(ReplyFormat, PartsOfMarkersCount) {
  const Tokenizer tokenizer = marker_vocab({"｜DSML｜", "<s>", "</s>"});
  EXPECT_EQ(marker_tokens(format_of(ToolSyntax::kDsml), tokenizer).size(), 1u);
  EXPECT_TRUE(marker_tokens({}, tokenizer).empty());
}

}  // namespace
}  // namespace kt::text
