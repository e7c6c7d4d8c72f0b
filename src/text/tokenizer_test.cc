#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>

#include "base/error.h"
#include "text/detokenizer.h"

namespace kt::text {
namespace {

ErrorCode code_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.code();
  }
  return ErrorCode::kInternal;
}

/// UTF-8 of the character that byte-level BPE writes for a byte.
std::string byte_char(int byte) {
  int code = byte;
  if (byte <= 0x20) code = 0x100 + byte;
  if (byte >= 0x7F && byte <= 0xA0) code = 0x121 + byte - 0x7F;
  if (byte == 0xAD) code = 0x143;
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

/// 256 bytes, "he", "ll", "hell", "Ġhe", <|end|> (control), <tool> (user-defined).
GgufVocab byte_vocab() {
  GgufVocab v;
  v.model = "gpt2";
  v.pre = "gpt-2";
  for (int byte = 0; byte < 256; ++byte) v.tokens.push_back(byte_char(byte));
  const std::string space = byte_char(' ');
  for (const std::string& piece : {std::string("he"), std::string("ll"), std::string("hell"),
                                   space + "he", std::string("<|end|>"), std::string("<tool>")}) {
    v.tokens.push_back(piece);
  }
  v.types.assign(v.tokens.size(), 1);
  v.types[260] = 3;
  v.types[261] = 4;
  v.merges = {"h e", "l l", "he ll", space + " he"};
  v.eos = 260;
  return v;
}

/// <unk> <s> </s>, 256 byte tokens, then pieces whose scores say which merge comes first.
GgufVocab piece_vocab() {
  GgufVocab v;
  v.model = "llama";
  v.tokens = {"<unk>", "<s>", "</s>"};
  v.types = {2, 3, 3};
  v.scores = {0, 0, 0};
  for (int byte = 0; byte < 256; ++byte) {
    v.tokens.push_back(fmt::format("<0x{:02X}>", byte));
    v.types.push_back(6);
    v.scores.push_back(0);
  }
  const std::vector<std::pair<std::string, float>> pieces = {
      {"ab", -1}, {"bc", -2}, {"▁ab", -3}, {"abc", -4}, {"▁", -5}, {"a", -6}, {"b", -7}, {"c", -8}};
  for (const auto& [piece, score] : pieces) {
    v.tokens.push_back(piece);
    v.types.push_back(1);
    v.scores.push_back(score);
  }
  v.bos = 1;
  v.eos = 2;
  v.unk = 0;
  return v;
}

TEST(Tokenizer, ByteLevelMergesInOrderOfRank) {
  const Tokenizer t = Tokenizer::from_gguf(byte_vocab());
  EXPECT_EQ(t.encode("hello he", false, false), (std::vector<TokenId>{258, 'o', 259}));
  EXPECT_EQ(t.encode("", true, true), std::vector<TokenId>{});
  EXPECT_EQ(t.vocab_size(), 262u);
}

TEST(Tokenizer, ControlTokensCountOnlyWhenAsked) {
  const Tokenizer t = Tokenizer::from_gguf(byte_vocab());
  EXPECT_EQ(t.encode("a<|end|><tool>", false, true), (std::vector<TokenId>{'a', 260, 261}));
  EXPECT_EQ(t.encode("a<|end|><tool>", false, false),
            (std::vector<TokenId>{'a', '<', '|', 'e', 'n', 'd', '|', '>', 261}));
  EXPECT_EQ(t.decode(std::vector<TokenId>{'a', 260, 261}, true), "a<tool>");
  EXPECT_EQ(t.decode(std::vector<TokenId>{'a', 260, 261}, false), "a<|end|><tool>");
  EXPECT_TRUE(t.is_special(260));
  EXPECT_FALSE(t.is_special(261));
}

TEST(Tokenizer, EveryTextComesBack) {
  const Tokenizer t = Tokenizer::from_gguf(byte_vocab());
  const std::string text = "\t Grüße, 世界! 😀\n\n  x";
  EXPECT_EQ(t.decode(t.encode(text, false, false), false), text);
}

TEST(Tokenizer, BytesThatAreNotUtf8BecomeReplacements) {
  const Tokenizer t = Tokenizer::from_gguf(byte_vocab());
  EXPECT_EQ(t.decode(t.encode("a\xFFz\xE4\xB8", false, false), false), "a\uFFFDz\uFFFD");
}

TEST(Tokenizer, SentencePieceMergesByScoreAndFallsBackToBytes) {
  const Tokenizer t = Tokenizer::from_gguf(piece_vocab());
  const auto id = [&](std::string_view piece) { return t.token_to_id(piece).value(); };
  // "ab" (-1) comes before "bc" (-2); then "▁ab" (-3) before "abc" (-4).
  EXPECT_EQ(t.encode("abc", true, true), (std::vector<TokenId>{1, id("▁ab"), id("c")}));
  EXPECT_EQ(t.encode("é", false, true),
            (std::vector<TokenId>{id("▁"), id("<0xC3>"), id("<0xA9>")}));
  EXPECT_EQ(t.decode(t.encode("abc é  b", true, true), true), "abc é  b");
  EXPECT_TRUE(t.strips_leading_space());
  EXPECT_TRUE(t.adds_bos());
}

TEST(Tokenizer, SpacePrefixAndBosFollowTheFile) {
  GgufVocab v = piece_vocab();
  v.add_space_prefix = false;
  v.add_bos = false;
  v.add_eos = true;
  const Tokenizer t = Tokenizer::from_gguf(v);
  EXPECT_EQ(t.encode("abc", true, true), (std::vector<TokenId>{t.token_to_id("abc").value(), 2}));
  EXPECT_EQ(t.decode(t.encode(" abc", false, true), true), " abc");
}

TEST(Tokenizer, EndTokensAreEosAndTheUsualNames) {
  GgufVocab v = byte_vocab();
  v.eos = -1;
  const Tokenizer t = Tokenizer::from_gguf(v);
  EXPECT_FALSE(t.eos().has_value());
  EXPECT_EQ(t.eot(), 260);
  EXPECT_EQ(t.end_tokens(), std::vector<TokenId>{260});
}

TEST(Tokenizer, IdsOutOfRangeAreHarmless) {
  const Tokenizer t = Tokenizer::from_gguf(byte_vocab());
  for (const TokenId id : {-1, 262, 1 << 30, INT32_MIN, INT32_MAX}) {
    EXPECT_EQ(t.id_to_piece(id), "");
    EXPECT_EQ(t.token_bytes(id), "");
    EXPECT_FALSE(t.is_special(id));
    EXPECT_EQ(t.decode(std::vector<TokenId>{'a', id, 'b'}, false), "ab");
  }
  EXPECT_FALSE(t.token_to_id("no such piece").has_value());
  EXPECT_FALSE(t.token_to_id("\xFF").has_value());
}

TEST(Tokenizer, BadVocabulariesAreRefused) {
  const auto refused = [](const std::function<void(GgufVocab&)>& spoil, GgufVocab v) {
    spoil(v);
    return code_of([&] { Tokenizer::from_gguf(v, "file"); });
  };
  EXPECT_EQ(refused([](auto& v) { v.pre = "unheard-of"; }, byte_vocab()), ErrorCode::kUnsupported);
  EXPECT_EQ(refused([](auto& v) { v.model = "bert"; }, byte_vocab()), ErrorCode::kUnsupported);
  EXPECT_EQ(refused([](auto& v) { v.tokens.clear(); }, byte_vocab()), ErrorCode::kBadFile);
  EXPECT_EQ(refused([](auto& v) { v.tokens[0] = "\xC3"; }, byte_vocab()), ErrorCode::kBadFile);
  EXPECT_EQ(refused([](auto& v) { v.tokens[0] = v.tokens[1]; }, byte_vocab()), ErrorCode::kBadFile);
  EXPECT_EQ(refused([](auto& v) { v.merges.push_back("q"); }, byte_vocab()), ErrorCode::kBadFile);
  EXPECT_EQ(refused([](auto& v) { v.merges.push_back("a b"); }, byte_vocab()), ErrorCode::kBadFile);
  EXPECT_EQ(refused([](auto& v) { v.types.pop_back(); }, byte_vocab()), ErrorCode::kBadFile);
  EXPECT_EQ(refused([](auto& v) { v.eos = 262; }, byte_vocab()), ErrorCode::kBadFile);
  EXPECT_EQ(refused([](auto& v) { v.bos = -7; }, byte_vocab()), ErrorCode::kBadFile);
  EXPECT_EQ(refused([](auto& v) { v.scores.clear(); }, piece_vocab()), ErrorCode::kBadFile);
  EXPECT_EQ(refused([](auto& v) { v.scores[5] = std::nanf(""); }, piece_vocab()),
            ErrorCode::kBadFile);
  EXPECT_EQ(refused([](auto& v) { v.tokens.back() = std::string(100000, 'x'); }, piece_vocab()),
            ErrorCode::kBadFile);
  EXPECT_EQ(refused(
                [](auto& v) {
                  v.model = "t5";
                  v.precompiled_charsmap = {9, 9, 9};
                },
                piece_vocab()),
            ErrorCode::kBadFile);
}

class HfFolder : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) / "kt_text_hf";
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  ErrorCode open_code() {
    return code_of([&] { Tokenizer::from_hf_folder(folder_.string()); });
  }
  std::filesystem::path folder_;
};

