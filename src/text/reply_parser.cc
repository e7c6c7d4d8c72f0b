#include "text/reply_parser.h"

#include <algorithm>
#include <random>

#include "text/reply_syntax.h"

namespace kt::text {
namespace {

std::unique_ptr<CallSyntax> make_calls(ToolSyntax syntax, const ToolSchemas& schemas) {
  switch (syntax) {
    case ToolSyntax::kNone: return nullptr;
    case ToolSyntax::kMistral: return make_mistral_calls();
    case ToolSyntax::kDeepSeek:
    case ToolSyntax::kKimi: return make_token_calls(syntax);
    case ToolSyntax::kQwenCoder:
    case ToolSyntax::kSeed:
    case ToolSyntax::kGlm:
    case ToolSyntax::kMiniMax:
    case ToolSyntax::kDsml: return make_xml_calls(syntax, schemas);
    default: return make_json_calls(syntax);
  }
}

/// Reasoning and calls marked by tags.
class TaggedReader : public ReplyReader {
 public:
  TaggedReader(const ReplyFormat& format, const ToolSchemas& schemas)
      : format_(format), calls_(make_calls(format.tools, schemas)) {
    part_ = format.starts_in_reasoning || format.goes_on_in_reasoning ? Part::kReasoning
                                                                      : Part::kContent;
    if (calls_ != nullptr) {
      const Texts openers = calls_->openers();
      markers_.assign(openers.begin(), openers.end());
      n_openers_ = static_cast<int>(openers.size());
    }
    if (!format_.reasoning_open.empty()) {
      open_ = static_cast<int>(markers_.size());
      markers_.insert(markers_.end(), {format_.reasoning_open, format_.reasoning_close});
    }
    markers_.insert(markers_.end(), format_.dropped.begin(), format_.dropped.end());
  }

  void read(ReplyBuffer& in, ReplySink& out) override {
    while (true) {
      if (part_ == Part::kReasoning) {
        const std::string_view close = format_.reasoning_close;
        const auto on_text = [&](std::string_view text) { out.reasoning(text); };
        if (in.until(Texts(&close, 1), on_text) < 0) return;
        out.end_reasoning();
        part_ = Part::kContent;
      } else if (part_ == Part::kCalls) {
        if (!calls_->read(in, out)) return;
        part_ = Part::kContent;
      } else if (!read_content(in, out)) {
        return;
      }
    }
  }

  void finish(ReplySink& out) override {
    if (part_ == Part::kCalls) calls_->finish(out);
  }

 private:
  enum class Part { kContent, kReasoning, kCalls };

  bool read_content(ReplyBuffer& in, ReplySink& out) {
    if (!begun_ && calls_ != nullptr && calls_->opens_at_brace() && opens_at_brace(in, out))
      return true;
    if (!begun_ && in.empty()) return false;
    if (markers_.empty()) {
      out.content(in.rest());
      in.take(in.rest().size());
      return false;
    }
    const int found = in.until(markers_, [&](std::string_view text) { out.content(text); });
    if (found < 0) return false;
    if (found < n_openers_) {
      start_calls(static_cast<std::size_t>(found));
    } else if (found == open_) {
      // Later in a text about such tags it is only their name.
      if (out.has_content()) {
        out.content(format_.reasoning_open);
      } else {
        part_ = Part::kReasoning;
      }
    } else if (open_ >= 0 && found == open_ + 1) {
      // One that closes nothing is no content, unless reasoning was closed before.
      if (out.had_reasoning() && out.has_content()) out.content(format_.reasoning_close);
    }
    return true;
  }

  // At the first byte of content that is no space.
  bool opens_at_brace(ReplyBuffer& in, ReplySink& out) {
    const std::string_view rest = in.rest();
    const auto first = std::find_if_not(rest.begin(), rest.end(), is_space);
    if (first == rest.end()) return false;
    begun_ = true;
    if (*first != '{') return false;
    const auto n_space = static_cast<std::size_t>(first - rest.begin());
    out.content(rest.substr(0, n_space));
    in.take(n_space);
    start_calls(calls_->openers().size());
    return true;
  }

  void start_calls(std::size_t opener) {
    calls_->open(opener);
    part_ = Part::kCalls;
  }

  ReplyFormat format_;
  std::unique_ptr<CallSyntax> calls_;
  std::vector<std::string_view> markers_;
  int n_openers_ = 0;
  int open_ = -1;  // index of the marker that opens reasoning
  Part part_;
  bool begun_ = false;  // content came
};

IdMaker random_ids() {
  return [] {
    std::random_device entropy;
    return static_cast<std::uint64_t>(entropy()) << 32 | entropy();
  };
}

}  // namespace

struct ReplyParser::Impl {
  Impl(const ReplyFormat& format, std::string_view tools_json, IdMaker make_id)
      : schemas(tools_json),
        sink(make_id ? std::move(make_id) : random_ids(), format.tools == ToolSyntax::kMistral,
             !format.goes_on_in_reasoning) {
    if (format.harmony) {
      reader = make_harmony_reader();
    } else {
      reader = std::make_unique<TaggedReader>(format, schemas);
    }
  }
  ToolSchemas schemas;
  ReplyBuffer buffer;
  ReplySink sink;
  std::unique_ptr<ReplyReader> reader;
};

ReplyParser::ReplyParser(const ReplyFormat& format, std::string_view tools_json, IdMaker make_id)
    : impl_(std::make_unique<Impl>(format, tools_json, std::move(make_id))) {}
ReplyParser::~ReplyParser() = default;
ReplyParser::ReplyParser(ReplyParser&&) noexcept = default;
ReplyParser& ReplyParser::operator=(ReplyParser&&) noexcept = default;

std::vector<ReplyEvent> ReplyParser::push(std::string_view text) {
  impl_->buffer.push(text);
  impl_->reader->read(impl_->buffer, impl_->sink);
  return impl_->sink.take();
}

std::vector<ReplyEvent> ReplyParser::finish() {
  impl_->buffer.end();
  impl_->reader->read(impl_->buffer, impl_->sink);
  impl_->reader->finish(impl_->sink);
  impl_->sink.finish();
  return impl_->sink.take();
}

int ReplyParser::n_calls() const { return impl_->sink.n_calls(); }

}  // namespace kt::text
