// Lines from the user: edited with history on a terminal (libedit), read as they are from a pipe or
// file. Thread rule: main thread.
#pragma once
#include <cstdio>
#include <memory>
#include <string>

#include "interrupt.h"

namespace kt::app {

class LineEditor {
 public:
  enum class Outcome { kLine, kInterrupted, kEnd };

  /// History is kept in `history_path` (empty: only in memory); a file that cannot be written is
  /// ignored.
  LineEditor(InterruptWatcher& interrupts, std::string history_path);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  /// True when lines come from a terminal.
  bool interactive() const { return terminal_ != nullptr; }
  /// One line without its end. kInterrupted: Ctrl-C; kEnd: Ctrl-D or end of input.
  Outcome read(const std::string& prompt, std::string* line);

 private:
  struct Terminal;
  std::unique_ptr<Terminal> terminal_;
};

}  // namespace kt::app
