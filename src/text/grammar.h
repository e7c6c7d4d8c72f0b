// Grammars that bind what a model may write: which tokens may come next, step by step.
//
//   GrammarFactory (once per tokenizer) ─compile(spec)→ Grammar (one reply)
//   each step: fill(mask) → sample a token of the mask → accept(token)
//
// What cannot be honoured is an error, never ignored: keywords of a schema that are not supported,
// grammars that are too large. The work of a step is limited; a grammar that exceeds it fails, and
// with it the request. The work is done by the Rust crate `llguidance` (rust/).
// Thread rule: a factory is immutable, compile() may be called from several threads at once; a
// Grammar belongs to one thread at a time.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "text/tokenizer.h"

namespace kt::text {

enum class GrammarKind {
  kJsonObject,  // any JSON object; no text
  kJsonSchema,
  kRegex,  // in the syntax of Rust's regex crate, over the whole reply
  kLark,   // llguidance's dialect
  kGbnf    // llama.cpp's notation
};

struct GrammarSpec {
  GrammarKind kind = GrammarKind::kJsonObject;
  std::string text;
};

class Grammar {
 public:
  enum class State {
    kOpen,       // more must come
    kAccepting,  // it may end here, or go on
    kComplete,   // nothing but an end token may come
    kFailed      // error() says why; it stays so
  };
  ~Grammar();
  Grammar(Grammar&&) noexcept;
  Grammar& operator=(Grammar&&) noexcept;

  /// Sets bit id of the mask (word id / 32, bit id % 32) for every token that may come next; end
  /// tokens are among them where the grammar accepts.
  State fill(std::span<std::uint32_t> mask) noexcept;
  /// The token that was chosen; kFailed when it was not allowed.
  State accept(TokenId token) noexcept;
  std::string error() const;
  /// Another one in the same state.
  Grammar fresh() const;

 private:
  friend class GrammarFactory;
  struct Impl;
  explicit Grammar(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

class GrammarFactory {
 public:
  /// end_tokens end a reply; n_vocab is the number of logits. A second or so for a large
  /// vocabulary. Throws kUnsupported without end tokens.
  GrammarFactory(const Tokenizer& tokenizer, std::span<const TokenId> end_tokens,
                 std::size_t n_vocab);
  ~GrammarFactory();
  GrammarFactory(GrammarFactory&&) noexcept;
  GrammarFactory& operator=(GrammarFactory&&) noexcept;

  /// Throws kUsage with what is wrong; `path` names the field of the request.
  Grammar compile(const GrammarSpec& spec, const std::string& path = "grammar") const;
  std::size_t n_vocab() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kt::text
