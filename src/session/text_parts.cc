#include "session/text_parts.h"

#include <filesystem>

#include "io/files.h"
#include "io/gguf_source.h"

namespace kt::session {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> strings(const io::GgufMetadata& meta, std::string_view key) {
  std::vector<std::string> out;
  if (!meta.has(key)) return out;
  for (const std::string_view s : meta.get_strings(key)) out.emplace_back(s);
  return out;
}

std::optional<bool> flag(const io::GgufMetadata& meta, std::string_view key) {
  if (!meta.has(key)) return std::nullopt;
  return meta.get_bool(key, false);
}

text::GgufVocab gguf_vocab(const io::GgufMetadata& meta) {
  text::GgufVocab v;
  v.model = meta.get_string("tokenizer.ggml.model");
  v.pre = meta.get_string("tokenizer.ggml.pre", "");
  v.tokens = strings(meta, "tokenizer.ggml.tokens");
  v.merges = strings(meta, "tokenizer.ggml.merges");
  if (meta.has("tokenizer.ggml.scores")) v.scores = meta.get_floats("tokenizer.ggml.scores");
  if (meta.has("tokenizer.ggml.token_type")) {
    for (const std::int64_t t : meta.get_integers("tokenizer.ggml.token_type")) {
      v.types.push_back(static_cast<std::int32_t>(t));
    }
  }
  if (meta.has("tokenizer.ggml.precompiled_charsmap")) {
    for (const std::int64_t b : meta.get_integers("tokenizer.ggml.precompiled_charsmap")) {
      v.precompiled_charsmap.push_back(static_cast<std::uint8_t>(b));
    }
  }
  const auto id = [&](const char* key) {
    const std::int64_t value = meta.get_i64(key, -1);
    const bool fits = value >= 0 && value < static_cast<std::int64_t>(v.tokens.size());
    return fits ? static_cast<text::TokenId>(value) : -1;
  };
  v.bos = id("tokenizer.ggml.bos_token_id");
  v.eos = id("tokenizer.ggml.eos_token_id");
  v.eot = id("tokenizer.ggml.eot_token_id");
  v.eom = id("tokenizer.ggml.eom_token_id");
  v.unk = id("tokenizer.ggml.unknown_token_id");
  v.pad = id("tokenizer.ggml.padding_token_id");
  v.add_bos = flag(meta, "tokenizer.ggml.add_bos_token");
  v.add_eos = flag(meta, "tokenizer.ggml.add_eos_token");
  v.add_space_prefix = flag(meta, "tokenizer.ggml.add_space_prefix");
  return v;
}

void check_vocabulary(const io::WeightSource& source, const text::Tokenizer& tokenizer) {
  const auto n = static_cast<std::int64_t>(tokenizer.vocab_size());
  if (n <= source.config().vocab_size) return;
  fail(ErrorCode::kMismatch, source.path(),
       "the tokenizer has {} tokens, the model {}; they do not belong together", n,
       source.config().vocab_size);
}

}  // namespace

std::unique_ptr<text::Tokenizer> open_tokenizer(const io::WeightSource& source) {
  std::unique_ptr<text::Tokenizer> tokenizer;
  if (const auto* gguf = dynamic_cast<const io::GgufSource*>(&source)) {
    const io::GgufMetadata& meta = gguf->gguf().metadata();
    if (!meta.has("tokenizer.ggml.model") || meta.get_string("tokenizer.ggml.model") == "none")
      return nullptr;
    tokenizer = std::make_unique<text::Tokenizer>(
        text::Tokenizer::from_gguf(gguf_vocab(meta), source.path()));
  } else if (source.path().empty()) {  // random weights: no folder, and not the current one
    return nullptr;
  } else {
    const std::string folder = io::folder_of(source.path());
    if (!fs::exists(fs::path(folder) / "tokenizer.json")) return nullptr;
    tokenizer = std::make_unique<text::Tokenizer>(text::Tokenizer::from_hf_folder(folder));
  }
  check_vocabulary(source, *tokenizer);
  return tokenizer;
}

std::string chat_template_source(const io::WeightSource& source) {
  if (const auto* gguf = dynamic_cast<const io::GgufSource*>(&source)) {
    return std::string(gguf->gguf().metadata().get_string("tokenizer.chat_template", ""));
  }
  if (source.path().empty()) return {};
  const std::string folder = io::folder_of(source.path());
  return text::read_hf_chat_templates(folder).standard.value_or("");
}

std::unique_ptr<text::ChatTemplate> open_chat_template(const io::WeightSource& source,
                                                       const std::string& file) {
  const std::string text =
      file.empty() ? chat_template_source(source) : io::read_text_file(file, 512 << 10);
  if (text.empty()) return nullptr;
  return std::make_unique<text::ChatTemplate>(
      text::ChatTemplate::compile(text, file.empty() ? source.path() : file));
}

}  // namespace kt::session
