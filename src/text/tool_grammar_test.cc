// Replies as templates write them fit the grammar of required calls, and read back as those calls;
// others do not fit.
#include "text/tool_grammar.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "text/reply_parser.h"

namespace kt::text {
namespace {

constexpr std::string_view kTools = R"([{"type": "function", "function": {"name": "get_weather",
  "parameters": {"type": "object", "properties": {"city": {"type": "string"},
  "days": {"type": "integer"}, "kind": {"enum": ["a", "b"]}}, "required": ["city"],
  "additionalProperties": false}}}, {"type": "function", "function": {"name": "now"}}])";

// Bytes, and control tokens.
Tokenizer byte_vocab(const std::vector<std::string>& control) {
  GgufVocab vocab;
  vocab.model = "llama";
  vocab.tokens = {"<unk>", "<s>", "</s>"};
  vocab.types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    constexpr std::string_view kHex = "0123456789ABCDEF";
    vocab.tokens.push_back(std::string("<0x") + kHex[static_cast<std::size_t>(byte) / 16] +
                           kHex[static_cast<std::size_t>(byte) % 16] + ">");
    vocab.types.push_back(static_cast<std::int32_t>(TokenType::kByte));
  }
  for (const std::string& piece : control) {
    vocab.tokens.push_back(piece);
    vocab.types.push_back(static_cast<std::int32_t>(TokenType::kControl));
  }
  vocab.scores.assign(vocab.tokens.size(), 0.0f);
  vocab.unk = 0;
  vocab.bos = 1;
  vocab.eos = 2;
  vocab.add_space_prefix = false;
  return Tokenizer::from_gguf(vocab);
}

// Whether the whole text fits, byte by byte but for control tokens.
bool fits(const Tokenizer& tokenizer, Grammar grammar, std::string_view text) {
  std::vector<std::uint32_t> mask((tokenizer.vocab_size() + 31) / 32);
  Grammar::State state = grammar.fill(mask);
  while (!text.empty()) {
    TokenId id = 3 + static_cast<unsigned char>(text.front());
    std::size_t length = 1;
    for (auto c = static_cast<TokenId>(259); c < static_cast<TokenId>(tokenizer.vocab_size());
         ++c) {
      if (!text.starts_with(tokenizer.id_to_piece(c))) continue;
      id = c;
      length = tokenizer.id_to_piece(c).size();
    }
    if ((mask[static_cast<std::size_t>(id) / 32] >> (id % 32) & 1) == 0) return false;
    text.remove_prefix(length);
    state = grammar.accept(id);
    if (state == Grammar::State::kFailed) return false;
    state = grammar.fill(mask);
  }
  return state == Grammar::State::kAccepting || state == Grammar::State::kComplete;
}

std::string calls_in(const ReplyFormat& format, std::string_view text) {
  ReplyParser parser(format, kTools);
  std::string out;
  for (const auto& events : {parser.push(text), parser.finish()}) {
    for (const ReplyEvent& e : events) {
      if (e.kind == ReplyEvent::Kind::kCallEnd) out += ';';
      out += e.text;
    }
  }
  return out;
}

struct Case {
  ToolSyntax tools;
  bool other_form;
  std::vector<std::string> control;
  std::string one, two;  // get_weather(city "P", days 3); the same and now()
};

