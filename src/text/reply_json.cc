// Calls written as JSON: the scanner that finds where a value ends, and the families whose whole
// call is a JSON object.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "text/reply_syntax.h"

namespace kt::text {
namespace {

bool in_json(char c) {
  return is_space(c) || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') ||
         (c >= 'A' && c <= 'Z') ||
         std::string_view("{}[],:+-.\"").find(c) != std::string_view::npos;
}

}  // namespace

bool JsonScanner::step(char c) {
  if (string_) {
    if (escape_) {
      escape_ = false;
    } else if (c == '\\') {
      escape_ = true;
    } else if (c == '"') {
      string_ = false;
      done_ = complete_ = depth_ == 0;
    }
    return true;
  }
  const bool ends_scalar = is_space(c) || c == ',' || c == '}' || c == ']';
  if (!in_json(c) || (scalar_ && ends_scalar) || (!begun_ && ends_scalar)) {
    done_ = true;
    complete_ = scalar_;
    return false;
  }
  begun_ = true;
  if (c == '"') {
    string_ = true;
  } else if (c == '{' || c == '[') {
    ++depth_;
  } else if (c == '}' || c == ']') {
    if (--depth_ == 0) done_ = complete_ = true;
  } else if (depth_ == 0) {
    scalar_ = true;
  }
  return true;
}

std::size_t JsonScanner::feed(std::string_view text) {
  std::size_t n = 0;
  while (n < text.size() && !done_ && step(text[n])) ++n;
  return n;
}

std::optional<std::string> json_unescaped(std::string_view inside) {
  const nlohmann::json value =
      nlohmann::json::parse('"' + std::string(inside) + '"', nullptr, false);
  if (!value.is_string()) return std::nullopt;
  return value.get<std::string>();
}

void JsonCallReader::take(ReplyBuffer& in, std::size_t n) {
  if (!begun_) raw_ += in.rest().substr(0, n);
  in.take(n);
}

JsonCallReader::State JsonCallReader::read(ReplyBuffer& in, ReplySink& out) {
  while (!in.empty()) {
    const State state = step(in, out);
    if (state != State::kMore) return state;
  }
  return State::kMore;
}

// One part of the object, or as much of it as there is.
JsonCallReader::State JsonCallReader::step(ReplyBuffer& in, ReplySink& out) {
  State state = State::kMore;
  const std::string_view rest = in.rest();
  switch (part_) {
    case Part::kKey:
      if (take_text(in, state)) {
        key_ = std::exchange(text_, {});
        part_ = Part::kColon;
      }
      return state;
    case Part::kText:
      if (take_text(in, state)) {
        std::optional<std::string> value = json_unescaped(std::exchange(text_, {}));
        if (!value) return State::kBad;
        const bool is_name = key_ == "name" || key_ == "tool_name";
        (is_name ? name_ : id_) = std::move(*value);
        part_ = Part::kNext;
        if (is_name && name_.empty()) return State::kBad;
        if (is_name && (!wait_for_arguments_ || has_arguments_)) begin(out);
      }
      return state;
    case Part::kArguments: {
      const std::size_t n = scanner_.feed(rest);
      take_arguments(rest.substr(0, n), out);
      take(in, n);
      if (scanner_.done()) {
        end_arguments(out);
        part_ = Part::kNext;
      }
      return state;
    }
    case Part::kOther:
      take(in, scanner_.feed(rest));
      if (!scanner_.done()) return state;
      part_ = Part::kNext;
      return scanner_.empty() ? State::kBad : state;
    default: break;
  }
  const char c = rest.front();
  if (is_space(c)) {
    take(in, 1);
    return state;
  }
  // Where the object is broken off, what follows is left for others.
  if (part_ == Part::kNext && c != ',' && c != '}') return end(out);
  if (part_ != Part::kValue) take(in, 1);
  return structure(c, out);
}

// Between keys and values.
JsonCallReader::State JsonCallReader::structure(char c, ReplySink& out) {
  switch (part_) {
    case Part::kOpen: part_ = Part::kKeyOrEnd; return c == '{' ? State::kMore : State::kBad;
    case Part::kKeyOrEnd:
      if (c == '}') return end(out);
      part_ = Part::kKey;
      return c == '"' ? State::kMore : State::kBad;
    case Part::kColon: part_ = Part::kValue; return c == ':' ? State::kMore : State::kBad;
    case Part::kNext:
      if (c == '}') return end(out);
      part_ = Part::kKeyOrEnd;
      return State::kMore;
    default: break;
  }
  scanner_ = {};
  const bool is_name = key_ == "name" || key_ == "tool_name";
  if (is_name || ((key_ == "id" || key_ == "tool_call_id") && c == '"')) {
    part_ = Part::kText;
    return c == '"' && (!is_name || name_.empty()) ? State::kMore : State::kBad;
  }
  if ((key_ == "arguments" || key_ == "parameters") && !has_arguments_) {
    has_arguments_ = true;
    quoted_ = c == '"';
    part_ = Part::kArguments;
    if (!begun_ && !name_.empty()) begin(out);
    return State::kMore;
  }
  part_ = Part::kOther;
  return State::kMore;
}

// Takes a string's inside, up to the closing quote; kText begins at the opening one.
bool JsonCallReader::take_text(ReplyBuffer& in, State& state) {
  const std::string_view rest = in.rest();
  std::size_t n = 0;
  bool closed = false;
  if (part_ == Part::kText && scanner_.empty()) {
    scanner_.feed(rest.substr(0, 1));
    ++n;
  }
  for (; n < rest.size() && !closed; ++n) {
    closed = rest[n] == '"' && !escape_;
    escape_ = rest[n] == '\\' && !escape_;
    if (!closed) text_ += rest[n];
    if (text_.size() > kMaxName) {
      state = State::kBad;
      break;
    }
  }
  take(in, n);
  return closed;
}

void JsonCallReader::take_arguments(std::string_view text, ReplySink& out) {
  if (begun_ && !quoted_) {
    out.arguments(text);
  } else {
    arguments_ += text;
  }
}

void JsonCallReader::end_arguments(ReplySink& out) {
  if (quoted_) {
    const std::string_view all = arguments_;
    const bool closed = all.size() >= 2 && all.back() == '"';
    std::optional<std::string> inside;
    if (closed) inside = json_unescaped(all.substr(1, all.size() - 2));
    if (inside) arguments_ = std::move(*inside);
  }
  if (arguments_.empty() && scanner_.empty()) arguments_ = "{}";
  if (begun_) out.arguments(std::exchange(arguments_, {}));
}

void JsonCallReader::begin(ReplySink& out) {
  if (begun_) return;
  begun_ = true;
  raw_.clear();
  out.begin_call(name_, {});
  if (part_ != Part::kArguments) out.arguments(std::exchange(arguments_, {}));
}

bool JsonCallReader::end_if_whole(ReplySink& out) {
  return part_ == Part::kNext && has_arguments_ && end(out) == State::kDone;
}

JsonCallReader::State JsonCallReader::end(ReplySink& out) {
  if (name_.empty() || (wait_for_arguments_ && !has_arguments_)) return State::kBad;
  begin(out);
  if (!has_arguments_) out.arguments("{}");
  out.end_call();
  return State::kDone;
}

namespace {

using List = std::vector<std::string_view>;

struct JsonTags {
  List openers, closers;
};

const JsonTags& json_tags(ToolSyntax syntax) {
  static const JsonTags hermes{{"<tool_call>"}, {"</tool_call>"}};
  static const JsonTags command{{"<|START_ACTION|>"}, {"<|END_ACTION|>"}};
  static const JsonTags list{{"<TOOLCALL>", "<tool_calls>"}, {"</TOOLCALL>", "</tool_calls>"}};
  static const JsonTags llama{{"<|python_tag|>"}, {}};
  static const JsonTags mistral{{"[TOOL_CALLS]"}, {}};
  static const JsonTags none{};
  switch (syntax) {
    case ToolSyntax::kHermes: return hermes;
    case ToolSyntax::kCommand: return command;
    case ToolSyntax::kToolCallList: return list;
    case ToolSyntax::kLlamaJson: return llama;
    case ToolSyntax::kMistral: return mistral;
    default: return none;
  }
}

/// One object, several, or a list of them, between tags.
class JsonCalls : public CallSyntax {
 public:
  explicit JsonCalls(ToolSyntax syntax)
      : tags_(json_tags(syntax)), bare_(syntax == ToolSyntax::kLlamaJson) {}
  Texts openers() const override { return tags_.openers; }
  bool opens_at_brace() const override { return bare_; }
  void open(std::size_t) override {
    part_ = Part::kStart;
    list_ = false;
  }

