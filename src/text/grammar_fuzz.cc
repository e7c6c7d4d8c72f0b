// Any text as a grammar of any kind, and replies that follow it: what compiles must let something
// come or end, its masks must agree with what it accepts, and a copy must stay as it was.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/grammar.h"

namespace {

using kt::text::Grammar;
using kt::text::GrammarFactory;
using kt::text::GrammarKind;
using kt::text::TokenId;
using State = Grammar::State;

constexpr std::size_t kEnd = 256;  // one token a byte, some longer ones, and the end

// A vocabulary of every byte and a few words, as GGUF files of SentencePiece models spell it.
kt::text::Tokenizer make_tokenizer() {
  kt::text::GgufVocab vocab;
  vocab.model = "llama";
  for (int byte = 0; byte < 256; ++byte) {
    char piece[8];
    std::snprintf(piece, sizeof piece, "<0x%02X>", byte);
    vocab.tokens.push_back(piece);
    vocab.types.push_back(6);
  }
  vocab.tokens.push_back("</s>");
  vocab.types.push_back(3);
  for (const char* word : {"{\"", "\":", "\",", "true", "null", "aa", "\xe2\x96\x81", "é", "123"}) {
    vocab.tokens.push_back(word);
    vocab.types.push_back(1);
  }
  vocab.scores.resize(vocab.tokens.size());
  vocab.eos = kEnd;
  return kt::text::Tokenizer::from_gguf(vocab, "fuzz");
}

bool allowed(const std::vector<std::uint32_t>& mask, std::size_t id) {
  return (mask[id / 32] >> (id % 32) & 1u) != 0;
}

// Walks through the grammar by tokens of its masks that `data` chooses.
void follow(Grammar grammar, std::size_t n_vocab, const std::uint8_t* data, std::size_t size) {
  std::vector<std::uint32_t> mask((n_vocab + 31) / 32);
  for (std::size_t i = 0; i < size; ++i) {
    const State state = grammar.fill(mask);
    if (state == State::kFailed || state == State::kComplete) return;
    std::vector<TokenId> may_come;
    for (std::size_t id = 0; id < n_vocab; ++id) {
      if (id != kEnd && allowed(mask, id)) may_come.push_back(static_cast<TokenId>(id));
    }
    if (allowed(mask, kEnd) != (state == State::kAccepting)) __builtin_trap();
    if (may_come.empty()) return;
    const State next = grammar.accept(may_come[data[i] % may_come.size()]);
    if (next == State::kFailed && grammar.error().empty()) __builtin_trap();
    if (next == State::kFailed) return;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const kt::text::Tokenizer tokenizer = make_tokenizer();
  static const GrammarFactory factory(tokenizer, tokenizer.end_tokens(), tokenizer.vocab_size());
  constexpr std::size_t kSteps = 24;
  if (size < 1) return 0;
  const std::size_t n_steps = std::min(kSteps, size - 1);
  // The last bytes choose the way through the grammar that the first ones are.
  const auto kind = static_cast<GrammarKind>(data[0] % 5);
  const std::string text(reinterpret_cast<const char*>(data + 1), size - 1);
  try {
    const Grammar grammar = factory.compile({kind, text}, "grammar");
    follow(grammar.fresh(), factory.n_vocab(), data + size - n_steps, n_steps);
    follow(grammar.fresh(), factory.n_vocab(), data + 1, n_steps);
  } catch (const kt::Error& error) {
    if (error.code() == kt::ErrorCode::kInternal) __builtin_trap();
  }
  return 0;
}
