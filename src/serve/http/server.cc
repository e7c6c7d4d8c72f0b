#include "serve/http/server.h"

#include <sys/resource.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <mutex>
#include <thread>
#include <vector>

#include "base/error.h"
#include "serve/http/spawn.h"

namespace kt::serve::http {
namespace asio = boost::asio;
using asio::ip::tcp;

namespace {

// As many descriptors as the system lets this process have: one for each connection and reply.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace

struct Server::Impl {
  Impl(const ServerOptions& options_in, Handler& handler_in)
      : options(options_in),
        spawner(options.certificate.empty() && options.key.empty()
                    ? make_plain_spawner(options, handler_in)
                    : make_tls_spawner(options, handler_in)),
        strand(asio::make_strand(io)),
        acceptor(strand),
        drain_timer(io) {}

  void listen() {
    boost::system::error_code error;
    tcp::resolver resolver(io);
    const auto found = resolver.resolve(options.host, std::to_string(options.port),
                                        tcp::resolver::numeric_service, error);
    const std::string where = fmt::format("{}:{}", options.host, options.port);
    if (error || found.empty()) {
      fail(ErrorCode::kIo, where, "no such address: {}", error.message());
    }
    const tcp::endpoint endpoint = *found.begin();
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) acceptor.bind(endpoint, error);
    if (!error) acceptor.listen(4096, error);
    if (!error) port = acceptor.local_endpoint(error).port();
    if (error) {
      fail(ErrorCode::kIo, where, "cannot listen there: {}; --host and --port choose another",
           error.message());
    }
  }

  asio::awaitable<void> accept() {
    while (acceptor.is_open()) {
      boost::system::error_code error;
      tcp::socket socket = co_await acceptor.async_accept(
          asio::make_strand(io), asio::redirect_error(asio::use_awaitable, error));
      if (!acceptor.is_open()) co_return;
      if (error) {  // no descriptors left, for example
        asio::steady_timer pause(io, std::chrono::milliseconds(50));
        co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, error));
        continue;
      }
      socket.set_option(tcp::no_delay(true), error);
      spawn(std::move(socket));
    }
  }

  void spawn(tcp::socket socket) {
    {
      const std::lock_guard lock(mutex);
      if (connections.size() >= options.max_connections) return;  // closes the socket
    }
    Spawner::Started started = spawner->make(std::move(socket));
    const auto control = started.control;
    enlist(control);
    started.run([this, control] { forget(control.get()); });
  }

  void enlist(const std::shared_ptr<ConnectionControl>& connection) {
    const std::lock_guard lock(mutex);
    connections.push_back(connection);
    if (stopping) connection->stop_when_idle();
  }

  void forget(const ConnectionControl* connection) {
    const std::lock_guard lock(mutex);
    std::erase_if(connections, [&](const auto& c) { return c.get() == connection; });
    if (stopping && connections.empty()) drain_timer.cancel();
  }

  void stop(std::chrono::milliseconds drain) {
    const std::lock_guard lock(mutex);
    stopping = true;
    boost::system::error_code ignored;
    acceptor.close(ignored);
    for (const auto& c : connections) c->stop_when_idle();
    if (connections.empty()) return;
    drain_timer.expires_after(drain);
    drain_timer.async_wait([this](const boost::system::error_code& error) {
      if (error) return;
      const std::lock_guard lock2(mutex);
      for (const auto& c : connections) c->abort();
    });
  }

  ServerOptions options;
  std::unique_ptr<Spawner> spawner;
  asio::io_context io;
  asio::strand<asio::io_context::executor_type> strand;  // of the acceptor
  tcp::acceptor acceptor;
  std::uint16_t port = 0;
  asio::steady_timer drain_timer;
  std::mutex mutex;  // of the members below
  std::vector<std::shared_ptr<ConnectionControl>> connections;
  bool stopping = false;
};

Server::Server(const ServerOptions& options, Handler& handler)
    : impl_(std::make_unique<Impl>(options, handler)) {
  raise_descriptor_limit();
  impl_->listen();
}

Server::~Server() = default;

std::uint16_t Server::port() const { return impl_->port; }

void Server::run() {
  asio::co_spawn(impl_->strand, impl_->accept(), asio::detached);
  std::vector<std::thread> threads;
  for (int i = 1; i < impl_->options.n_threads; ++i)
    threads.emplace_back([this] { impl_->io.run(); });
  impl_->io.run();
  for (std::thread& thread : threads) thread.join();
}

void Server::stop(std::chrono::milliseconds drain) {
  asio::post(impl_->strand, [this, drain] { impl_->stop(drain); });
}

}  // namespace kt::serve::http
