// Sends the spans of finished requests to a collector of OpenTelemetry: OTLP over HTTP, as JSON.
//
//   add → bounded queue → one POST a second, or when many wait → sent, or dropped and counted
//
// A collector that is away costs its spans and nothing else. Format: OTLP 1.8, /v1/traces.
// Thread rule: any thread; sending is the sender's own thread's.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "serve/fields.h"
#include "serve/http/post.h"

namespace kt::serve {

struct TraceSenderOptions {
  std::string endpoint;  // http://HOST[:PORT][/PATH]; /v1/traces is appended when it is not there
  /// Told when the collector cannot be reached, and when it can again.
  std::function<void(const std::string& message)> on_change;
};

class TraceSender {
 public:
  /// Throws kUsage for an endpoint that is no address.
  explicit TraceSender(TraceSenderOptions options);
  /// Tries once more to send what waits.
  ~TraceSender();
  TraceSender(const TraceSender&) = delete;
  TraceSender& operator=(const TraceSender&) = delete;

  /// Spans of one request, as OTLP writes them. Never waits.
  void add(std::vector<Json> spans);
  struct Stats {
    std::uint64_t n_sent = 0, n_dropped = 0;  // spans
  };
  Stats stats() const { return {n_sent_.load(), n_dropped_.load()}; }

 private:
  void main();
  void send(const std::vector<Json>& spans);
  const TraceSenderOptions options_;
  std::atomic<std::uint64_t> n_sent_{0}, n_dropped_{0};
  std::mutex mutex_;  // of the members below
  std::condition_variable changed_;
  std::vector<Json> waiting_;
  bool closing_ = false;
  http::Poster poster_;  // the thread's own, as the next
  bool away_ = false;
  std::thread thread_;
};

}  // namespace kt::serve
