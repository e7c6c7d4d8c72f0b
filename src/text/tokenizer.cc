#include "text/tokenizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "text/detokenizer.h"
#include "text/hf_json.h"
#include "text/rust_bridge.h"

namespace kt::text {
namespace {

constexpr std::size_t kMaxText = std::size_t{1} << 30;
constexpr std::uint8_t kExists = 1;
constexpr std::uint8_t kControl = 2;

/// Spellings that end a turn in the models that have them, best first.
constexpr std::array<std::string_view, 9> kEndOfTurn = {
    "<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>",      "<|endofturn|>",
    "<|eom_id|>", "<EOT>",      "[EOT]",         "<|endoftext|>"};

/// Texts laid end to end for Rust.
struct Flat {
  std::string bytes;
  std::vector<std::uint64_t> ends;
  explicit Flat(const std::vector<std::string>& texts) {
    ends.reserve(texts.size());
    for (const std::string& text : texts) {
      bytes += text;
      ends.push_back(bytes.size());
    }
  }
};

template <class T>
rust::Slice<const T> slice_of(const std::vector<T>& values) {
  return {values.data(), values.size()};
}

std::string_view piece_of(const rust::Vec<std::uint8_t>& bytes,
                          const rust::Vec<std::uint64_t>& ends, TokenId id) noexcept {
  const auto index = static_cast<std::size_t>(id);
  if (id < 0 || index >= ends.size()) return {};
  const std::size_t begin = index == 0 ? 0 : static_cast<std::size_t>(ends[index - 1]);
  return {reinterpret_cast<const char*>(bytes.data()) + begin,
          static_cast<std::size_t>(ends[index]) - begin};
}

}  // namespace

struct Tokenizer::Impl {
  std::string path;
  rust::Box<rs::Tok> tok;
  rs::Export table;
  bool use_post_processor = false;  // the file's own way to add BOS and EOS
  bool post_processor_adds_bos = false;
  std::vector<TokenId> prefix;  // ours, added around the text
  std::vector<TokenId> suffix;
  TokenId bos = -1;
  TokenId eos = -1;
  TokenId eot = -1;
  TokenId eom = -1;
  TokenId pad = -1;
  std::vector<TokenId> end_tokens;

  Impl(std::string where, rust::Box<rs::Tok> built)
      : path(std::move(where)), tok(std::move(built)) {
    table = call_rust(path, [&] { return tok->export_vocab(); });
  }

