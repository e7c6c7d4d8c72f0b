#include <boost/asio/ssl.hpp>

#include "serve/http/connection.h"
#include "serve/http/spawn.h"

namespace kt::serve::http {
namespace {

namespace ssl = asio::ssl;

class TlsSpawner : public Spawner {
 public:
  TlsSpawner(const ServerOptions& options, Handler& handler)
      : options_(options), handler_(handler), context_(ssl::context::tls_server) {
    context_.set_options(ssl::context::default_workarounds | ssl::context::no_sslv2 |
                         ssl::context::no_sslv3 | ssl::context::no_tlsv1 |
                         ssl::context::no_tlsv1_1);
    beast::error_code error;
    context_.use_certificate_chain_file(options.certificate, error);
    if (error) {
      fail(ErrorCode::kBadFile, options.certificate, "is no certificate in PEM: {}",
           error.message());
    }
    context_.use_private_key_file(options.key, ssl::context::pem, error);
    if (error) {
      fail(ErrorCode::kBadFile, options.key, "is no private key (PEM) of {}: {}",
           options.certificate, error.message());
    }
  }
  Started make(asio::ip::tcp::socket socket) override {
    using Stream = ssl::stream<asio::ip::tcp::socket>;
    return start_connection(std::make_shared<Connection<Stream>>(
        Stream(std::move(socket), context_), options_, handler_));
  }

 private:
  const ServerOptions& options_;
  Handler& handler_;
  ssl::context context_;
};

}  // namespace

std::unique_ptr<Spawner> make_tls_spawner(const ServerOptions& options, Handler& handler) {
  return std::make_unique<TlsSpawner>(options, handler);
}

}  // namespace kt::serve::http
