// The harmony format of gpt-oss: a reply is messages, each with a header that names its channel and
// recipient: analysis is reasoning, a recipient makes it a call, the rest is content.
#include <array>

#include "text/reply_syntax.h"

namespace kt::text {
namespace {

constexpr std::array<std::string_view, 7> kMarkers = {"<|channel|>",   "<|start|>", "<|message|>",
                                                      "<|constrain|>", "<|end|>",   "<|return|>",
                                                      "<|call|>"};
constexpr std::size_t kMaxHeader = 1024;

/// The word after `key` in a header, empty when it has none.
std::string word_after(std::string_view header, std::string_view key) {
  const std::size_t at = header.find(key);
  if (at == std::string_view::npos) return {};
  std::string_view rest = header.substr(at + key.size());
  std::size_t n = 0;
  while (n < rest.size() && !is_space(rest[n]) && !rest.substr(n).starts_with("<|")) ++n;
  return std::string(rest.substr(0, n));
}

class HarmonyReader : public ReplyReader {
 public:
  void read(ReplyBuffer& in, ReplySink& out) override {
    while (true) {
      switch (part_) {
        case Part::kBetween: {
          // The prompt ends with "<|start|>assistant", so that a reply begins inside a header.
          static constexpr std::array<std::string_view, 5> kBegin = {
              "<|channel|>", "<|start|>", "<|message|>", "<|constrain|>", "to="};
          if (!in.skip_space()) return;
          const int found = in.match(kBegin);
          if (found == ReplyBuffer::kMore || (found < 0 && in.empty())) return;
          if (found == 2) {
            start_body({}, out);
          } else {
            header_ = found >= 0 ? kBegin[static_cast<std::size_t>(found)] : std::string_view();
            part_ = found >= 0 ? Part::kHeader : Part::kPlain;
          }
          break;
        }
        case Part::kHeader: {
          static constexpr std::array<std::string_view, 1> kEnd = {"<|message|>"};
          const int found = in.until(kEnd, header_, kMaxHeader);
          if (found == ReplyBuffer::kMore) return;
          if (found >= 0) {
            start_body(header_, out);
          } else {
            part_ = Part::kPlain;
          }
          break;
        }
        case Part::kBody:
        case Part::kPlain: {
          const int found = in.until(kMarkers, [&](std::string_view text) { body(text, out); });
          if (found < 0) return;
          end_body(out);
          part_ = Part::kBetween;
          if (found <= 1) {  // the next header follows without an end
            header_ = kMarkers[static_cast<std::size_t>(found)];
            part_ = Part::kHeader;
          }
          break;
        }
      }
    }
  }

  void finish(ReplySink& out) override {
    // The token that ends a call also ends the reply and may not show in its text.
    if (part_ == Part::kBody && to_ == To::kCall && scanner_.complete()) end_body(out);
  }

 private:
  enum class Part { kBetween, kHeader, kBody, kPlain };
  enum class To { kContent, kReasoning, kCall };

  void start_body(const std::string& header, ReplySink& out) {
    part_ = Part::kBody;
    std::string recipient = word_after(header, "to=");
    const std::string channel = word_after(header, "<|channel|>");
    to_ = channel == "analysis" ? To::kReasoning : To::kContent;
    if (recipient.empty() || recipient == "user" || recipient == "assistant") return;
    if (recipient.starts_with("functions.")) recipient.erase(0, 10);
    to_ = To::kCall;
    scanner_ = {};
    has_arguments_ = false;
    out.begin_call(recipient);
  }

  void body(std::string_view text, ReplySink& out) {
    if (part_ == Part::kPlain || to_ == To::kContent) return out.content(text);
    if (to_ == To::kReasoning) return out.reasoning(text);
    if (!has_arguments_) {
      while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
    }
    has_arguments_ = has_arguments_ || !text.empty();
    scanner_.feed(text);
    out.arguments(text);
  }

  void end_body(ReplySink& out) {
    if (part_ != Part::kBody) return;
    if (to_ == To::kReasoning) out.end_reasoning();
    if (to_ != To::kCall) return;
    if (!has_arguments_) out.arguments("{}");
    out.end_call();
  }

  Part part_ = Part::kBetween;
  To to_ = To::kContent;
  std::string header_;
  bool has_arguments_ = false;
  JsonScanner scanner_;  // of the arguments
};

}  // namespace

std::unique_ptr<ReplyReader> make_harmony_reader() { return std::make_unique<HarmonyReader>(); }

Texts harmony_markers() { return kMarkers; }

}  // namespace kt::text
