// Tokenizer files of a Hugging Face folder as GGUF keys.
#include "session/export_text.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "io/gguf.h"

namespace kt::session {
namespace {

namespace fs = std::filesystem;

// A source that has nothing but a folder and a vocabulary size.
class FolderSource : public io::WeightSource {
 public:
  FolderSource(std::string path, std::int64_t vocab_size) : path_(std::move(path)) {
    config_.vocab_size = vocab_size;
  }
  const std::string& path() const override { return path_; }
  const io::ModelConfig& config() const override { return config_; }
  const std::vector<io::TensorInfo>& tensors() const override { return tensors_; }
  const io::TensorInfo* find(const std::string&) const override { return nullptr; }
  void read_rows(const io::TensorInfo&, std::int64_t, std::int64_t, std::byte*) const override {}
  std::optional<tensor::WeightView> map(const io::TensorInfo&) const override {
    return std::nullopt;
  }
  void drop(const io::TensorInfo&) const override {}

 private:
  std::string path_;
  io::ModelConfig config_;
  std::vector<io::TensorInfo> tensors_;
};

class ExportTextTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "kt_export_text_XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  void put(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
  }

  io::GgufFile exported(const fs::path& model, std::int64_t vocab_size) {
    const std::string path = (folder_ / "out.gguf").string();
    io::GgufWriter writer(path);
    export_text(FolderSource(model.string(), vocab_size), writer);
    writer.begin_data();
    writer.finish();
    return io::GgufFile::open(path);
  }

  ErrorCode refused(const std::string& tokenizer) {
    put("tokenizer.json", tokenizer);
    try {
      exported(folder_, 8);
    } catch (const Error& e) {
      EXPECT_FALSE(fs::exists(folder_ / "out.gguf"));
      return e.code();
    }
    ADD_FAILURE() << "accepted";
    return ErrorCode::kInternal;
  }

  fs::path folder_;
};

TEST_F(ExportTextTest, ByteLevelOfTheBundledModel) {
  const io::GgufFile file = exported(fs::path(KT_SOURCE_DIR) / "models/tiny-moe", 3000);
  const io::GgufMetadata& meta = file.metadata();
  EXPECT_EQ(meta.get_string("tokenizer.ggml.model"), "gpt2");
  EXPECT_EQ(meta.get_string("tokenizer.ggml.pre"), "gpt-2");
  EXPECT_EQ(meta.array_size("tokenizer.ggml.tokens"), 3000u);
  EXPECT_EQ(meta.array_size("tokenizer.ggml.token_type"), 3000u);
  EXPECT_GT(meta.array_size("tokenizer.ggml.merges"), 100u);
  EXPECT_TRUE(meta.has("tokenizer.ggml.bos_token_id"));
  EXPECT_EQ(meta.get_strings("tokenizer.ggml.tokens").back(), "[PAD2999]");
  EXPECT_EQ(meta.get_integers("tokenizer.ggml.token_type").back(), 5);
}

TEST_F(ExportTextTest, SentencePieceScoresAreMergeRanks) {
  put("tokenizer.json", R"({"version": "1.0", "normalizer": {"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
      "pre_tokenizer": null, "post_processor": null, "added_tokens": [
      {"id": 0, "content": "<unk>", "special": true, "single_word": false, "lstrip": false, "rstrip": false,
       "normalized": false}],
      "decoder": {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
      "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
      "vocab": {"<unk>": 0, "<0x0A>": 1, "a": 2, "b": 3, "ab": 4, "▁": 5, "▁ab": 6},
      "merges": ["a b", "▁ ab"]}})");
  const io::GgufFile file = exported(folder_, 8);
  const io::GgufMetadata& meta = file.metadata();
  EXPECT_EQ(meta.get_string("tokenizer.ggml.model"), "llama");
  EXPECT_TRUE(meta.get_bool("tokenizer.ggml.add_space_prefix", false));
  EXPECT_EQ(meta.get_u64("tokenizer.ggml.unknown_token_id"), 0u);
  EXPECT_EQ(meta.get_integers("tokenizer.ggml.token_type"),
            (std::vector<std::int64_t>{2, 6, 1, 1, 1, 1, 1, 5}));
  const std::vector<float> scores = meta.get_floats("tokenizer.ggml.scores");
  EXPECT_EQ(scores[4], 0.0f);
  EXPECT_EQ(scores[6], -1.0f);
  EXPECT_LT(scores[2], -1.0f);
}

TEST_F(ExportTextTest, NoTokenizerIsSaid) {
  EXPECT_EQ(exported(folder_, 8).metadata().get_string("tokenizer.ggml.model"), "none");
}

TEST_F(ExportTextTest, WhatCannotBeWrittenIsRefused) {
  const std::string tail = R"("model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})";
  EXPECT_EQ(refused("{"), ErrorCode::kBadFile);
  EXPECT_EQ(refused("{}"), ErrorCode::kBadFile);
  EXPECT_EQ(refused(R"({"model": {"type": "WordPiece", "vocab": {}}})"), ErrorCode::kUnsupported);
  EXPECT_EQ(refused(R"({"model": {"type": "BPE", "vocab": {"a": 9}, "merges": []}})"),
            ErrorCode::kMismatch);
  EXPECT_EQ(refused(R"({"model": {"type": "BPE", "vocab": {"a": "x"}, "merges": []}})"),
            ErrorCode::kBadFile);
  EXPECT_EQ(refused(R"({"pre_tokenizer": {"type": "Whitespace"}, )" + tail),
            ErrorCode::kUnsupported);
  EXPECT_EQ(refused(R"({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "x+"}}, )" + tail),
            ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace kt::session
