// Calls between control tokens with the arguments as JSON: DeepSeek R1 to V3.1, Kimi K2.
#include "text/reply_syntax.h"

namespace kt::text {
namespace {

using List = std::vector<std::string_view>;

struct TokenTags {
  List openers;  // of sections, then of a call
  std::size_t n_sections;
  List section_closers, call_open, separators, call_close;
};

const TokenTags& token_tags(ToolSyntax syntax) {
  static const TokenTags deep_seek{{"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"},
                                   1,
                                   {"<｜tool▁calls▁end｜>"},
                                   {"<｜tool▁call▁begin｜>"},
                                   {"<｜tool▁sep｜>"},
                                   {"<｜tool▁call▁end｜>"}};
  static const TokenTags kimi{
      {"<|tool_calls_section_begin|>", "<|tool_call_section_begin|>", "<|tool_call_begin|>"},
      2,
      {"<|tool_calls_section_end|>", "<|tool_call_section_end|>"},
      {"<|tool_call_begin|>"},
      {"<|tool_call_argument_begin|>"},
      {"<|tool_call_end|>"}};
  static const TokenTags none{};
  if (syntax == ToolSyntax::kDeepSeek) return deep_seek;
  return syntax == ToolSyntax::kKimi ? kimi : none;
}

std::string trimmed(std::string_view text) {
  while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
  while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
  return std::string(text);
}

/// "functions.NAME:IDX" → NAME.
std::string kimi_name(const std::string& id) {
  std::string name = id;
  if (name.starts_with("functions.")) name.erase(0, 10);
  const std::size_t colon = name.rfind(':');
  if (colon != std::string::npos && colon > 0) name.resize(colon);
  return name;
}

class TokenCalls : public CallSyntax {
 public:
  explicit TokenCalls(ToolSyntax syntax)
      : tags_(token_tags(syntax)), kimi_(syntax == ToolSyntax::kKimi) {
    after_call_ = tags_.call_close;
    for (const List* list : {&tags_.call_open, &tags_.section_closers})
      after_call_.insert(after_call_.end(), list->begin(), list->end());
  }

  Texts openers() const override { return tags_.openers; }

  void open(std::size_t opener) override {
    opener < tags_.n_sections ? start_section() : start_header();
  }

  bool read(ReplyBuffer& in, ReplySink& out) override {
    while (true) {
      switch (part_) {
        case Part::kSection: {
          if (!in.skip_space()) return false;
          const int tag = in.match(after_call_);
          if (tag == ReplyBuffer::kMore) return false;
          if (tag == 1) {
            start_header();
          } else if (tag != 0) {
            return true;
          }
          break;
        }
        case Part::kHeader: {
          const int found = in.until(tags_.separators, header_, kMaxName);
          if (found == ReplyBuffer::kMore) return false;
          header_ = trimmed(header_);
          if (found == ReplyBuffer::kOther || header_.empty()) {
            out.content(std::exchange(header_, {}));
            return true;
          }
          part_ = Part::kBody;
          break;
        }
        case Part::kBody:
          if (!in.skip_space()) return false;
          start_body(in.empty() ? '\0' : in.rest().front(), out);
          break;
        case Part::kFencedName: {
          static const List kEnds = {"\n", "```"};
          const int found = in.until(kEnds, name_, kMaxName);
          if (found == ReplyBuffer::kMore) return false;
          name_ = trimmed(name_);
          if (found == ReplyBuffer::kOther || name_.empty()) {
            out.content(std::exchange(name_, {}));
            return true;
          }
          begin(name_, out);
          part_ = found == 0 ? Part::kFence : Part::kFenceLanguage;
          break;
        }
        case Part::kFence:
        case Part::kFenceLanguage:
          if (!read_fence(in)) return false;
          break;
        case Part::kArguments:
          if (!read_arguments(in, out)) return false;
          break;
        case Part::kAfter: {
          static const List kFenceEnd = {"```"};
          if (!in.skip_space()) return false;
          if (in.match(kFenceEnd) == ReplyBuffer::kMore) return false;
          part_ = Part::kSection;
          break;
        }
      }
    }
  }

  void finish(ReplySink& out) override {
    if (part_ == Part::kHeader) out.content(header_);
    if (part_ == Part::kFencedName) out.content(name_);
  }

 private:
  enum class Part {
    kSection,
    kHeader,
    kBody,
    kFencedName,
    kFence,
    kFenceLanguage,
    kArguments,
    kAfter
  };

  void start_section() { part_ = Part::kSection; }

  void start_header() {
    header_.clear();
    name_.clear();
    part_ = Part::kHeader;
  }

  // After the separator: the arguments, or in DeepSeek's older form the name and fenced arguments.
  void start_body(char c, ReplySink& out) {
    if (kimi_ || c == '{' || header_ != "function") {
      begin(kimi_ ? kimi_name(header_) : header_, out);
    } else {
      part_ = Part::kFencedName;
    }
  }

  void begin(const std::string& name, ReplySink& out) {
    out.begin_call(name, kimi_ ? header_ : std::string());
    scanner_ = {};
    part_ = Part::kArguments;
  }

  bool read_fence(ReplyBuffer& in) {
    static const List kFenceOpen = {"```"};
    static const List kLanguage = {"json"};
    if (part_ == Part::kFence) {
      if (!in.skip_space()) return false;
      const int fence = in.match(kFenceOpen);
      if (fence == ReplyBuffer::kMore) return false;
      part_ = fence == 0 ? Part::kFenceLanguage : Part::kArguments;
      return true;
    }
    if (in.match(kLanguage) == ReplyBuffer::kMore) return false;
    part_ = Part::kArguments;
    return true;
  }

  bool read_arguments(ReplyBuffer& in, ReplySink& out) {
    if (scanner_.empty() && !in.skip_space()) return false;
    const std::size_t n = scanner_.feed(in.rest());
    out.arguments(in.rest().substr(0, n));
    in.take(n);
    if (!scanner_.done()) return false;
    if (scanner_.empty()) out.arguments("{}");
    out.end_call();
    part_ = Part::kAfter;
    return true;
  }

  const TokenTags& tags_;
  bool kimi_;
  List after_call_;
  Part part_ = Part::kSection;
  std::string header_, name_;
  JsonScanner scanner_;
};

}  // namespace

std::unique_ptr<CallSyntax> make_token_calls(ToolSyntax syntax) {
  return std::make_unique<TokenCalls>(syntax);
}

std::vector<std::string_view> token_call_markers(ToolSyntax syntax) {
  const TokenTags& tags = token_tags(syntax);
  List all = tags.openers;
  for (const List* list : {&tags.section_closers, &tags.separators, &tags.call_close})
    all.insert(all.end(), list->begin(), list->end());
  return all;
}

}  // namespace kt::text
