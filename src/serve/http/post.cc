#include "serve/http/post.h"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <exception>

#include "base/error.h"
#include "serve/http/lookup.h"

namespace kt::serve::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;

asio::awaitable<int> exchange(Url url, std::string content_type, std::string body,
                              Lookup::Addresses addresses,
                              std::chrono::steady_clock::time_point until) {
  beast::tcp_stream stream(co_await asio::this_coro::executor);
  stream.expires_at(until);
  co_await stream.async_connect(addresses, asio::use_awaitable);
  beast::http::request<beast::http::string_body> request(beast::http::verb::post, url.path, 11);
  const bool six = url.host.find(':') != std::string::npos;
  request.set(beast::http::field::host, (six ? "[" + url.host + "]" : url.host) + ":" + url.port);
  request.set(beast::http::field::content_type, content_type);
  request.keep_alive(false);
  request.body() = std::move(body);
  request.prepare_payload();
  co_await beast::http::async_write(stream, request, asio::use_awaitable);
  beast::flat_buffer buffer;
  beast::http::response_parser<beast::http::empty_body> reply;
  reply.body_limit(boost::none);  // it is not read
  co_await beast::http::async_read_header(stream, buffer, reply, asio::use_awaitable);
  co_return static_cast<int>(reply.get().result_int());
}

[[noreturn]] void refuse(const std::string& text) {
  fail(ErrorCode::kUsage, text, "is no address like http://HOST:PORT");
}

}  // namespace

Url parse_url(const std::string& text, const std::string& default_port) {
  constexpr std::string_view kScheme = "http://";
  if (!text.starts_with(kScheme)) refuse(text);
  std::string_view rest = std::string_view(text).substr(kScheme.size());
  const std::size_t slash = std::min(rest.find('/'), rest.size());
  Url url{{}, default_port, std::string(rest.substr(slash))};
  rest = rest.substr(0, slash);
  const bool six = rest.starts_with('[');
  const std::size_t end = six ? rest.find(']') : std::min(rest.find(':'), rest.size());
  if (end == std::string_view::npos) refuse(text);
  url.host = rest.substr(six ? 1 : 0, six ? end - 1 : end);
  rest.remove_prefix(six ? end + 1 : end);
  if (!rest.empty()) {
    if (rest[0] != ':') refuse(text);
    url.port = rest.substr(1);
  }
  const bool digits = url.port.find_first_not_of("0123456789") == std::string::npos;
  if (url.host.empty() || url.port.empty() || url.port.size() > 5 || !digits ||
      std::stoi(url.port) > 65535 || text.find_first_of(" \t\r\n?#@") != std::string::npos) {
    refuse(text);
  }
  return url;
}

Poster::Poster(Url url)
    : url_(std::move(url)), lookup_(std::make_unique<Lookup>(url_.host, url_.port)) {}

Poster::~Poster() = default;

int Poster::post(const std::string& content_type, std::string body,
                 std::chrono::milliseconds timeout) {
  const auto until = std::chrono::steady_clock::now() + timeout;
  asio::io_context io;
  int status = 0;
  std::exception_ptr error;
  try {
    asio::co_spawn(io, exchange(url_, content_type, std::move(body), lookup_->find(until), until),
                   [&](const std::exception_ptr& thrown, int got) {
                     error = thrown;
                     status = got;
                   });
    io.run();
    if (error) std::rethrow_exception(error);
  } catch (const boost::system::system_error& e) {
    fail(ErrorCode::kIo, url_.host + ":" + url_.port, "{}", e.code().message());
  }
  return status;
}

}  // namespace kt::serve::http
