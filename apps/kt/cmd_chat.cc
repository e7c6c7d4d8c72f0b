// kt chat: a conversation in the terminal. Ctrl-C stops the reply, Ctrl-D leaves; the cached
// beginning of the conversation is not computed again.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <optional>

#include "base/env.h"
#include "base/error.h"
#include "base/suggest.h"
#include "commands.h"
#include "conversation.h"
#include "input.h"
#include "interrupt.h"
#include "line_editor.h"
#include "options.h"
#include "print.h"
#include "progress.h"

namespace kt::app {
namespace {

constexpr const char* kHelp =
    "  /help          this text\n"
    "  /clear         forget the conversation (the system message stays)\n"
    "  /system TEXT   set the system message; without TEXT remove it\n"
    "  /save FILE     write the conversation to a file\n"
    "  /load FILE     go on with a conversation from a file\n"
    "  /regen         answer the last question again\n"
    "  /stats         speed of the last reply and use of the context\n"
    "  /exit          leave; so does Ctrl-D\n"
    "Ctrl-C stops a reply. A line that ends with \\ goes on; \"\"\" begins and ends a block of "
    "lines.\n";

struct ChatArgs {
  session::Options options;
  SamplingArgs sampling;
  std::string system;
  std::string load;
  bool stats = false;
};

std::string history_path() {
  if (const auto state = env("XDG_STATE_HOME")) {
    return *state + "/ktransformers/chat_history";
  }
  if (const auto home = env("HOME")) {
    return *home + "/.local/state/ktransformers/chat_history";
  }
  return {};
}

class Chat {
 public:
  Chat(const ChatArgs& args, InterruptWatcher& interrupts, session::Session& session,
       Conversation conversation)
      : args_(args),
        request_(args.sampling.request()),
        interrupts_(interrupts),
        session_(session),
        editor_(interrupts, history_path()),
        conversation_(std::move(conversation)) {
    args.sampling.advise(session.config().sampling, &request_.sampling);
  }

  int loop() {
    if (!args_.load.empty()) tell_loaded(args_.load);
    // A template that cannot be used is an error now and not at the first question.
    conversation_.render(session_);
    greet();
    set_idle();
    std::string text;
    for (;;) {
      const LineEditor::Outcome outcome = read_message(&text);
      if (outcome == LineEditor::Outcome::kEnd) return 0;
      if (outcome == LineEditor::Outcome::kInterrupted || text.empty()) continue;
      if (text[0] == '/') {
        if (!command(text)) return 0;
        continue;
      }
      conversation_.add("user", text);
      guarded([this] { answer(); });
    }
  }

 private:
  void greet() const {
    if (!editor_.interactive()) return;
    const std::string& name = session_.config().name;
    std::fprintf(stderr, "%s, context of %lld tokens. /help for commands, Ctrl-D to leave.\n",
                 name.empty() ? args_.options.model.c_str() : name.c_str(),
                 static_cast<long long>(session_.engine().options().context));
  }

  /// One message, which may span lines.
  LineEditor::Outcome read_message(std::string* text) {
    text->clear();
    std::string line;
    LineEditor::Outcome outcome = editor_.read(">>> ", &line);
    if (outcome != LineEditor::Outcome::kLine) return outcome;
    if (line.rfind("\"\"\"", 0) == 0) return read_block(line.substr(3), text);
    while (!line.empty() && line.back() == '\\') {
      line.pop_back();
      *text += line + "\n";
      outcome = editor_.read("... ", &line);
      if (outcome == LineEditor::Outcome::kInterrupted) return outcome;
      if (outcome == LineEditor::Outcome::kEnd) line.clear();
    }
    *text += line;
    return checked(text);
  }

  LineEditor::Outcome read_block(std::string line, std::string* text) {
    for (;;) {
      const std::size_t end = line.rfind("\"\"\"");
      if (end != std::string::npos && end + 3 == line.size()) {
        *text += line.substr(0, end);
        return checked(text);
      }
      *text += line + "\n";
      const LineEditor::Outcome outcome = editor_.read("... ", &line);
      if (outcome == LineEditor::Outcome::kInterrupted) return outcome;
      if (outcome == LineEditor::Outcome::kEnd) return checked(text);
    }
  }

  LineEditor::Outcome checked(std::string* text) {
    if (!guarded([text] { check_utf8(*text, "message"); })) text->clear();
    return LineEditor::Outcome::kLine;
  }

  /// Between replies Ctrl-C only clears the line being typed; without a terminal it ends the
  /// program.
  void set_idle() {
    interrupts_.set_handler(editor_.interactive() ? std::function<void()>([] {}) : nullptr);
  }

  /// Errors end what was asked, not the chat.
  template <class F>
  bool guarded(F&& f) {
    try {
      f();
      return true;
    } catch (const Error& error) {
      std::fflush(stdout);
      print_error(error.what());
      return false;
    }
  }

  /// The assistant's next turn. Without one, the question is taken back.
  void answer() {
    session::TextRequest request = request_;
    try {
      request.prompt = conversation_.render(session_);
      request.parse_special = true;
      request.add_special = false;
      generate(request);
    } catch (...) {
      conversation_.drop_last("user");
      throw;
    }
  }

