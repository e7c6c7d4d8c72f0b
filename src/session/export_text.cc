#include "session/export_text.h"

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_map>

#include "base/error.h"
#include "io/quote.h"
#include "session/text_parts.h"

namespace kt::session {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// The splitting steps of tokenizer.json, one a line, and the name GGUF has for them. Later steps of
// rows with `prefix` are not compared.
struct PreTokenizer {
  const char* name;
  const char* steps;
  bool prefix = false;
};
constexpr PreTokenizer kPreTokenizers[] = {
    {"gpt-2", "ByteLevel words\n"},
    {"smollm", "Digits\nByteLevel words\n"},
    {"llama-bpe",
     "Split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+\nByteLevel\n"},
    {"qwen2",
     "Split (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+\nByteLevel\n"},
    {"gpt-4o",
     "Split "
     "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
     "(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+"
     "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\\p{N}{1,3}| "
     "?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+\nByteLevel\n"},
    {"deepseek-v3",
     "Split \\p{N}{1,3}\nSplit [一-龥぀-ゟ゠-ヿ]+\nSplit "
     "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~]",
     true},
    {"deepseek-llm", "Split [\\r\\n]\nSplit \\s?[A-Za-z\xc2\xb5", true},
    {"deepseek-coder", "Split [\\r\\n]\nSplit \\s?\\p{L}+\n", true},
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

// Line breaks inside a pattern as escapes: files write them either way.
std::string escaped(const std::string& pattern) {
  std::string out;
  for (const char c : pattern) {
    if (c == '\r') {
      out += "\\r";
    } else if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

// The steps of a pre-tokenizer tree as kPreTokenizers writes them.
std::string splitting_steps(const json& pre, int depth = 0) {
  constexpr int kMaxDepth = 8;
  if (!pre.is_object() || depth > kMaxDepth) return {};
  const std::string type = pre.value("type", "");
  if (type == "Sequence") {
    std::string steps;
    for (const json& part : pre.value("pretokenizers", json::array()))
      steps += splitting_steps(part, depth + 1);
    return steps;
  }
  if (type == "Split") return "Split " + escaped(pre.at("pattern").value("Regex", "?")) + "\n";
  if (type == "Digits" && !pre.value("individual_digits", false)) return "Digits in groups\n";
  if (type == "ByteLevel" && pre.value("use_regex", true)) return "ByteLevel words\n";
  return type + "\n";
}

std::string pre_name(const json& tokenizer, const std::string& path) {
  const std::string steps = splitting_steps(tokenizer.value("pre_tokenizer", json()));
  for (const PreTokenizer& p : kPreTokenizers) {
    if (p.prefix ? steps.starts_with(p.steps) : steps == p.steps) return p.name;
  }
  fail(ErrorCode::kUnsupported, path,
       "splits text in a way that this build has no GGUF name for: {}", io::quote(steps));
}

struct Vocabulary {
  std::vector<std::string> tokens, merges;
  std::vector<std::int32_t> types;
  std::vector<float> scores;  // SentencePiece's: minus the rank of the merge that makes the token
};

// 1 normal, 3 control, 4 user-defined, 5 unused (the numbers of GGUF).
Vocabulary read_vocabulary(const json& tokenizer, std::int64_t vocab_size,
                           const std::string& path) {
  Vocabulary v;
  for (std::int64_t i = 0; i < vocab_size; ++i) v.tokens.push_back(fmt::format("[PAD{}]", i));
  v.types.assign(v.tokens.size(), 5);
  const auto put = [&](const std::string& token, std::int64_t id, std::int32_t type) {
    if (id < 0 || id >= vocab_size) {
      fail(ErrorCode::kMismatch, path, "token '{}' has id {}, the model has {} tokens", token, id,
           vocab_size);
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
    v.merges.push_back(merge.is_string()
                           ? merge.get<std::string>()
                           : merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>());
  }
  return v;
}

// Whether SentencePiece's space is put before the text.
bool adds_space_prefix(const json& step, int depth = 0) {
  constexpr int kMaxDepth = 8;
  if (!step.is_object() || depth > kMaxDepth) return false;
  const std::string type = step.value("type", "");
  if (type == "Prepend") return true;
  if (type == "Metaspace") {
    return step.value("prepend_scheme",
                      step.value("add_prefix_space", true) ? "always" : "never") != "never";
  }
  for (const char* list : {"normalizers", "pretokenizers"}) {
    for (const json& part : step.value(list, json::array())) {
      if (adds_space_prefix(part, depth + 1)) return true;
    }
  }
  return false;
}

// BPE over characters with bytes as last resort is what GGUF calls "llama": there a token's score
// says when it is merged.
void export_sentencepiece(const json& tokenizer, Vocabulary v, io::GgufWriter& writer) {
  std::unordered_map<std::string_view, std::size_t> ids;
  for (std::size_t i = 0; i < v.tokens.size(); ++i) ids.emplace(v.tokens[i], i);
  v.scores.assign(v.tokens.size(), -1e6f);
  for (std::size_t i = v.merges.size(); i > 0; --i) {  // the first merge of a token counts
    const std::string& merge = v.merges[i - 1];
    const std::size_t space = merge.find(' ');
    if (space == std::string::npos) continue;
    const std::string token = merge.substr(0, space) + merge.substr(space + 1);
    const auto it = ids.find(token);
    if (it != ids.end()) v.scores[it->second] = -static_cast<float>(i - 1);
  }
  const std::string unknown = tokenizer.at("model").value("unk_token", json()).is_string()
                                  ? tokenizer.at("model").at("unk_token").get<std::string>()
                                  : std::string();
  for (std::size_t i = 0; i < v.tokens.size(); ++i) {
    const std::string& t = v.tokens[i];
    if (t.size() == 6 && t.starts_with("<0x") && t.back() == '>') v.types[i] = 6;
    if (!unknown.empty() && t == unknown) {
      v.types[i] = 2;
      writer.add_u32("tokenizer.ggml.unknown_token_id", static_cast<std::uint32_t>(i));
    }
  }
  writer.add_string("tokenizer.ggml.model", "llama");
  writer.add_string("tokenizer.ggml.pre", "default");
  writer.add_strings("tokenizer.ggml.tokens", v.tokens);
  writer.add_f32s("tokenizer.ggml.scores", v.scores);
  writer.add_i32s("tokenizer.ggml.token_type", v.types);
  writer.add_bool("tokenizer.ggml.add_space_prefix",
                  adds_space_prefix(tokenizer.value("normalizer", json())) ||
                      adds_space_prefix(tokenizer.value("pre_tokenizer", json())));
}

void export_bpe(const json& tokenizer, const io::WeightSource& source, const std::string& path,
                io::GgufWriter& writer) {
  const std::string model = tokenizer.at("model").value("type", "BPE");
  if (model != "BPE") {
    fail(ErrorCode::kUnsupported, path,
         "only BPE tokenizers can be written to GGUF; this one is {}", io::quote(model));
  }
  const Vocabulary v = read_vocabulary(tokenizer, source.config().vocab_size, path);
  if (tokenizer.at("model").value("byte_fallback", false)) {
    export_sentencepiece(tokenizer, v, writer);
  } else {
    writer.add_string("tokenizer.ggml.model", "gpt2");
    writer.add_string("tokenizer.ggml.pre", pre_name(tokenizer, path));
    writer.add_strings("tokenizer.ggml.tokens", v.tokens);
    writer.add_i32s("tokenizer.ggml.token_type", v.types);
    writer.add_strings("tokenizer.ggml.merges", v.merges);
  }
  // What the tokenizer's own files say goes before config.json, as in llama.cpp's converters.
  const auto own = open_tokenizer(source);
  const io::ModelConfig& c = source.config();
  const std::int64_t bos = own != nullptr && own->bos() ? *own->bos() : c.bos_token;
  const std::int64_t from_config = c.eos_tokens.empty() ? -1 : c.eos_tokens.front();
  const std::int64_t eos = own != nullptr && own->eos() ? *own->eos() : from_config;
  if (bos >= 0) writer.add_u32("tokenizer.ggml.bos_token_id", static_cast<std::uint32_t>(bos));
  if (eos >= 0) writer.add_u32("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(eos));
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