  std::size_t size() const noexcept { return table.flags.size(); }
  bool has(TokenId id, std::uint8_t flag) const noexcept {
    return id >= 0 && static_cast<std::size_t>(id) < size() &&
           (table.flags[static_cast<std::size_t>(id)] & flag) != 0;
  }
  TokenId find(std::string_view piece) const {
    return piece.empty() ? -1 : static_cast<TokenId>(tok->token_to_id(bytes_of(piece)));
  }
  void find_end_tokens();
};

void Tokenizer::Impl::find_end_tokens() {
  if (eot < 0) {
    for (const std::string_view piece : kEndOfTurn) {
      const TokenId id = find(piece);
      if (!has(id, kControl)) continue;
      if (id != eos) eot = id;
      break;
    }
  }
  std::vector<TokenId> ids = {eos, eot, eom};
  for (const std::string_view piece : kEndOfTurn) {
    if (const TokenId id = find(piece); has(id, kControl)) ids.push_back(id);
  }
  // In the harmony format <|end|> only closes a part of the reply; <|return|> and <|call|> end it.
  const TokenId harmony_return = find("<|return|>");
  const TokenId harmony_call = find("<|call|>");
  if (has(harmony_return, kControl) && has(harmony_call, kControl)) {
    std::erase(ids, find("<|end|>"));
    ids.push_back(harmony_return);
    ids.push_back(harmony_call);
    if (eot == find("<|end|>")) eot = harmony_call;
  }
  std::erase_if(ids, [&](TokenId id) { return !has(id, kExists); });
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  end_tokens = std::move(ids);
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::from_hf_folder(const std::string& folder) {
  const std::string path = folder + "/tokenizer.json";
  const std::optional<std::string> text = read_optional(path);
  if (!text) fail(ErrorCode::kNotFound, path, "no such file; a tokenizer.json is needed");
  const nlohmann::json config = read_optional_json(folder + "/tokenizer_config.json");
  const nlohmann::json map = read_optional_json(folder + "/special_tokens_map.json");
  auto impl = std::make_unique<Impl>(
      path, call_rust(path, [&] { return rs::tokenizer_from_json(bytes_of(*text)); }));

  const auto id_of = [&](const char* key) {
    std::string piece = token_text(config, key);
    if (piece.empty()) piece = token_text(map, key);
    return impl->find(piece);
  };
  impl->bos = id_of("bos_token");
  impl->eos = id_of("eos_token");
  impl->pad = id_of("pad_token");
  impl->find_end_tokens();

  // What the file's post-processor adds to an empty text tells what is left for us to add.
  const rust::Vec<std::uint32_t> around =
      call_rust(path, [&] { return impl->tok->encode(bytes_of(""), true, false); });
  const auto post_adds = [&](TokenId id) {
    return id >= 0 &&
           std::find(around.begin(), around.end(), static_cast<std::uint32_t>(id)) != around.end();
  };
  const std::optional<bool> add_bos = bool_of(config, "add_bos_token");
  const std::optional<bool> add_eos = bool_of(config, "add_eos_token");
  const std::string kind = string_or(config, "tokenizer_class");
  const bool flags_rule = kind.starts_with("Llama") || kind.starts_with("CodeLlama") ||
                          kind.starts_with("Gemma") || kind.starts_with("Cohere");
  impl->use_post_processor = !around.empty() && !(flags_rule && add_bos == false);
  impl->post_processor_adds_bos = impl->use_post_processor && post_adds(impl->bos);
  if (add_bos == true && impl->bos >= 0 && !impl->post_processor_adds_bos)
    impl->prefix = {impl->bos};
  if (add_eos == true && impl->eos >= 0 && !(impl->use_post_processor && post_adds(impl->eos))) {
    impl->suffix = {impl->eos};
  }
  return Tokenizer(std::move(impl));
}

Tokenizer Tokenizer::from_gguf(const GgufVocab& vocab, const std::string& path) {
  const auto n_tokens = static_cast<TokenId>(std::min<std::size_t>(vocab.tokens.size(), INT32_MAX));
  const std::array<std::pair<const char*, TokenId>, 6> ids = {{{"bos", vocab.bos},
                                                               {"eos", vocab.eos},
                                                               {"eot", vocab.eot},
                                                               {"eom", vocab.eom},
                                                               {"unknown", vocab.unk},
                                                               {"padding", vocab.pad}}};
  for (const auto& [name, id] : ids) {
    if (id >= n_tokens || id < -1) {
      fail(ErrorCode::kBadFile, path,
           "names token {} as the {} token, its vocabulary has {}; the file is damaged", id, name,
           n_tokens);
    }
  }
  const Flat tokens(vocab.tokens);
  const Flat merges(vocab.merges);
  const bool add_space_prefix = vocab.add_space_prefix.value_or(true);
  const rs::GgufRaw raw{bytes_of(vocab.model),
                        bytes_of(vocab.pre),
                        bytes_of(tokens.bytes),
                        slice_of(tokens.ends),
                        slice_of(vocab.scores),
                        slice_of(vocab.types),
                        bytes_of(merges.bytes),
                        slice_of(merges.ends),
                        slice_of(vocab.precompiled_charsmap),
                        vocab.unk,
                        add_space_prefix};
  auto impl =
      std::make_unique<Impl>(path, call_rust(path, [&] { return rs::tokenizer_from_gguf(raw); }));
  impl->bos = vocab.bos;
  impl->eos = vocab.eos;
  impl->eot = vocab.eot;
  impl->eom = vocab.eom;
  impl->pad = vocab.pad;
  impl->find_end_tokens();
  if (vocab.add_bos.value_or(impl->table.implies_bos) && vocab.bos >= 0) impl->prefix = {vocab.bos};
  if (vocab.add_eos.value_or(vocab.model == "t5") && vocab.eos >= 0) impl->suffix = {vocab.eos};
  return Tokenizer(std::move(impl));
}

std::vector<TokenId> Tokenizer::encode(std::string_view text, bool add_special,
                                       bool parse_special) const {
  if (text.size() > kMaxText) {
    fail(ErrorCode::kUsage, impl_->path,
         "a text of {} bytes is too long, at most {} are accepted; cut it", text.size(), kMaxText);
  }
  const rust::Vec<std::uint32_t> ids = call_rust(impl_->path, [&] {
    return impl_->tok->encode(bytes_of(text), add_special && impl_->use_post_processor,
                              parse_special);
  });
  std::vector<TokenId> out;
  out.reserve(ids.size() + 2);
  if (add_special) out.insert(out.end(), impl_->prefix.begin(), impl_->prefix.end());
  for (const std::uint32_t id : ids) out.push_back(static_cast<TokenId>(id));
  if (add_special) out.insert(out.end(), impl_->suffix.begin(), impl_->suffix.end());
  return out;
}

std::string Tokenizer::decode(std::span<const TokenId> ids, bool skip_special) const {
  IncrementalDetokenizer detokenizer(*this, skip_special);
  std::string text;
  for (const TokenId id : ids) text += detokenizer.push(id);
  text += detokenizer.flush();
  return text;
}

std::string_view Tokenizer::id_to_piece(TokenId id) const noexcept {
  return piece_of(impl_->table.pieces, impl_->table.piece_ends, id);
}

std::string_view Tokenizer::token_bytes(TokenId id) const noexcept {
  return piece_of(impl_->table.bytes, impl_->table.byte_ends, id);
}

std::optional<TokenId> Tokenizer::token_to_id(std::string_view piece) const {
  const TokenId id = impl_->find(piece);
  return id >= 0 ? std::optional(id) : std::nullopt;
}

std::size_t Tokenizer::vocab_size() const noexcept { return impl_->size(); }

bool Tokenizer::is_special(TokenId id) const noexcept { return impl_->has(id, kControl); }

namespace {
std::optional<TokenId> if_any(TokenId id) noexcept {
  return id >= 0 ? std::optional(id) : std::nullopt;
}
}  // namespace

std::optional<TokenId> Tokenizer::bos() const noexcept { return if_any(impl_->bos); }
std::optional<TokenId> Tokenizer::eos() const noexcept { return if_any(impl_->eos); }
std::optional<TokenId> Tokenizer::eot() const noexcept { return if_any(impl_->eot); }
std::optional<TokenId> Tokenizer::pad() const noexcept { return if_any(impl_->pad); }

const std::vector<TokenId>& Tokenizer::end_tokens() const noexcept { return impl_->end_tokens; }

bool Tokenizer::adds_bos() const noexcept {
  return impl_->post_processor_adds_bos || !impl_->prefix.empty();
}

bool Tokenizer::strips_leading_space() const noexcept { return impl_->table.strips_leading_space; }

}  // namespace kt::text