  void generate(session::TextRequest& request) {
    const auto reading = show_prefill(request);
    request.on_text = [&reading](std::string_view piece) {
      reading->finish();
      return std::fwrite(piece.data(), 1, piece.size(), stdout) == piece.size() &&
             std::fflush(stdout) == 0;
    };
    interrupts_.set_handler([this] { session_.engine().cancel(); });
    std::optional<session::TextResult> result;
    try {
      result = session::generate_text(session_, request);
    } catch (...) {
      set_idle();
      throw;
    }
    set_idle();
    interrupts_.take();
    reading->finish();
    std::fputs("\n", stdout);
    std::fflush(stdout);
    last_ = result->engine;
    conversation_.add("assistant", result->text);
    if (last_->reason == engine::FinishReason::kCancelled) std::fputs("(stopped)\n", stderr);
    if (last_->reason == engine::FinishReason::kContextFull) {
      std::fputs("(the context is full; /clear starts anew, --ctx makes it larger)\n", stderr);
    }
    if (args_.stats) stats();
  }

  void load(const std::string& path) {
    conversation_ = Conversation::load(path);
    tell_loaded(path);
  }

  void tell_loaded(const std::string& path) const {
    std::fprintf(stderr, "%zu messages from %s\n", conversation_.messages().size(), path.c_str());
  }

  void regenerate() {
    const Conversation before = conversation_;
    if (!conversation_.drop_last("assistant")) {
      fail(ErrorCode::kUsage, "/regen", "there is no reply to make again");
    }
    try {
      answer();
    } catch (...) {
      conversation_ = before;
      throw;
    }
  }

  void stats() const {
    if (!last_) {
      std::fputs("no reply yet\n", stderr);
      return;
    }
    const auto used = last_->n_prompt + static_cast<std::int64_t>(last_->tokens.size());
    const session::LoadReport& load = session_.load_report();
    std::fputs(session::speed_report(*last_).c_str(), stderr);
    std::fprintf(stderr, "context: %lld of %lld tokens, %lld of them cached for this reply\n",
                 static_cast<long long>(used),
                 static_cast<long long>(session_.engine().options().context),
                 static_cast<long long>(last_->n_cached));
    std::fprintf(stderr, "%sweights %.1f MiB, key/value cache %.1f MiB\n", load_line(load).c_str(),
                 static_cast<double>(load.packed_bytes) / (1 << 20),
                 static_cast<double>(load.kv_bytes) / (1 << 20));
  }

  /// Runs a /command; false leaves.
  bool command(const std::string& line) {
    const std::size_t space = line.find_first_of(" \t\n");
    const std::string name = line.substr(0, space);
    std::string argument = space == std::string::npos ? "" : line.substr(space + 1);
    argument.erase(0, argument.find_first_not_of(" \t"));
    if (const std::size_t last = argument.find_last_not_of(" \t"); last != std::string::npos) {
      argument.erase(last + 1);
    }
    if (name == "/exit" || name == "/quit" || name == "/bye") return false;
    guarded([&] { perform(name, argument); });
    return true;
  }

  void perform(const std::string& name, const std::string& argument) {
    if (name == "/help" || name == "/?") {
      std::fputs(kHelp, stderr);
    } else if (name == "/clear") {
      conversation_.clear();
    } else if (name == "/system") {
      conversation_.set_system(argument);
    } else if (name == "/save" || name == "/load") {
      if (argument.empty()) fail(ErrorCode::kUsage, name, "name a file: {} chat.json", name);
      if (name == "/load") return load(argument);
      conversation_.save(argument);
      std::fprintf(stderr, "saved to %s\n", argument.c_str());
    } else if (name == "/regen") {
      regenerate();
    } else if (name == "/stats") {
      stats();
    } else {
      const auto near = nearest(
          name, {"/help", "/clear", "/system", "/save", "/load", "/regen", "/stats", "/exit"});
      fail(ErrorCode::kUsage, name, "unknown command{}; /help lists them",
           near ? fmt::format("; did you mean {}?", *near) : "");
    }
  }

  const ChatArgs& args_;
  session::TextRequest request_;
  InterruptWatcher& interrupts_;
  session::Session& session_;
  LineEditor editor_;
  Conversation conversation_;
  std::optional<engine::Result> last_;
};

int chat(ChatArgs args) {
  // A bad file is an error before the model is read.
  Conversation conversation;
  conversation.set_system(args.system);
  if (!args.load.empty()) conversation = Conversation::load(args.load);
  InterruptWatcher interrupts;
  const auto loading = show_loading(args.options);
  const auto session = session::Session::open(args.options);
  loading->finish();
  std::fputs(ready_screen(*session).c_str(), stderr);
  const int status = Chat(args, interrupts, *session, std::move(conversation)).loop();
  finish_trace(*session, args.options.trace_file);
  return status;
}

}  // namespace

void add_chat(CLI::App& root, Action& action) {
  auto args = std::make_shared<ChatArgs>();
  CLI::App* command = root.add_subcommand("chat", "Talk with a model in the terminal");
  command->group("Talk to a model");
  add_model_argument(*command, args->options.model);
  command->add_option("--system", args->system, "System message")->type_name("TEXT");
  command->add_option("--load", args->load, "Go on with a conversation that /save wrote")
      ->type_name("FILE");
  command->add_flag("--stats", args->stats, "Print the speed report after every reply");
  add_sampling_options(*command, args->sampling);
  add_model_options(*command, args->options);
  command->footer(
      std::string("In the chat:\n") + kHelp + "\n" +
      examples({"kt chat smollm2", "kt chat model.gguf --system 'Answer in French.' --temp 0.7"}));
  command->callback([args, &action] { action = [args] { return chat(*args); }; });
}

}  // namespace kt::app
