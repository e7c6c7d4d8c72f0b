#include "serve/http/connection.h"
#include "serve/http/spawn.h"

namespace kt::serve::http {
namespace {

class PlainSpawner : public Spawner {
 public:
  PlainSpawner(const ServerOptions& options, Handler& handler)
      : options_(options), handler_(handler) {}
  Started make(asio::ip::tcp::socket socket) override {
    return start_connection(
        std::make_shared<Connection<asio::ip::tcp::socket>>(std::move(socket), options_, handler_));
  }

 private:
  const ServerOptions& options_;
  Handler& handler_;
};

}  // namespace

std::unique_ptr<Spawner> make_plain_spawner(const ServerOptions& options, Handler& handler) {
  return std::make_unique<PlainSpawner>(options, handler);
}

}  // namespace kt::serve::http
