// Starts connections of either kind: plain.cc and tls.cc each compile the coroutines of
// connection.h for theirs. Private to http/.
//
// Thread rule: any thread.
#pragma once
#include <boost/asio/ip/tcp.hpp>
#include <functional>
#include <memory>

#include "serve/http/connection_control.h"
#include "serve/http/server.h"

namespace kt::serve::http {

class Spawner {
 public:
  virtual ~Spawner() = default;
  /// A connection that is about to run; `run` starts it, and calls on_end when it is over.
  struct Started {
    std::shared_ptr<ConnectionControl> control;
    std::function<void(std::function<void()> on_end)> run;
  };
  virtual Started make(boost::asio::ip::tcp::socket socket) = 0;
};

/// `options` and `handler` outlive it.
std::unique_ptr<Spawner> make_plain_spawner(const ServerOptions& options, Handler& handler);
/// Throws kBadFile naming the certificate or key that cannot be used.
std::unique_ptr<Spawner> make_tls_spawner(const ServerOptions& options, Handler& handler);

}  // namespace kt::serve::http
