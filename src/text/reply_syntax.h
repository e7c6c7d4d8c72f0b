// Private to text/: what the readers of replies share. A reader takes text from a ReplyBuffer as
// far as its meaning is certain and says what it means to a ReplySink.
//
//   ReplyBuffer ─ ReplyReader (tags or harmony) ─ CallSyntax (one per family) ─→ ReplySink
//
// Every reader is a state machine that stops where the text stops, without recursion, so that time
// is linear in the text and how the text is cut does not matter. Thread rule: one thread.
#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/reply_format.h"
#include "text/reply_parser.h"
#include "text/tool_schemas.h"

namespace kt::text {

using Texts = std::span<const std::string_view>;

/// Longest name of a function or parameter, with its escapes; more is no call.
inline constexpr std::size_t kMaxName = 256;

constexpr bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

/// Text that came and was not taken yet.
class ReplyBuffer {
 public:
  void push(std::string_view text);
  void end() { ended_ = true; }
  bool ended() const { return ended_; }
  std::string_view rest() const { return std::string_view(data_).substr(at_); }
  bool empty() const { return at_ == data_.size(); }
  void take(std::size_t n) { at_ += n; }
  /// False when more text may come and there is nothing but space.
  bool skip_space();

  static constexpr int kMore = -1;   // it depends on text to come
  static constexpr int kOther = -2;  // none of them
  /// Which of the texts comes next, taken if so. kOther also at the end.
  int match(Texts texts);
  /// Gives everything before the first of the texts, takes that text too and says which; kMore when
  /// it did not come yet: what may be its beginning is held back.
  template <class OnText>
  int until(Texts texts, OnText&& on_text) {
    const Found found = find(texts);
    if (found.at != 0) on_text(rest().substr(0, found.at));
    take(found.at + (found.which >= 0 ? texts[static_cast<std::size_t>(found.which)].size() : 0));
    return found.which;
  }
  /// The same, appended to `text`; kOther when that would make it longer than `longest`, and then
  /// exactly so much was taken.
  int until(Texts texts, std::string& text, std::size_t longest);

 private:
  struct Found {
    std::size_t at;
    int which;
  };
  Found find(Texts texts) const;
  std::string data_;
  std::size_t at_ = 0;
  bool ended_ = false;
};

/// Collects events; trims the space around reasoning and before calls.
class ReplySink {
 public:
  /// trims: not when the text goes on in the midst of reasoning.
  ReplySink(IdMaker make_id, bool nine_character_ids, bool trims)
      : make_id_(std::move(make_id)),
        nine_character_ids_(nine_character_ids),
        reasoning_{trims, {}} {}
  void content(std::string_view text);
  void reasoning(std::string_view text);
  void end_reasoning();
  /// Space at the end of the content so far goes.
  void begin_call(const std::string& name, std::string id = {});
  void arguments(std::string_view json);
  void end_call();
  /// Gives what is held; nothing comes after it.
  void finish();
  /// Whether there is more than space since the beginning or the last call.
  bool has_content() const { return has_content_; }
  bool had_reasoning() const { return had_reasoning_; }
  int n_calls() const { return n_calls_; }
  std::vector<ReplyEvent> take();

 private:
  struct Trimmed {
    bool skip = false;  // space at its beginning
    std::string held;   // space at its end so far
  };
  void add(ReplyEvent::Kind kind, std::string_view text);
  void add_trimmed(ReplyEvent::Kind kind, Trimmed& state, std::string_view text);
  IdMaker make_id_;
  bool nine_character_ids_;
  std::vector<ReplyEvent> events_;
  Trimmed content_, reasoning_;
  bool has_content_ = false;
  bool had_reasoning_ = false;
  int n_calls_ = 0;
};

/// Finds the end of a JSON value by its brackets and quotes, at constant cost per byte.
class JsonScanner {
 public:
  /// How many bytes of `text` belong to the value; done() tells whether it ended there. A byte that
  /// JSON does not have outside strings ends it too.
  std::size_t feed(std::string_view text);
  bool done() const { return done_; }
  /// Whether it ended as JSON does; of numbers and words only what follows tells.
  bool complete() const { return complete_; }
  bool empty() const { return !begun_; }

