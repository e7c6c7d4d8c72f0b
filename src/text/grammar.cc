#include "text/grammar.h"

#include <utility>
#include <vector>

#include "text/rust_bridge.h"

namespace kt::text {
namespace {

Grammar::State state_of(rs::MatcherState state) {
  switch (state) {
    case rs::MatcherState::Open: return Grammar::State::kOpen;
    case rs::MatcherState::Accepting: return Grammar::State::kAccepting;
    case rs::MatcherState::Complete: return Grammar::State::kComplete;
    default: return Grammar::State::kFailed;
  }
}

rs::GrammarKind kind_of(GrammarKind kind) {
  switch (kind) {
    case GrammarKind::kJsonObject: return rs::GrammarKind::JsonObject;
    case GrammarKind::kJsonSchema: return rs::GrammarKind::JsonSchema;
    case GrammarKind::kRegex: return rs::GrammarKind::Regex;
    case GrammarKind::kLark: return rs::GrammarKind::Lark;
    case GrammarKind::kGbnf: break;
  }
  return rs::GrammarKind::Gbnf;
}

}  // namespace

struct Grammar::Impl {
  rust::Box<rs::Matcher> matcher;
};

Grammar::Grammar(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Grammar::~Grammar() = default;
Grammar::Grammar(Grammar&&) noexcept = default;
Grammar& Grammar::operator=(Grammar&&) noexcept = default;

Grammar::State Grammar::fill(std::span<std::uint32_t> mask) noexcept {
  return state_of(impl_->matcher->fill(rust::Slice<std::uint32_t>(mask.data(), mask.size())));
}

Grammar::State Grammar::accept(TokenId token) noexcept {
  return state_of(impl_->matcher->accept(static_cast<std::uint32_t>(token)));
}

std::string Grammar::error() const { return std::string(impl_->matcher->error()); }

Grammar Grammar::fresh() const {
  return Grammar(std::make_unique<Impl>(
      Impl{call_rust("grammar", [this] { return impl_->matcher->fresh(); })}));
}

struct GrammarFactory::Impl {
  rust::Box<rs::Factory> factory;
  std::size_t n_vocab;
};

GrammarFactory::GrammarFactory(const Tokenizer& tokenizer, std::span<const TokenId> end_tokens,
                               std::size_t n_vocab) {
  std::string bytes;
  std::vector<std::uint64_t> ends;
  std::vector<std::uint8_t> flags;
  for (std::size_t i = 0; i < tokenizer.vocab_size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    bytes += tokenizer.token_bytes(id);
    ends.push_back(bytes.size());
    flags.push_back(tokenizer.is_special(id) ? 2 : 0);
  }
  const std::vector<std::uint32_t> end_ids(end_tokens.begin(), end_tokens.end());
  const rs::VocabRaw raw{bytes_of(bytes),
                         {ends.data(), ends.size()},
                         {flags.data(), flags.size()},
                         {end_ids.data(), end_ids.size()},
                         static_cast<std::uint32_t>(n_vocab)};
  impl_ = std::make_unique<Impl>(
      Impl{call_rust("grammar", [&] { return rs::grammar_factory(raw); }), n_vocab});
}

GrammarFactory::~GrammarFactory() = default;
GrammarFactory::GrammarFactory(GrammarFactory&&) noexcept = default;
GrammarFactory& GrammarFactory::operator=(GrammarFactory&&) noexcept = default;

Grammar GrammarFactory::compile(const GrammarSpec& spec, const std::string& path) const {
  return Grammar(std::make_unique<Grammar::Impl>(Grammar::Impl{call_rust(
      path, [&] { return impl_->factory->compile(kind_of(spec.kind), bytes_of(spec.text)); })}));
}

std::size_t GrammarFactory::n_vocab() const { return impl_->n_vocab; }

}  // namespace kt::text
