// Grammars of every kind on the bundled vocabulary: what they take, what they refuse, what does not
// compile, hostile ones.
#include "text/grammar.h"

#include <gtest/gtest.h>

#include <chrono>

#include "base/error.h"

namespace kt::text {
namespace {

class GrammarTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    tokenizer_ =
        new Tokenizer(Tokenizer::from_hf_folder(std::string(KT_SOURCE_DIR) + "/models/tiny-moe"));
    // More logits than tokens, as embeddings are padded.
    factory_ = new GrammarFactory(*tokenizer_, tokenizer_->end_tokens(), n_vocab());
  }
  static void TearDownTestSuite() {
    delete factory_;
    delete tokenizer_;
  }
  static std::size_t n_vocab() { return tokenizer_->vocab_size() + 37; }

  static bool allowed(const std::vector<std::uint32_t>& mask, TokenId id) {
    return (mask[static_cast<std::size_t>(id) / 32] >> (id % 32) & 1) != 0;
  }

  // The state after a text whose tokens must all be in the masks; nothing when one is not.
  static std::optional<Grammar::State> after(Grammar& grammar, std::string_view text) {
    std::vector<std::uint32_t> mask((n_vocab() + 31) / 32);
    for (const TokenId id : tokenizer_->encode(text, false, false)) {
      if (grammar.fill(mask) == Grammar::State::kFailed) {
        ADD_FAILURE() << grammar.error();
        return std::nullopt;
      }
      for (std::size_t pad = tokenizer_->vocab_size(); pad < mask.size() * 32; ++pad)
        EXPECT_FALSE(allowed(mask, static_cast<TokenId>(pad)));
      if (!allowed(mask, id)) return std::nullopt;
      if (grammar.accept(id) == Grammar::State::kFailed) return std::nullopt;
    }
    const Grammar::State state = grammar.fill(mask);
    EXPECT_EQ(state != Grammar::State::kOpen, allowed(mask, tokenizer_->end_tokens().front()));
    return state;
  }

  static bool takes(GrammarKind kind, const std::string& source, std::string_view text) {
    Grammar grammar = factory_->compile({kind, source});
    const std::optional<Grammar::State> state = after(grammar, text);
    return state && *state != Grammar::State::kOpen;
  }

  static std::string error(GrammarKind kind, const std::string& source) {
    try {
      factory_->compile({kind, source}, "field");
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage) << e.what();
      return e.what();
    }
    return {};
  }

  static Tokenizer* tokenizer_;
  static GrammarFactory* factory_;
};
Tokenizer* GrammarTest::tokenizer_ = nullptr;
GrammarFactory* GrammarTest::factory_ = nullptr;

TEST_F(GrammarTest, JsonObject) {
  constexpr GrammarKind kKind = GrammarKind::kJsonObject;
  EXPECT_TRUE(takes(kKind, "", R"({"a": [1, 2.5, null, {"b": "c\n\u0007d"}]})"));
  EXPECT_TRUE(takes(kKind, "", "{}"));
  EXPECT_FALSE(takes(kKind, "", "[1]"));
  EXPECT_FALSE(takes(kKind, "", "Once {}"));
  EXPECT_FALSE(takes(kKind, "", "{\"a\": 1"));
  EXPECT_FALSE(takes(kKind, "", "{} x"));
  EXPECT_FALSE(takes(kKind, "", "{" + std::string(200, '\n') + "}"));
}

TEST_F(GrammarTest, JsonSchema) {
  constexpr GrammarKind kKind = GrammarKind::kJsonSchema;
  const std::string schema = R"({"type": "object", "properties": {"name": {"type": "string",
    "maxLength": 5}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
    "kind": {"enum": ["a", "b"]}, "next": {"$ref": "#/$defs/node"}},
    "required": ["name", "age"], "additionalProperties": false,
    "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}},
    "additionalProperties": false}}})";
  EXPECT_TRUE(takes(kKind, schema, R"({"name": "Tom", "age": 7})"));
  EXPECT_TRUE(takes(kKind, schema, R"({"name":"Tom","age":150,"kind":"b","next":{"next":{}}})"));
  EXPECT_FALSE(takes(kKind, schema, R"({"name": "Thomas", "age": 7})"));
  EXPECT_FALSE(takes(kKind, schema, R"({"name": "Tom", "age": 151})"));
  EXPECT_FALSE(takes(kKind, schema, R"({"name": "Tom"})"));
  EXPECT_FALSE(takes(kKind, schema, R"({"name": "Tom", "age": 7, "x": 1})"));
}

