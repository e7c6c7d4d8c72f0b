// The sockets: HTTP/1.1 over TCP, with limits on everything that a client can make large or slow.
// What requests mean is the Handler's.
//
//   header → Handler::admit → body → Handler::handle → Reply, or Work until it is complete
//
// Connections are coroutines on a few threads, each on one strand. Thread rule: stop() from any
// thread; the Handler is called from several threads at once.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "serve/http/message.h"
#include "serve/http/work.h"

namespace kt::serve::http {

struct ServerOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 10002;  // 0: any that is free
  int n_threads = 2;
  std::size_t max_header = 32 << 10;  // bytes
  std::size_t max_body = 64 << 20;    // bytes
  std::size_t max_connections = 12000;
  std::chrono::milliseconds header_time{30000};  // for a whole header
  std::chrono::milliseconds idle_time{75000};    // between two requests
  std::chrono::milliseconds stall_time{30000};   // without a byte of a body, or without a reader
  std::chrono::milliseconds body_time{600000};   // for a whole body
  std::chrono::milliseconds ping_time{15000};    // an idle stream sends Work::keep_alive so often
  std::string certificate, key;                  // PEM files; both given: HTTPS
};

class Handler {
 public:
  virtual ~Handler() = default;
  /// Looks at a request without its body; a reply here refuses it, and the body is not read.
  virtual std::optional<Reply> admit(const Request& request) = 0;
  /// Must not throw.
  virtual Answer handle(Request request) = 0;
  /// The reply to a request that the server cannot read: 400, 408, 413 or 431.
  virtual Reply refuse(const Request& request, int status, const std::string& why) = 0;
};

class Server {
 public:
  /// Listens. Throws kIo when the address cannot be had, kBadFile for a certificate or key.
  Server(const ServerOptions& options, Handler& handler);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;
  std::uint16_t port() const;
  /// Serves until stop(), on this thread and n_threads - 1 others.
  void run();
  /// Takes no new connections, lets requests in progress end, so long at most, then closes all.
  void stop(std::chrono::milliseconds drain);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kt::serve::http