constexpr const char* kTiny = R"({"version": "1.0", "truncation": null, "padding": null,
  "added_tokens": [{"id": 3, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true}],
  "normalizer": null, "pre_tokenizer": null, "post_processor": null,
  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})";

TEST_F(HfFolder, ReadsTokensAndFlags) {
  write("tokenizer.json", kTiny);
  write("tokenizer_config.json", R"({"add_bos_token": true, "bos_token": {"content": "<s>"}})");
  const Tokenizer t = Tokenizer::from_hf_folder(folder_.string());
  EXPECT_EQ(t.encode("aab", true, true), (std::vector<TokenId>{3, 0, 2}));
  EXPECT_EQ(t.bos(), 3);
  EXPECT_EQ(t.vocab_size(), 4u);
}

TEST_F(HfFolder, BadFilesAreRefused) {
  EXPECT_EQ(open_code(), ErrorCode::kNotFound);
  for (const char* text :
       {"", "{", "[]", "{}", "null", R"({"model": {"type": "BPE", "vocab": 1}})"}) {
    write("tokenizer.json", text);
    EXPECT_EQ(open_code(), ErrorCode::kBadFile) << text;
  }
  write("tokenizer.json", std::string(100000, '['));
  EXPECT_EQ(open_code(), ErrorCode::kBadFile);
  write("tokenizer.json", kTiny);
  write("tokenizer_config.json", std::string(100000, '{'));
  EXPECT_EQ(open_code(), ErrorCode::kBadFile);
  std::string far = kTiny;
  far.replace(far.find("\"ab\": 2"), 7, "\"ab\": 4000000000");
  write("tokenizer.json", far);
  std::filesystem::remove(folder_ / "tokenizer_config.json");
  EXPECT_EQ(open_code(), ErrorCode::kBadFile);
  std::string silent = kTiny;
  const std::size_t at = silent.find("{\"type\": \"ByteLevel\"");
  silent.replace(at, silent.find('}', at) + 1 - at, "null");
  write("tokenizer.json", silent);
  EXPECT_EQ(open_code(), ErrorCode::kUnsupported);
}