TEST_F(GrammarTest, SchemasThatCannotBeHonoured) {
  constexpr GrammarKind kKind = GrammarKind::kJsonSchema;
  EXPECT_NE(error(kKind, R"({"type": "array", "uniqueItems": true})").find("uniqueItems"),
            std::string::npos);
  EXPECT_NE(error(kKind, R"({"type": "string", "format": "no-such"})").find("no-such"),
            std::string::npos);
  for (const std::string schema :
       {"", "{", "3", "[]", R"({"type": "no-type"})", R"({"$ref": "#/nowhere"})",
        R"({"x-guidance": {"lenient": true}, "uniqueItems": true})",
        R"({"type": "string", "pattern": "("})",
        R"({"minimum": 3, "maximum": 2, "type": "integer"})",
        R"({"$ref": "https://example.com/schema"})"}) {
    const std::string message = error(kKind, schema);
    EXPECT_TRUE(message.starts_with("field: ")) << schema;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

TEST_F(GrammarTest, Regex) {
  EXPECT_TRUE(takes(GrammarKind::kRegex, "(yes|no), [A-Z][a-z/]+", "no, To/m"));
  EXPECT_FALSE(takes(GrammarKind::kRegex, "yes|no", "maybe"));
  Grammar grammar = factory_->compile({GrammarKind::kRegex, "yes|no"});
  EXPECT_EQ(after(grammar, "yes"), Grammar::State::kComplete);
  EXPECT_FALSE(error(GrammarKind::kRegex, "(").empty());
  EXPECT_FALSE(error(GrammarKind::kRegex, std::string(20000, 'a')).empty());
}

TEST_F(GrammarTest, Lark) {
  const std::string source = "start: item (\",\" item)*\nitem: /[a-z]+/ | \"(\" start \")\"\n";
  EXPECT_TRUE(takes(GrammarKind::kLark, source, "a,(b,c),d"));
  EXPECT_FALSE(takes(GrammarKind::kLark, source, "a,(b"));
  EXPECT_FALSE(error(GrammarKind::kLark, "start: missing").empty());
}

TEST_F(GrammarTest, Gbnf) {
  constexpr GrammarKind kKind = GrammarKind::kGbnf;
  const std::string list = R"(# a list
root   ::= "- " item ("\n- " item)*  # items
item ::= [a-z]+ "x" | [^\n-]{2,3}
)";
  EXPECT_TRUE(takes(kKind, list, "- abcx\n- AB"));
  EXPECT_FALSE(takes(kKind, list, "- abcde"));
  EXPECT_FALSE(takes(kKind, list, "abcx"));
  const std::string json = R"(root ::= object
value ::= object | array | string | ("-"? [0-9]+) | "true" | "null"
object ::=
  "{" ws (
    string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
ws ::= | " " | "\n" [ \t]{0,20}
)";
  EXPECT_TRUE(takes(kKind, json, R"({"a": [1, "b\"c", {}], "d":true} )"));
  EXPECT_FALSE(takes(kKind, json, R"({"a": [1})"));
  for (const std::string source :
       {"", "x ::= \"a\"", "root ::= y", "root ::= (", "root = \"a\"", "root ::= \"a",
        "root ::= [a", "root ::= []", "root ::= \"a\"{2,1}", "root ::= \"a\"\nroot ::= \"b\"",
        "root ::= \"\\q\""}) {
    EXPECT_TRUE(error(kKind, source).starts_with("field: GBNF: ")) << source;
  }
  EXPECT_FALSE(error(kKind, "root ::= " + std::string(100000, '(')).empty());
}

TEST_F(GrammarTest, AWrongTokenFails) {
  Grammar grammar = factory_->compile({GrammarKind::kJsonObject, ""});
  Grammar other = grammar.fresh();
  const TokenId wrong = tokenizer_->encode("Once", false, false).front();
  EXPECT_EQ(grammar.accept(wrong), Grammar::State::kFailed);
  EXPECT_FALSE(grammar.error().empty());
  std::vector<std::uint32_t> mask((n_vocab() + 31) / 32);
  EXPECT_EQ(grammar.fill(mask), Grammar::State::kFailed);
  EXPECT_EQ(after(other, "{}"), Grammar::State::kComplete);
  EXPECT_EQ(other.accept(-1), Grammar::State::kFailed);
}

TEST_F(GrammarTest, EndTokensAreWanted) {
  EXPECT_THROW(GrammarFactory(*tokenizer_, {}, n_vocab()), Error);
}

TEST_F(GrammarTest, HostileGrammarsEndSoon) {
  std::string deep, wide = R"({"type": "object", "properties": {)", nested = "a";
  for (int i = 0; i < 100; ++i) deep += R"({"items": )";
  deep += "{}" + std::string(100, '}');
  for (int i = 0; i < 5000; ++i)
    wide += (i ? ", \"" : "\"") + std::to_string(i) + R"(": {"type": "string"})";
  wide += "}}";
  for (int i = 0; i < 12; ++i) nested = "(" + nested + "){1,1000}";
  const std::vector<GrammarSpec> specs = {
      {GrammarKind::kJsonSchema, deep},
      {GrammarKind::kJsonSchema, std::string(100000, '[')},
      {GrammarKind::kJsonSchema, wide},
      {GrammarKind::kJsonSchema, R"({"type": "string", "maxLength": 1000000000})"},
      {GrammarKind::kJsonSchema, R"({"type": "array", "minItems": 1000000, "maxItems": 2000000})"},
      {GrammarKind::kRegex, nested},
      {GrammarKind::kRegex, std::string(8000, '(')},
      {GrammarKind::kRegex, "(a?){5000}a{5000}"},
      {GrammarKind::kRegex, "(.*a){200}"},
      {GrammarKind::kLark, "start: start start | \"a\"?"},
      {GrammarKind::kLark, "start: (((\"a\"{1,1000}){1,1000}){1,1000}){1,1000}"},
      {GrammarKind::kGbnf, "root ::= root root | \"a\""}};
  for (const GrammarSpec& spec : specs) {
    const auto start = std::chrono::steady_clock::now();
    try {
      Grammar grammar = factory_->compile(spec);
      std::vector<std::uint32_t> mask((n_vocab() + 31) / 32);
      for (int i = 0; i < 20; ++i) {
        if (grammar.fill(mask) == Grammar::State::kFailed) break;
        TokenId id = 0;
        while (static_cast<std::size_t>(id) + 1 < n_vocab() && !allowed(mask, id)) ++id;
        if (grammar.accept(id) == Grammar::State::kFailed) break;
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUsage) << error.what();
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    EXPECT_LT(took.count(), 10.0) << spec.text.substr(0, 60);
  }
}

}  // namespace
}  // namespace kt::text
