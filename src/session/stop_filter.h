// Cuts streamed text at stop strings, which may span pieces: what may be the beginning of one is
// held back until it is certain. Thread rule: one thread.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace kt::session {

class StopFilter {
 public:
  using Sink = std::function<bool(std::string_view)>;
  /// Stop strings are not empty. `sink` gets the text that is certain and returns false when it
  /// wants no more; it may be null.
  StopFilter(std::vector<std::string> stops, Sink sink);
  /// Takes the next piece. False once a stop string is complete or the sink wants no more; pieces
  /// after that are dropped.
  bool push(std::string_view piece);
  /// Passes on what is held back, at the end of the text.
  void flush();
  /// The stop string that ended the text; empty while none did.
  const std::string& hit() const { return hit_; }
  /// All text passed on, without the stop string.
  const std::string& text() const { return text_; }

 private:
  std::size_t longest_partial() const;
  void release(std::size_t n);
  std::vector<std::string> stops_;
  Sink sink_;
  std::string held_;
  std::string text_;
  std::string hit_;
  bool closed_ = false;  // nothing is passed on any more
};

}  // namespace kt::session