TEST(Detokenizer, NeverSplitsACharacter) {
  const Tokenizer t = Tokenizer::from_gguf(byte_vocab());
  IncrementalDetokenizer d(t);
  EXPECT_EQ(d.push('a'), "a");
  EXPECT_EQ(d.push(0xF0), "");
  EXPECT_EQ(d.push(0x9F), "");
  EXPECT_EQ(d.push(0x98), "");
  EXPECT_EQ(d.push(0x80), "😀");
  EXPECT_EQ(d.push(260), "");
  EXPECT_EQ(d.push(0xE4), "");
  EXPECT_EQ(d.push('x'), "\uFFFDx");
  EXPECT_EQ(d.push(0x80), "\uFFFD");
  EXPECT_EQ(d.push(0xC3), "");
  EXPECT_EQ(d.flush(), "\uFFFD");
  EXPECT_EQ(d.flush(), "");
}

TEST(Detokenizer, DropsTheLeadingSpaceOnlyAtTheStart) {
  const Tokenizer t = Tokenizer::from_gguf(piece_vocab());
  const TokenId piece = t.token_to_id("▁ab").value();
  IncrementalDetokenizer at_start(t);
  EXPECT_EQ(at_start.push(1), "");
  EXPECT_EQ(at_start.push(piece), "ab");
  EXPECT_EQ(at_start.push(piece), " ab");
  IncrementalDetokenizer going_on(t, true, false);
  EXPECT_EQ(going_on.push(piece), " ab");
}

TEST(Detokenizer, BadBytesBecomeOneReplacementPerMaximalPart) {
  const auto taken = [](std::string bytes) {
    std::string out;
    take_whole_characters(bytes, out);
    return out + "|" + bytes;
  };
  EXPECT_EQ(taken("\xC0\x80"), "\uFFFD\uFFFD|");
  EXPECT_EQ(taken("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD|");  // a surrogate
  EXPECT_EQ(taken("\xF4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD|");
  EXPECT_EQ(taken("\xF0\x9F\x98z"), "\uFFFDz|");
  EXPECT_EQ(taken("z\xF0\x9F\x98"), "z|\xF0\x9F\x98");
  EXPECT_EQ(taken("\xE0\x80"), "\uFFFD\uFFFD|");
}

}  // namespace
}  // namespace kt::text
