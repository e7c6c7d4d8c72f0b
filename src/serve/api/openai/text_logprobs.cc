#include "serve/api/openai/text_logprobs.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/utf8.h"

namespace kt::serve::openai {
namespace {

bool is_text(std::string_view bytes) {
  while (!bytes.empty()) {
    const std::size_t length = first_utf8(bytes).length;
    if (length == 0) return false;
    bytes.remove_prefix(length);
  }
  return true;
}

}  // namespace

TextLogprobs::TextLogprobs(const TokenTexts& texts, std::size_t n_before)
    : texts_(texts), offset_(n_before) {}

void TextLogprobs::add_prompt(const std::vector<engine::SampledToken>& tokens,
                              std::string_view text) {
  for (const engine::SampledToken& token : tokens) {
    push(token, &token != tokens.data());
    const std::string all = texts_.bytes(token.id);
    std::string_view bytes = all;
    if (!text.starts_with(bytes)) {
      if (texts_.is_control(token.id)) {
        bytes = {};  // put there by the tokenizer
      } else if (offset_ == 0 && bytes.starts_with(' ')) {
        bytes.remove_prefix(1);  // so is SentencePiece's first space
      }
    }
    offset_ += count_utf8(bytes);
    text.remove_prefix(std::min(bytes.size(), text.size()));
  }
}

void TextLogprobs::add(const engine::SampledToken& token) {
  push(token, true);
  if (!texts_.is_control(token.id)) offset_ += count_utf8(texts_.bytes(token.id));
}

void TextLogprobs::push(const engine::SampledToken& token, bool scored) {
  lists_["text_offset"].push_back(offset_);
  lists_["tokens"].push_back(name(token.id));
  lists_["token_logprobs"].push_back(scored ? Json(token.logprob) : Json());
  Json top = scored ? Json::object() : Json();
  if (scored) {
    for (const engine::TokenLogprob& t : token.top) top[name(t.id)] = t.logprob;
    top[name(token.id)] = token.logprob;
  }
  lists_["top_logprobs"].push_back(std::move(top));
}

std::string TextLogprobs::name(std::int32_t token) const {
  std::string bytes = texts_.bytes(token);
  if (is_text(bytes)) return bytes;
  std::string out = "bytes:";
  for (const char byte : bytes) out += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
  return out;
}

Json TextLogprobs::empty() {
  Json lists = Json::object();
  for (const char* name : {"text_offset", "tokens", "token_logprobs", "top_logprobs"})
    lists[name] = Json::array();
  return lists;
}

Json TextLogprobs::take() { return std::exchange(lists_, empty()); }

}  // namespace kt::serve::openai