  bool read(ReplyBuffer& in, ReplySink& out) override {
    while (true) {
      if (part_ == Part::kItem) {
        if (!read_item(in, out)) return false;
      } else if (part_ == Part::kJunk) {
        // Without a tag that closes, junk is content at once.
        if (tags_.closers.empty()) return true;
        return in.until(tags_.closers, [&](std::string_view text) { out.content(text); }) >= 0;
      } else {
        if (!in.skip_space()) return false;
        if (!tags_.closers.empty()) {
          const int closer = in.match(tags_.closers);
          if (closer != ReplyBuffer::kOther) return closer >= 0;
        }
        if (in.empty()) return true;
        if (between(in)) return true;
      }
    }
  }

  void finish(ReplySink& out) override {
    if (part_ == Part::kItem && !item_.end_if_whole(out)) out.content(item_.raw());
  }

 private:
  enum class Part { kStart, kItem, kNext, kJunk };

  bool read_item(ReplyBuffer& in, ReplySink& out) {
    switch (item_.read(in, out)) {
      case JsonCallReader::State::kMore: return false;
      case JsonCallReader::State::kDone: part_ = Part::kNext; return true;
      case JsonCallReader::State::kBad: break;
    }
    out.content(item_.raw());
    part_ = Part::kJunk;
    return true;
  }

