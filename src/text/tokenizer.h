// Text to token ids and back: one Tokenizer from a Hugging Face folder or from the vocabulary of a
// GGUF file.
//
//   encode: text -> added tokens cut out -> normalizer -> pre-tokenizer -> BPE/Unigram -> ids (+
//   BOS/EOS) decode: ids -> token_bytes(id) each -> decoder rules (leading space, invalid UTF-8 ->
//   U+FFFD) -> text
//
// The work is done by the Rust crate `tokenizers` (rust/); nothing of Rust shows here.
// Thread rule: immutable once built; every const method may be called from several threads at once.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kt::text {

using TokenId = std::int32_t;

/// Kinds of tokens as GGUF numbers them (tokenizer.ggml.token_type).
enum class TokenType : std::int32_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

/// The tokenizer.ggml.* keys of a GGUF file, copied out by the caller. Ids that the file lacks are
/// -1.
struct GgufVocab {
  std::string model;                // tokenizer.ggml.model: gpt2, llama, t5, …
  std::string pre;                  // tokenizer.ggml.pre; empty if the file lacks it
  std::vector<std::string> tokens;  // tokenizer.ggml.tokens
  std::vector<float> scores;        // empty or one per token; needed by llama and t5
  std::vector<std::int32_t> types;  // empty (all normal) or one TokenType per token
  std::vector<std::string> merges;  // "left right", best first; needed by gpt2
  TokenId bos = -1;
  TokenId eos = -1;
  TokenId eot = -1;
  TokenId eom = -1;
  TokenId unk = -1;
  TokenId pad = -1;
  std::optional<bool> add_bos;           // absent: what the model and pre-tokenizer imply
  std::optional<bool> add_eos;           // absent: false (t5: true)
  std::optional<bool> add_space_prefix;  // absent: true for llama and t5
  std::vector<std::uint8_t>
      precompiled_charsmap;  // t5: SentencePiece's normalisation table, or empty
};

class Tokenizer {
 public:
  /// Reads tokenizer.json, tokenizer_config.json and special_tokens_map.json (the last two are
  /// optional) of a folder. Throws kNotFound without tokenizer.json, kBadFile, kUnsupported (a
  /// model, decoder or normalizer that streaming cannot honour).
  static Tokenizer from_hf_folder(const std::string& folder);

  /// Builds from GGUF keys; `path` is for messages. Throws kUnsupported naming an unknown model or
  /// pre-tokenizer, kBadFile for counts that disagree, ids out of range, text that is not UTF-8,
  /// merges of pieces that are not tokens.
  static Tokenizer from_gguf(const GgufVocab& vocab, const std::string& path = {});

  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// Ids of `text`. add_special puts BOS/EOS as the model wants them; parse_special makes control
  /// tokens written in the text count as such (else they are plain text; user-defined tokens always
  /// count). Bytes that are not UTF-8 become U+FFFD. Throws kUsage above 1 GiB of text, kInternal.
  std::vector<TokenId> encode(std::string_view text, bool add_special, bool parse_special) const;

  /// Text of ids, always valid UTF-8. skip_special leaves control tokens out. Ids out of range are
  /// left out.
  std::string decode(std::span<const TokenId> ids, bool skip_special) const;

  /// The vocabulary's spelling of an id ("Ġthe", "▁the", "<0x0A>", "<|im_end|>"); empty out of
  /// range.
  std::string_view id_to_piece(TokenId id) const noexcept;
  /// The raw bytes an id adds to the text, maybe part of a character; empty out of range.
  std::string_view token_bytes(TokenId id) const noexcept;
  /// Id of a spelling, or nothing.
  std::optional<TokenId> token_to_id(std::string_view piece) const;

  /// One more than the largest id; a model's embedding may have more rows than this.
  std::size_t vocab_size() const noexcept;
  /// Control token (BOS, <|im_end|>, …)? False out of range.
  bool is_special(TokenId id) const noexcept;

  std::optional<TokenId> bos() const noexcept;
  std::optional<TokenId> eos() const noexcept;
  /// End of turn, when it is another token than eos().
  std::optional<TokenId> eot() const noexcept;
  std::optional<TokenId> pad() const noexcept;
  /// Ids that end a reply: eos, eot, eom and the usual end-of-turn control tokens this vocabulary
  /// has. Ascending, no id twice.
  const std::vector<TokenId>& end_tokens() const noexcept;
  /// Does encode(…, add_special = true, …) begin with BOS?
  bool adds_bos() const noexcept;
  /// Does decode() drop one space at the very start (SentencePiece's prefix)?
  bool strips_leading_space() const noexcept;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kt::text