 private:
  bool step(char c);  // false: c does not belong to it
  bool begun_ = false, scalar_ = false, string_ = false, escape_ = false;
  bool done_ = false, complete_ = false;
  std::size_t depth_ = 0;
};

/// Reads one JSON object with the name and arguments of a call.
class JsonCallReader {
 public:
  /// wait_for_arguments: a name alone makes no call yet.
  explicit JsonCallReader(bool wait_for_arguments = false)
      : wait_for_arguments_(wait_for_arguments) {}
  enum class State { kMore, kDone, kBad };
  /// From the opening brace on. kBad: no call; raw() is what was taken.
  State read(ReplyBuffer& in, ReplySink& out);
  const std::string& raw() const { return raw_; }
  /// At the end of the text: a call whose name and arguments are there, but for the last brace.
  bool end_if_whole(ReplySink& out);

 private:
  enum class Part { kOpen, kKeyOrEnd, kKey, kColon, kValue, kText, kArguments, kOther, kNext };
  State step(ReplyBuffer& in, ReplySink& out);
  State structure(char c, ReplySink& out);
  State end(ReplySink& out);
  bool take_text(ReplyBuffer& in, State& state);
  void take_arguments(std::string_view text, ReplySink& out);
  void end_arguments(ReplySink& out);
  void begin(ReplySink& out);
  void take(ReplyBuffer& in, std::size_t n);
  bool wait_for_arguments_;
  Part part_ = Part::kOpen;
  bool begun_ = false, escape_ = false, has_arguments_ = false;
  bool quoted_ = false;  // the arguments are a string that holds JSON
  JsonScanner scanner_;
  std::string key_, text_, name_, id_, arguments_, raw_;
};

/// The calls of one family.
class CallSyntax {
 public:
  virtual ~CallSyntax() = default;
  /// What begins calls in content.
  virtual Texts openers() const = 0;
  /// An opener came and was taken.
  virtual void open(std::size_t opener) = 0;
  /// Takes text; true when the calls are over and content goes on, false when it needs more.
  virtual bool read(ReplyBuffer& in, ReplySink& out) = 0;
  /// The text ended before the calls did.
  virtual void finish(ReplySink& out) { (void)out; }
  /// A reply that begins with a brace is a call; open() is then called with openers().size() and
  /// the brace is not taken.
  virtual bool opens_at_brace() const { return false; }
};

std::unique_ptr<CallSyntax> make_json_calls(ToolSyntax syntax);
std::unique_ptr<CallSyntax> make_mistral_calls();
std::unique_ptr<CallSyntax> make_token_calls(ToolSyntax syntax);
/// The schemas must outlive it.
std::unique_ptr<CallSyntax> make_xml_calls(ToolSyntax syntax, const ToolSchemas& schemas);
/// All markers of a family.
std::vector<std::string_view> call_markers(ToolSyntax syntax);
std::vector<std::string_view> json_call_markers(ToolSyntax syntax);
std::vector<std::string_view> token_call_markers(ToolSyntax syntax);
std::vector<std::string_view> xml_call_markers(ToolSyntax syntax);
Texts harmony_markers();

/// A whole reply.
class ReplyReader {
 public:
  virtual ~ReplyReader() = default;
  virtual void read(ReplyBuffer& in, ReplySink& out) = 0;
  virtual void finish(ReplySink& out) = 0;
};
std::unique_ptr<ReplyReader> make_harmony_reader();

/// `text` within a JSON string, without the quotes.
std::string json_escaped(std::string_view text);
/// What a JSON string's inside stands for; nothing when it is no valid one.
std::optional<std::string> json_unescaped(std::string_view inside);

}  // namespace kt::text
