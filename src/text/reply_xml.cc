// Calls written as tags around untyped values, from which the arguments' JSON is put together:
// strings stream, other values come whole.
#include "text/reply_syntax.h"

namespace kt::text {
namespace {

using List = std::vector<std::string_view>;

struct XmlTags {
  List sections;  // what begins calls
  List section_closers;
  List call_open;     // before a name; empty: the section is the call
  List name_closers;  // after a name
  List call_close;
  List param_open, key_closers;
  bool attributes;  // more may stand between a key and ">"
  List value_open;  // after a key; may be empty
  List value_closers;
  bool strips_newlines;  // one at each end of a value belongs to the syntax
};

const XmlTags& xml_tags(ToolSyntax syntax) {
  static const XmlTags qwen{{"<tool_call>", "<function="},
                            {"</tool_call>"},
                            {"<function="},
                            {">"},
                            {"</function>"},
                            {"<parameter="},
                            {">"},
                            false,
                            {},
                            {"\n</parameter>", "</parameter>"},
                            true};
  static const XmlTags seed{{"<seed:tool_call>", "<function="},
                            {"</seed:tool_call>"},
                            {"<function="},
                            {">"},
                            {"</function>"},
                            {"<parameter="},
                            {">"},
                            false,
                            {},
                            {"</parameter>"},
                            false};
  static const XmlTags glm{{"<tool_call>"},
                           {},
                           {},
                           {"\n", "<arg_key>", "</tool_call>"},
                           {"</tool_call>"},
                           {"<arg_key>"},
                           {"</arg_key>"},
                           false,
                           {"<arg_value>"},
                           {"</arg_value>"},
                           false};
  static const XmlTags mini_max{{"<minimax:tool_call>"},
                                {"</minimax:tool_call>"},
                                {"<invoke name=\""},
                                {"\">"},
                                {"</invoke>"},
                                {"<parameter name=\""},
                                {"\""},
                                true,
                                {},
                                {"\n</parameter>", "</parameter>"},
                                true};
  static const XmlTags dsml{{"<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"},
                            {"</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"},
                            {"<｜DSML｜invoke name=\""},
                            {"\">"},
                            {"</｜DSML｜invoke>"},
                            {"<｜DSML｜parameter name=\""},
                            {"\""},
                            true,
                            {},
                            {"</｜DSML｜parameter>"},
                            false};
  static const XmlTags none{};
  switch (syntax) {
    case ToolSyntax::kQwenCoder: return qwen;
    case ToolSyntax::kSeed: return seed;
    case ToolSyntax::kGlm: return glm;
    case ToolSyntax::kMiniMax: return mini_max;
    case ToolSyntax::kDsml: return dsml;
    default: return none;
  }
}

void append(List& list, const List& more) { list.insert(list.end(), more.begin(), more.end()); }

class XmlCalls : public CallSyntax {
 public:
  XmlCalls(ToolSyntax syntax, const ToolSchemas& schemas)
      : tags_(xml_tags(syntax)), schemas_(schemas) {
    in_section_ = tags_.call_open;
    append(in_section_, tags_.section_closers);
    in_call_ = tags_.param_open;
    append(in_call_, tags_.call_close);
    append(in_call_, tags_.section_closers);
  }

  Texts openers() const override { return tags_.sections; }

  void open(std::size_t opener) override {
    // The call's own tag may come without the section's.
    const bool call = tags_.call_open.empty() || tags_.sections[opener] == tags_.call_open[0];
    part_ = call ? Part::kName : Part::kSection;
    name_.clear();
  }

  bool read(ReplyBuffer& in, ReplySink& out) override {
    while (true) {
      switch (part_) {
        case Part::kSection: {
          if (!in.skip_space()) return false;
          const int tag = in.match(in_section_);
          if (tag == ReplyBuffer::kMore) return false;
          if (tag != 0 || tags_.call_open.empty()) return true;
          name_.clear();
          part_ = Part::kName;
          break;
        }
        case Part::kName: {
          if (name_.empty() && !in.skip_space()) return false;
          if (const int over = read_name(in, out); over >= 0) return over != 0;
          break;
        }
        case Part::kCall: {
          const int tag = in.until(in_call_, [](std::string_view) {});  // nothing else belongs here
          if (tag < 0) return false;
          if (tag == 0) {
            start_key();
          } else {
            end_call(out);
            if (tag > 1) return true;
          }
          break;
        }
        case Part::kKey:
        case Part::kAttributes:
        case Part::kValueOpen:
          if (!read_key(in, out)) return false;
          break;
        case Part::kValueStart:
          if (in.empty()) return false;
          if (tags_.strips_newlines && in.rest().front() == '\n') in.take(1);
          part_ = Part::kValue;
          break;
        case Part::kValue:
          if (in.until(tags_.value_closers, [&](std::string_view text) { value(text, out); }) < 0)
            return false;
          end_value(out);
          part_ = Part::kCall;
          break;
      }
    }
  }

