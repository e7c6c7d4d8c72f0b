#include "line_editor.h"

#include <fcntl.h>
#include <histedit.h>
#include <langinfo.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstring>
#include <cwchar>
#include <filesystem>
#include <iostream>

namespace kt::app {

struct LineEditor::Terminal {
  Terminal(InterruptWatcher& watcher, std::string path);
  ~Terminal();
  Terminal(const Terminal&) = delete;
  Terminal& operator=(const Terminal&) = delete;
  Outcome read(const std::string& text, std::string* line);

  static char* show_prompt(EditLine* el);
  static int next_char(EditLine* el, wchar_t* out);

  InterruptWatcher& interrupts;
  std::string history_path;
  std::string prompt;
  bool interrupted = false;
  int input = STDIN_FILENO;
  std::mbstate_t decode_state{};
  EditLine* editor = nullptr;
  History* history = nullptr;
};

LineEditor::Terminal::Terminal(InterruptWatcher& watcher, std::string path)
    : interrupts(watcher), history_path(std::move(path)) {
  // Only the character type: number formatting stays that of the C locale.
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
  // Ctrl-C discards typed bytes, maybe between poll and read, so read must not wait. An own open
  // file keeps O_NONBLOCK away from the shell that shares standard input.
  input = ::open("/proc/self/fd/0", O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (input < 0) input = STDIN_FILENO;
  editor = el_init("kt", stdin, stdout, stderr);
  history = history_init();
  if (editor == nullptr || history == nullptr) return;
  el_set(editor, EL_CLIENTDATA, this);
  el_set(editor, EL_PROMPT, &Terminal::show_prompt);
  el_set(editor, EL_EDITOR, "emacs");
  el_set(editor, EL_SIGNAL, 0);
  el_set(editor, EL_GETCFN, &Terminal::next_char);
  el_set(editor, EL_BIND, "\\e[3~", "ed-delete-next-char", nullptr);
  el_set(editor, EL_BIND, "\\e[1~", "ed-move-to-beg", nullptr);
  el_set(editor, EL_BIND, "\\e[4~", "ed-move-to-end", nullptr);
  el_set(editor, EL_BIND, "\\e[1;5D", "ed-prev-word", nullptr);
  el_set(editor, EL_BIND, "\\e[1;5C", "em-next-word", nullptr);
  el_set(editor, EL_BIND, "^R", "em-inc-search-prev", nullptr);
  HistEvent event;
  constexpr int kHistoryLines = 1000;
  ::history(history, &event, H_SETSIZE, kHistoryLines);
  ::history(history, &event, H_SETUNIQUE, 1);
  if (!history_path.empty()) ::history(history, &event, H_LOAD, history_path.c_str());
  el_set(editor, EL_HIST, &::history, history);
}

LineEditor::Terminal::~Terminal() {
  if (history != nullptr) {
    HistEvent event;
    if (!history_path.empty()) {
      std::error_code ignored;
      std::filesystem::create_directories(std::filesystem::path(history_path).parent_path(),
                                          ignored);
      ::history(history, &event, H_SAVE, history_path.c_str());
    }
    history_end(history);
  }
  if (editor != nullptr) el_end(editor);
  if (input != STDIN_FILENO) ::close(input);
}

char* LineEditor::Terminal::show_prompt(EditLine* el) {
  Terminal* self = nullptr;
  el_get(el, EL_CLIENTDATA, &self);
  return self->prompt.data();
}

int LineEditor::Terminal::next_char(EditLine* el, wchar_t* out) {
  Terminal* self = nullptr;
  el_get(el, EL_CLIENTDATA, &self);
  for (;;) {
    pollfd fds[2] = {{self->input, POLLIN, 0}, {self->interrupts.event_fd(), POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0) {
      if (errno == EINTR) continue;
      return -1;
    }
    if (fds[1].revents != 0 && self->interrupts.take()) {
      self->interrupted = true;
      return -1;
    }
    if (fds[0].revents == 0) continue;
    char byte = 0;
    const ssize_t n = ::read(self->input, &byte, 1);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return static_cast<int>(n);
    const std::size_t used = std::mbrtowc(out, &byte, 1, &self->decode_state);
    if (used == static_cast<std::size_t>(-2)) continue;
    if (used == static_cast<std::size_t>(-1)) {
      self->decode_state = {};
      continue;
    }
    return 1;
  }
}

LineEditor::Outcome LineEditor::Terminal::read(const std::string& text, std::string* line) {
  prompt = text;
  interrupted = false;
  interrupts.take();
  el_resize(editor);
  int n_bytes = 0;
  const char* got = el_gets(editor, &n_bytes);
  if (interrupted) {
    el_reset(editor);
    std::fputs("\n", stdout);
    return Outcome::kInterrupted;
  }
  if (got == nullptr || n_bytes <= 0) {
    std::fputs("\n", stdout);
    return Outcome::kEnd;
  }
  line->assign(got, static_cast<std::size_t>(n_bytes));
  while (!line->empty() && (line->back() == '\n' || line->back() == '\r')) line->pop_back();
  if (!line->empty()) {
    HistEvent event;
    ::history(history, &event, H_ENTER, line->c_str());
  }
  return Outcome::kLine;
}

LineEditor::LineEditor(InterruptWatcher& interrupts, std::string history_path) {
  if (::isatty(STDIN_FILENO) == 0 || ::isatty(STDOUT_FILENO) == 0) return;
  terminal_ = std::make_unique<Terminal>(interrupts, std::move(history_path));
  if (terminal_->editor == nullptr || terminal_->history == nullptr) terminal_.reset();
}

LineEditor::~LineEditor() = default;

LineEditor::Outcome LineEditor::read(const std::string& prompt, std::string* line) {
  if (terminal_ != nullptr) return terminal_->read(prompt, line);
  if (!std::getline(std::cin, *line)) return Outcome::kEnd;
  if (!line->empty() && line->back() == '\r') line->pop_back();
  return Outcome::kLine;
}

}  // namespace kt::app