  // At a byte that is no space: true when it belongs to no call.
  bool between(ReplyBuffer& in) {
    const char c = in.rest().front();
    if (c == '[' && part_ == Part::kStart && !list_) {
      list_ = true;
      in.take(1);
    } else if (c == '{') {
      item_ = JsonCallReader(bare_);
      part_ = Part::kItem;
    } else if (part_ == Part::kNext && (c == ',' || c == ';')) {
      in.take(1);
    } else if (list_ && c == ']') {
      list_ = false;
      in.take(1);
      if (tags_.closers.empty()) return true;
      part_ = Part::kNext;
    } else if (part_ == Part::kStart) {
      part_ = Part::kJunk;
    } else {
      return true;
    }
    return false;
  }

  const JsonTags& tags_;
  bool bare_;
  Part part_ = Part::kStart;
  bool list_ = false;
  JsonCallReader item_;
};

/// [TOOL_CALLS]NAME[CALL_ID]id[ARGS]{…}, or a list after [TOOL_CALLS].
class MistralCalls : public CallSyntax {
 public:
  Texts openers() const override { return json_tags(ToolSyntax::kMistral).openers; }
  void open(std::size_t opener) override {
    part_ = Part::kStart;
    name_.clear();
    id_.clear();
    scanner_ = {};
    list_.open(opener);
  }

  bool read(ReplyBuffer& in, ReplySink& out) override {
    while (true) {
      if (part_ == Part::kList) return list_.read(in, out);
      if (part_ == Part::kName || part_ == Part::kId) {
        if (const int more = read_header(in, out); more >= 0) return more != 0;
        continue;
      }
      if (part_ == Part::kStart || scanner_.empty()) {
        if (!in.skip_space()) return false;
      }
      if (part_ == Part::kStart) {
        if (in.empty()) return true;
        const char c = in.rest().front();
        part_ = c == '[' || c == '{' ? Part::kList : Part::kName;
        continue;
      }
      const std::size_t n = scanner_.feed(in.rest());
      out.arguments(in.rest().substr(0, n));
      in.take(n);
      if (!scanner_.done()) return false;
      if (scanner_.empty()) out.arguments("{}");
      out.end_call();
      return true;
    }
  }

  void finish(ReplySink& out) override {
    if (part_ == Part::kList) list_.finish(out);
    if (part_ == Part::kName) out.content(name_);
  }

 private:
  enum class Part { kStart, kList, kName, kId, kArguments };

  // 0: needs more, 1: no call, -1: goes on.
  int read_header(ReplyBuffer& in, ReplySink& out) {
    static const List kMarks = {"[ARGS]", "[CALL_ID]", "{"};
    std::string& text = part_ == Part::kName ? name_ : id_;
    const int found = in.until(kMarks, text, kMaxName);
    if (found == ReplyBuffer::kOther) {
      out.content(std::exchange(name_, {}));
      return 1;
    }
    if (found < 0) return 0;
    if (found == 1) {
      part_ = Part::kId;
      return -1;
    }
    while (!name_.empty() && is_space(name_.back())) name_.pop_back();
    const bool good_id =
        id_.size() == 9 && std::all_of(id_.begin(), id_.end(), [](char c) {
          return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        });
    out.begin_call(name_, good_id ? id_ : std::string());
    part_ = Part::kArguments;
    if (found == 2) {
      scanner_.feed("{");
      out.arguments("{");
    }
    return -1;
  }

  JsonCalls list_{ToolSyntax::kMistral};
  Part part_ = Part::kStart;
  std::string name_, id_;
  JsonScanner scanner_;
};

}  // namespace

std::unique_ptr<CallSyntax> make_json_calls(ToolSyntax syntax) {
  return std::make_unique<JsonCalls>(syntax);
}

std::unique_ptr<CallSyntax> make_mistral_calls() { return std::make_unique<MistralCalls>(); }

std::vector<std::string_view> json_call_markers(ToolSyntax syntax) {
  const JsonTags& tags = json_tags(syntax);
  List all = tags.openers;
  all.insert(all.end(), tags.closers.begin(), tags.closers.end());
  if (syntax == ToolSyntax::kMistral) all.insert(all.end(), {"[ARGS]", "[CALL_ID]"});
  return all;
}

}  // namespace kt::text