  void finish(ReplySink& out) override {
    if (part_ == Part::kName) out.content(name_);
    if (part_ != Part::kValue || types_ == kTypeString || value_.empty()) return;
    const bool text = types_ == kTypeUnknown || (types_ & kTypeString) != 0;
    out.arguments(text ? '"' + json_escaped(value_) : value_);
  }

 private:
  enum class Part { kSection, kName, kCall, kKey, kAttributes, kValueOpen, kValueStart, kValue };

  // 0: needs more, 1: no call, -1: goes on.
  int read_name(ReplyBuffer& in, ReplySink& out) {
    const int closer = in.until(tags_.name_closers, name_, kMaxName);
    if (closer == ReplyBuffer::kOther || (closer >= 0 && name_.empty())) {
      out.content(std::exchange(name_, {}));
      return 1;
    }
    if (closer < 0) return 0;
    while (is_space(name_.back())) name_.pop_back();
    out.begin_call(name_);
    n_values_ = 0;
    part_ = Part::kCall;
    if (closer == 1) start_key();
    if (closer == 2) end_call(out);
    return -1;
  }

  void start_key() {
    key_.clear();
    part_ = Part::kKey;
  }

  bool read_key(ReplyBuffer& in, ReplySink& out) {
    if (part_ == Part::kKey) {
      if (in.until(tags_.key_closers, [&](std::string_view text) { key_ += text; }) < 0)
        return false;
      attributes_.clear();
      part_ = tags_.attributes ? Part::kAttributes : Part::kValueOpen;
    }
    if (part_ == Part::kAttributes) {
      static const List kEnd = {">"};
      if (in.until(kEnd, [&](std::string_view text) { attributes_ += text; }) < 0) return false;
      part_ = Part::kValueOpen;
    }
    if (!tags_.value_open.empty() && in.until(tags_.value_open, [](std::string_view) {}) < 0)
      return false;
    part_ = Part::kValueStart;
    types_ = schemas_.types(name_, key_);
    if (attributes_.find("string=\"true\"") != std::string::npos) types_ = kTypeString;
    if (attributes_.find("string=\"false\"") != std::string::npos) types_ = kTypeNotString;
    value_.clear();
    out.arguments((n_values_++ == 0 ? "{\"" : ", \"") + json_escaped(key_) + "\": ");
    if (types_ == kTypeString) out.arguments("\"");
    return true;
  }

  void value(std::string_view text, ReplySink& out) {
    if (types_ == kTypeString) {
      out.arguments(json_escaped(text));
    } else {
      value_ += text;
    }
  }

  void end_value(ReplySink& out) {
    out.arguments(types_ == kTypeString ? "\"" : typed_value(types_, value_));
  }

  void end_call(ReplySink& out) {
    out.arguments(n_values_ == 0 ? "{}" : "}");
    out.end_call();
    part_ = Part::kSection;
  }

  const XmlTags& tags_;
  const ToolSchemas& schemas_;
  List in_section_, in_call_;
  Part part_ = Part::kSection;
  std::string name_, key_, attributes_, value_;
  unsigned types_ = kTypeUnknown;
  int n_values_ = 0;
};

}  // namespace

std::unique_ptr<CallSyntax> make_xml_calls(ToolSyntax syntax, const ToolSchemas& schemas) {
  return std::make_unique<XmlCalls>(syntax, schemas);
}

std::vector<std::string_view> xml_call_markers(ToolSyntax syntax) {
  const XmlTags& tags = xml_tags(syntax);
  List all;
  for (const List* list : {&tags.sections, &tags.section_closers, &tags.call_open, &tags.call_close,
                           &tags.param_open, &tags.value_open, &tags.value_closers}) {
    append(all, *list);
  }
  if (syntax == ToolSyntax::kGlm) all.emplace_back("</arg_key>");
  return all;
}

}  // namespace kt::text
