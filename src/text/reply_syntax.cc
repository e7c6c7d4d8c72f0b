#include "text/reply_syntax.h"

#include <algorithm>

namespace kt::text {

void ReplyBuffer::push(std::string_view text) {
  data_.erase(0, at_);
  at_ = 0;
  data_ += text;
}

bool ReplyBuffer::skip_space() {
  while (at_ < data_.size() && is_space(data_[at_])) ++at_;
  return at_ < data_.size() || ended_;
}

int ReplyBuffer::match(Texts texts) {
  const std::string_view text = rest();
  bool partial = false;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (text.starts_with(texts[i])) {
      take(texts[i].size());
      return static_cast<int>(i);
    }
    partial = partial || texts[i].starts_with(text);
  }
  return partial && !ended_ ? kMore : kOther;
}

// The first place where one of the texts is, or may be once more text comes.
ReplyBuffer::Found ReplyBuffer::find(Texts texts) const {
  const std::string_view text = rest();
  std::string first;
  for (const std::string_view t : texts) {
    if (first.find(t.front()) == std::string::npos) first += t.front();
  }
  for (std::size_t at = text.find_first_of(first); at < text.size();
       at = text.find_first_of(first, at + 1)) {
    const std::string_view here = text.substr(at);
    bool partial = false;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      if (here.starts_with(texts[i])) return {at, static_cast<int>(i)};
      partial = partial || texts[i].starts_with(here);
    }
    if (partial && !ended_) return {at, kMore};
  }
  return {text.size(), kMore};
}

int ReplyBuffer::until(Texts texts, std::string& text, std::size_t longest) {
  const Found found = find(texts);
  const std::size_t room = longest - text.size();
  if (found.at > room) {
    text += rest().substr(0, room);
    take(room);
    return kOther;
  }
  return until(texts, [&](std::string_view more) { text += more; });
}

void ReplySink::add(ReplyEvent::Kind kind, std::string_view text) {
  if (text.empty()) return;
  const int index = kind == ReplyEvent::Kind::kCallArguments ? n_calls_ - 1 : 0;
  if (!events_.empty() && events_.back().kind == kind) {
    events_.back().text += text;
  } else {
    events_.push_back({kind, std::string(text), {}, index});
  }
}

void ReplySink::add_trimmed(ReplyEvent::Kind kind, Trimmed& state, std::string_view text) {
  if (state.skip) {
    while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
    if (text.empty()) return;
    state.skip = false;
  }
  std::size_t end = text.size();
  while (end > 0 && is_space(text[end - 1])) --end;
  if (end > 0) {
    add(kind, state.held);
    state.held.clear();
    add(kind, text.substr(0, end));
  }
  state.held += text.substr(end);
}

void ReplySink::content(std::string_view text) {
  has_content_ = has_content_ || !std::all_of(text.begin(), text.end(), is_space);
  add_trimmed(ReplyEvent::Kind::kContent, content_, text);
}

void ReplySink::reasoning(std::string_view text) {
  add_trimmed(ReplyEvent::Kind::kReasoning, reasoning_, text);
}

void ReplySink::end_reasoning() {
  had_reasoning_ = true;
  // A later block of reasoning begins on a line of its own.
  if (!reasoning_.skip) reasoning_.held = "\n";
  if (!has_content_) content_ = {true, {}};
}

void ReplySink::begin_call(const std::string& name, std::string id) {
  if (id.empty()) {
    constexpr std::string_view kCharacters =
        "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    const std::size_t n = nine_character_ids_ ? 9 : 24;
    std::uint64_t bits = 0;
    for (std::size_t i = 0; i < n; ++i) {
      if (i % 8 == 0) bits = make_id_();
      id += kCharacters[bits % kCharacters.size()];
      bits /= kCharacters.size();
    }
    if (!nine_character_ids_) id = "call_" + id;
  }
  content_ = {true, {}};
  has_content_ = false;
  events_.push_back({ReplyEvent::Kind::kCallBegin, name, std::move(id), n_calls_++});
}

void ReplySink::arguments(std::string_view json) { add(ReplyEvent::Kind::kCallArguments, json); }

void ReplySink::end_call() {
  events_.push_back({ReplyEvent::Kind::kCallEnd, {}, {}, n_calls_ - 1});
}

void ReplySink::finish() {
  add(ReplyEvent::Kind::kContent, content_.held);
  content_.held.clear();
}

std::vector<ReplyEvent> ReplySink::take() { return std::exchange(events_, {}); }

std::string json_escaped(std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\b': out += "\\b"; break;
      case '\f': out += "\\f"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += "\\u00";
          out += kHex[static_cast<unsigned char>(c) >> 4];
          out += kHex[static_cast<unsigned char>(c) & 15];
        } else {
          out += c;
        }
    }
  }
  return out;
}

std::vector<std::string_view> call_markers(ToolSyntax syntax) {
  std::vector<std::string_view> markers = json_call_markers(syntax);
  for (auto more : {token_call_markers(syntax), xml_call_markers(syntax)}) {
    markers.insert(markers.end(), more.begin(), more.end());
  }
  return markers;
}

}  // namespace kt::text
