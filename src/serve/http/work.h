// A reply that takes time, as the server sees it: it waits for the descriptor, lets the Work go on,
// and sends what came. A Work is destroyed when it is done or when its client has gone, and ends
// then what it waits for.
//
//   server: wait for descriptor() → advance(output) → send … until the output is complete
//
// Thread rule: one thread at a time, not always the same.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "serve/http/message.h"

namespace kt::serve::http {

/// What a Work has to say, collected by one call of advance().
class Output {
 public:
  /// A whole reply, instead of a stream.
  void reply(Reply reply) {
    whole_ = std::move(reply);
    complete_ = true;
  }
  /// Begins a stream.
  void start(Head head) { head_ = std::move(head); }
  /// More of the stream's body.
  void write(std::string_view bytes) { bytes_ += bytes; }
  /// The stream is complete.
  void finish() { complete_ = true; }

  std::optional<Reply>& whole() { return whole_; }
  std::optional<Head>& head() { return head_; }
  const std::string& bytes() const { return bytes_; }
  bool complete() const { return complete_; }

 private:
  std::optional<Reply> whole_;
  std::optional<Head> head_;
  std::string bytes_;
  bool complete_ = false;
};

class Work {
 public:
  virtual ~Work() = default;
  /// Readable while advance() has something to do. Another after advance() is possible, and was
  /// open before the last one was closed.
  virtual int descriptor() = 0;
  /// Does not wait. Throws when the reply cannot be made; the server closes the connection then.
  virtual void advance(Output& output) = 0;
  /// What an idle stream sends so that nothing on the way takes the connection for dead.
  virtual std::string_view keep_alive() const { return {}; }
};

using Answer = std::variant<Reply, std::unique_ptr<Work>>;

}  // namespace kt::serve::http
