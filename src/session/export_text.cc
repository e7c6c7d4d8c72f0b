#include "session/export_text.h"

#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "session/text_parts.h"

namespace kt::session {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// Splitting patterns of tokenizer.json and the names GGUF has for them. An empty pattern is the byte-level
// pre-tokenizer's own (GPT-2's).
struct PreTokenizer {
  const char* name;
  const char* pattern;
};
constexpr PreTokenizer kPreTokenizers[] = {
    {"gpt-2", ""},
    {"llama-bpe",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
    {"qwen2",
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
};

json read_json(const fs::path& path) {
  std::ifstream in(path);
  if (!in) fail(ErrorCode::kIo, path.string(), "cannot be read");
  try {
    return json::parse(in);
  } catch (const json::exception& e) {
    fail(ErrorCode::kBadFile, path.string(), "is not valid JSON: {}", e.what());
  }
}

// The first Split pattern of a pre-tokenizer tree; empty when byte-level splits by itself.
std::string split_pattern(const json& pre) {
  if (!pre.is_object()) return {};
  if (pre.value("type", "") == "Split") return pre.at("pattern").value("Regex", "?");
  for (const json& part : pre.value("pretokenizers", json::array())) {
    const std::string pattern = split_pattern(part);
    if (!pattern.empty()) return pattern;
  }
  return {};
}

std::string pre_name(const json& tokenizer, const std::string& path) {
  const std::string pattern = split_pattern(tokenizer.value("pre_tokenizer", json()));
  for (const PreTokenizer& p : kPreTokenizers) {
    if (pattern == p.pattern) return p.name;
  }
  fail(ErrorCode::kUnsupported, path, "splits text by a pattern that this build has no GGUF name for: {}", pattern);
}

struct Vocabulary {
  std::vector<std::string> tokens, merges;
  std::vector<std::int32_t> types;
};

// 1 normal, 3 control, 4 user-defined, 5 unused (the numbers of GGUF).
Vocabulary read_vocabulary(const json& tokenizer, std::int64_t vocab_size, const std::string& path) {
  Vocabulary v;
  for (std::int64_t i = 0; i < vocab_size; ++i) v.tokens.push_back(fmt::format("[PAD{}]", i));
  v.types.assign(v.tokens.size(), 5);
  const auto put = [&](const std::string& token, std::int64_t id, std::int32_t type) {
    if (id < 0 || id >= vocab_size) {
      fail(ErrorCode::kMismatch, path, "token '{}' has id {}, the model has {} tokens", token, id, vocab_size);
    }
    v.tokens[static_cast<std::size_t>(id)] = token;
    v.types[static_cast<std::size_t>(id)] = type;
  };
  const json& model = tokenizer.at("model");
  for (const auto& [token, id] : model.at("vocab").items()) put(token, id.get<std::int64_t>(), 1);
  for (const json& added : tokenizer.value("added_tokens", json::array())) {
    put(added.at("content").get<std::string>(), added.at("id").get<std::int64_t>(),
        added.value("special", false) ? 3 : 4);
  }
  for (const json& merge : model.at("merges")) {
    v.merges.push_back(merge.is_string() ? merge.get<std::string>()
                                         : merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>());
  }
  return v;
}

void export_bpe(const json& tokenizer, const io::WeightSource& source, const std::string& path,
                io::GgufWriter& writer) {
  if (tokenizer.at("model").value("type", "BPE") != "BPE" || tokenizer.at("model").value("byte_fallback", false)) {
    fail(ErrorCode::kUnsupported, path, "only byte-level BPE tokenizers can be written to GGUF; this one is '{}'",
         tokenizer.at("model").value("type", "?"));
  }
  const Vocabulary v = read_vocabulary(tokenizer, source.config().vocab_size, path);
  writer.add_string("tokenizer.ggml.model", "gpt2");
  writer.add_string("tokenizer.ggml.pre", pre_name(tokenizer, path));
  writer.add_strings("tokenizer.ggml.tokens", v.tokens);
  writer.add_i32s("tokenizer.ggml.token_type", v.types);
  writer.add_strings("tokenizer.ggml.merges", v.merges);
  if (source.config().bos_token >= 0) {
    writer.add_u32("tokenizer.ggml.bos_token_id", static_cast<std::uint32_t>(source.config().bos_token));
  }
  if (!source.config().eos_tokens.empty()) {
    writer.add_u32("tokenizer.ggml.eos_token_id",
                   static_cast<std::uint32_t>(source.config().eos_tokens.front()));
  }
  const auto own = open_tokenizer(source);
  writer.add_bool("tokenizer.ggml.add_bos_token", own != nullptr && own->adds_bos());
}

}  // namespace

void export_text(const io::WeightSource& source, io::GgufWriter& writer) {
  const fs::path model = source.path();
  const fs::path folder = fs::is_directory(model) ? model : model.parent_path();
  const fs::path path = folder / "tokenizer.json";
  if (model.empty() || !fs::exists(path)) {
    writer.add_string("tokenizer.ggml.model", "none");
    return;
  }
  try {
    export_bpe(read_json(path), source, path.string(), writer);
  } catch (const json::exception& e) {
    fail(ErrorCode::kBadFile, path.string(), "is not a tokenizer file: {}", e.what());
  }
  const std::string chat = chat_template_source(source);
  if (!chat.empty()) writer.add_string("tokenizer.chat_template", chat);
}

}  // namespace kt::session