// Families whose arguments are tags around values, and Hermes.
std::vector<Case> tagged_cases() {
  const std::string hermes =
      "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"P\", \"days\": 3}}\n"
      "</tool_call>";
  const std::string qwen =
      "<tool_call>\n<function=get_weather>\n<parameter=city>\nP\n</"
      "parameter>\n<parameter=days>\n3\n"
      "</parameter>\n</function>\n</tool_call>";
  const std::string glm =
      "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>P</arg_value>\n"
      "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>";
  const std::string invoke =
      "<invoke name=\"get_weather\">\n<parameter name=\"city\">P</parameter>\n<parameter "
      "name=\"days\">3</parameter>\n</invoke>\n";
  const std::string dsml =
      "<｜DSML｜invoke name=\"get_weather\">\n<｜DSML｜parameter name=\"city\" string=\"true\">P"
      "</｜DSML｜parameter>\n<｜DSML｜parameter name=\"days\" "
      "string=\"false\">3</｜DSML｜parameter>\n"
      "</｜DSML｜invoke>\n";
  return {
      {ToolSyntax::kHermes,
       false,
       {"<tool_call>", "</tool_call>"},
       hermes,
       hermes + "\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"},
      {ToolSyntax::kQwenCoder,
       false,
       {},
       qwen,
       qwen + "\n<tool_call>\n<function=now>\n</function>\n</tool_call>"},
      {ToolSyntax::kGlm,
       false,
       {"<tool_call>", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"},
       glm,
       glm + "\n<tool_call>now\n</tool_call>"},
      {ToolSyntax::kMiniMax,
       false,
       {},
       "<minimax:tool_call>\n" + invoke + "</minimax:tool_call>",
       "<minimax:tool_call>\n" + invoke + "<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>"},
      {ToolSyntax::kDsml,
       false,
       {"｜DSML｜"},
       "<｜DSML｜function_calls>\n" + dsml + "</｜DSML｜function_calls>",
       "<｜DSML｜function_calls>\n" + dsml +
           "<｜DSML｜invoke name=\"now\">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>"}};
}

// Families whose arguments are JSON.
std::vector<Case> json_cases() {
  const std::string object =
      "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"P\", \"days\": 3}}";
  const std::string arguments = "{\"city\": \"P\", \"days\": 3}";
  const std::vector<std::string> deep_seek = {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>",
                                              "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
                                              "<｜tool▁calls▁end｜>"};
  const std::string fenced = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>";
  const std::string kimi =
      "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
      "<|tool_call_argument_begin|>" +
      arguments + "<|tool_call_end|>";
  return {
      {ToolSyntax::kDeepSeek, false, deep_seek,
       "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>" + arguments +
           "<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
       "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>" + arguments +
           "<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜>"
           "<｜tool▁calls▁end｜>"},
      {ToolSyntax::kDeepSeek, true, deep_seek,
       "<｜tool▁calls▁begin｜>" + fenced + "get_weather\n```json\n" + arguments +
           "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
       "<｜tool▁calls▁begin｜>" + fenced + "get_weather\n```json\n" + arguments +
           "\n```<｜tool▁call▁end｜>\n" + fenced +
           "now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"},
      {ToolSyntax::kKimi,
       false,
       {},
       kimi + "<|tool_calls_section_end|>",
       kimi + "<|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
              "<|tool_calls_section_end|>"},
      {ToolSyntax::kMistral,
       false,
       {"[TOOL_CALLS]", "[ARGS]"},
       "[TOOL_CALLS]get_weather[ARGS]" + arguments,
       "[TOOL_CALLS]get_weather[ARGS]" + arguments + "[TOOL_CALLS]now[ARGS]{}"},
      {ToolSyntax::kMistral,
       true,
       {"[TOOL_CALLS]"},
       "[TOOL_CALLS][" + object + "]",
       "[TOOL_CALLS][" + object + ", {\"name\": \"now\", \"arguments\": {}}]"},
      {ToolSyntax::kLlamaJson,
       false,
       {},
       "{\"name\": \"get_weather\", \"parameters\": " + arguments + "}",
       "{\"name\": \"get_weather\", \"parameters\": " + arguments +
           "}; {\"name\": \"now\", \"parameters\": {}}"},
      {ToolSyntax::kToolCallList,
       false,
       {},
       "<TOOLCALL>[" + object + "]</TOOLCALL>",
       "<TOOLCALL>[" + object + ", {\"name\": \"now\", \"arguments\": {}}]</TOOLCALL>"},
  };
}

TEST(ToolGrammar, TakesWhatTemplatesWriteAndNothingElse) {
  std::vector<Case> cases = tagged_cases();
  for (const Case& c : json_cases()) cases.push_back(c);
  for (const Case& c : cases) {
    SCOPED_TRACE(c.one);
    const Tokenizer tokenizer = byte_vocab(c.control);
    const GrammarFactory factory(tokenizer, std::vector<TokenId>{2}, tokenizer.vocab_size());
    ReplyFormat format;
    format.tools = c.tools;
    format.other_form = c.other_form;
    const auto grammar = [&](const ToolChoice& choice) {
      return factory.compile(tool_grammar(format, kTools, tokenizer, choice));
    };
    const std::string call = "get_weather{\"city\": \"P\", \"days\": 3};";
    EXPECT_EQ(calls_in(format, c.one), call);
    EXPECT_EQ(calls_in(format, c.two), call + "now{};");
    EXPECT_TRUE(fits(tokenizer, grammar({}), c.one));
    EXPECT_TRUE(fits(tokenizer, grammar({}), c.two));
    EXPECT_TRUE(fits(tokenizer, grammar({"get_weather", false}), c.one));
    EXPECT_FALSE(fits(tokenizer, grammar({"get_weather", false}), c.two));
    EXPECT_FALSE(fits(tokenizer, grammar({"now", true}), c.one));
    EXPECT_FALSE(fits(tokenizer, grammar({}), "hello"));
    EXPECT_FALSE(fits(tokenizer, grammar({}), ""));
    for (const std::string city : {"", "<a></b> {\"x\\n"}) {
      std::string other = c.one;
      const std::size_t at = other.find("P");
      if (at == std::string::npos || other.find("\"P\"") != std::string::npos) continue;
      EXPECT_TRUE(fits(tokenizer, grammar({}), other.replace(at, 1, city))) << other;
    }
    std::string wrong = c.one;
    wrong.replace(wrong.find('3'), 1, "x");
    EXPECT_FALSE(fits(tokenizer, grammar({}), wrong));
  }
}

TEST(ToolGrammar, Errors) {
  const Tokenizer tokenizer = byte_vocab({});
  const auto code = [&](const ReplyFormat& format, std::string_view tools,
                        const ToolChoice& choice = {}) {
    try {
      tool_grammar(format, tools, tokenizer, choice);
    } catch (const Error& error) {
      return error.code();
    }
    return ErrorCode::kInternal;
  };
  ReplyFormat hermes;
  hermes.tools = ToolSyntax::kHermes;
  EXPECT_EQ(code({}, kTools), ErrorCode::kUnsupported);
  EXPECT_EQ(code(hermes, "[]"), ErrorCode::kUsage);
  EXPECT_EQ(code(hermes, "{"), ErrorCode::kUsage);
  EXPECT_EQ(code(hermes, "[{}]"), ErrorCode::kUsage);
  EXPECT_EQ(code(hermes, kTools, {"missing", true}), ErrorCode::kUsage);
  EXPECT_EQ(code(hermes, R"([{"function": {"name": "f", "parameters": {"x-guidance": {}}}}])"),
            ErrorCode::kUsage);
}

TEST(ToolGrammar, StrictFunctionsRefuseWhatCannotBeHonoured) {
  const Tokenizer tokenizer = byte_vocab({});
  const GrammarFactory factory(tokenizer, std::vector<TokenId>{2}, tokenizer.vocab_size());
  ReplyFormat hermes;
  hermes.tools = ToolSyntax::kHermes;
  const std::string tool =
      R"({"name": "f", "parameters": {"properties": {"a": {"type": "array", "uniqueItems": true}}})";
  const auto compile = [&](const std::string& tools) {
    (void)factory.compile(tool_grammar(hermes, tools, tokenizer));
  };
  EXPECT_NO_THROW(compile("[" + tool + "}]"));
  EXPECT_THROW(compile("[" + tool + ", \"strict\": true}]"), Error);
}

}  // namespace
}  // namespace kt::text
