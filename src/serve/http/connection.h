// One client's connection, from accept to close: reads requests one after the other, asks the
// Handler, sends replies. Private to http/; Stream is a TCP stream, plain or with TLS.
//
// Results of co_await go into variables first: GCC 12 makes wrong code of some conditions that
// await. Thread rule: everything of one connection runs on its strand.
#pragma once
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <memory>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "base/utf8.h"
#include "serve/http/connection_control.h"
#include "serve/http/server.h"
#include "serve/http/spawn.h"

namespace kt::serve::http {

namespace asio = boost::asio;
namespace beast = boost::beast;

template <class Stream>
class Connection : public ConnectionControl,
                   public std::enable_shared_from_this<Connection<Stream>> {
 public:
  Connection(Stream stream, const ServerOptions& options, Handler& handler)
      : stream_(std::move(stream)),
        options_(options),
        handler_(handler),
        buffer_(options.max_header + kReadAhead),
        timer_(stream_.get_executor()) {}

  auto executor() { return stream_.get_executor(); }
  asio::awaitable<void> run() {
    asio::co_spawn(stream_.get_executor(), watch_deadline(this->shared_from_this()),
                   asio::detached);
    try {
      bool more = co_await shake_hands();
      while (more) more = co_await exchange();
      co_await close();
    } catch (const std::exception&) {
      // Out of descriptors or memory: the connection goes.
    }
    ended_ = true;
    timer_.cancel();
    beast::error_code ignored;
    socket().close(ignored);
  }

  void stop_when_idle() override {
    asio::post(stream_.get_executor(), [self = this->shared_from_this()] {
      self->stopping_ = true;
      if (self->idle_) self->socket().cancel();
    });
  }
  void abort() override {
    asio::post(stream_.get_executor(), [self = this->shared_from_this()] {
      self->stopping_ = true;
      beast::error_code ignored;
      self->socket().close(ignored);
      if (self->watch_ != nullptr) self->watch_->wake(&Watch::gone);
    });
  }

 private:
  static constexpr bool kTls = !std::is_same_v<Stream, asio::ip::tcp::socket>;
  static constexpr std::size_t kReadAhead = 128 << 10;
  using Parser = beast::http::request_parser<beast::http::string_body>;
  using Deadline = std::chrono::steady_clock::time_point;

  // What may interrupt the wait for a Work.
  struct Watch {
    asio::posix::stream_descriptor events;
    asio::steady_timer ping, poll;
    int followed = -1;
    std::chrono::steady_clock::time_point last_sent = std::chrono::steady_clock::now();
    bool gone = false;      // the client closed the connection
    bool ping_due = false;  // nothing was sent for ping_time
    bool ended = false;
    explicit Watch(const asio::any_io_executor& executor)
        : events(executor), ping(executor), poll(executor) {}
    // Waits for what `descriptor` stands for; false when there are none left.
    bool follow(int descriptor) {
      if (descriptor == followed) return true;
      const int own = ::dup(descriptor);
      if (own < 0) return false;
      beast::error_code error;
      events.close(error);
      events.assign(own, error);
      if (error) ::close(own);
      followed = descriptor;
      return !error;
    }
    void wake(bool Watch::* flag) {
      this->*flag = true;
      beast::error_code ignored;
      events.cancel(ignored);
    }
  };

  auto& socket() { return beast::get_lowest_layer(stream_); }

  // What is waited for from now on must come by then; else it ends as if cancelled, and timed_out_
  // is set.
  void expires_at(Deadline deadline) {
    deadline_ = deadline;
    timed_out_ = false;
    if (deadline < timer_.expiry()) timer_.cancel();
  }
  void expires_after(std::chrono::milliseconds time) {
    expires_at(std::chrono::steady_clock::now() + time);
  }
  static asio::awaitable<void> watch_deadline(std::shared_ptr<Connection> self) {
    while (!self->ended_) {
      self->timer_.expires_at(self->deadline_);
      beast::error_code error;
      co_await self->timer_.async_wait(token(error));
      if (self->ended_ || std::chrono::steady_clock::now() < self->deadline_) continue;
      self->timed_out_ = true;
      self->deadline_ = Deadline::max();
      self->socket().cancel(error);
    }
  }
  static auto token(beast::error_code& error) {
    return asio::redirect_error(asio::use_awaitable, error);
  }

  asio::awaitable<bool> shake_hands() {
    beast::error_code error;
    if constexpr (kTls) {
      expires_after(options_.header_time);
      co_await stream_.async_handshake(Stream::server, token(error));
    }
    co_return !error;
  }

  // One request and its reply; false when the connection is to be closed.
  asio::awaitable<bool> exchange() {
    beast::error_code error;
    const bool there = co_await await_request();
    if (!there) co_return false;
    Parser parser;
    parser.header_limit(static_cast<std::uint32_t>(options_.max_header));
    parser.body_limit(options_.max_body);
    expires_after(options_.header_time);
    co_await beast::http::async_read_header(stream_, buffer_, parser, token(error));
    Request request;
    if (error) co_return co_await refuse(request, error);
    keep_alive_ = parser.keep_alive() && !stopping_;
    version_ = parser.get().version();
    head_only_ = parser.get().method() == beast::http::verb::head;
    if (const std::string wrong = take_header(parser, &request); !wrong.empty()) {
      keep_alive_ = false;
      co_return co_await send(handler_.refuse(request, 400, wrong));
    }
    if (std::optional<Reply> refused = handler_.admit(request)) {
      if (!parser.is_done()) keep_alive_ = false;  // the body is not read
      co_return co_await send(std::move(*refused));
    }
    co_await read_body(request, parser, error);
    if (error) co_return co_await refuse(request, error);
    request.body = std::move(parser.get().body());
    auto result = handler_.handle(std::move(request));
    if (Reply* reply = std::get_if<Reply>(&result)) co_return co_await send(std::move(*reply));
    co_return co_await serve(std::move(std::get<std::unique_ptr<Work>>(result)));
  }

  // Waits for the first byte of a request.
  asio::awaitable<bool> await_request() {
    if (buffer_.size() > 0) co_return true;
    if (stopping_) co_return false;
    beast::error_code error;
    expires_after(first_ ? options_.header_time : options_.idle_time);
    first_ = false;
    idle_ = true;
    const std::size_t n = co_await stream_.async_read_some(buffer_.prepare(4096), token(error));
    idle_ = false;
    buffer_.commit(n);
    co_return !error;
  }

  // Fills in everything but the body; what is wrong with it, or nothing.
  static std::string take_header(const Parser& parser, Request* request) {
    const auto& message = parser.get();
    request->method = std::string(message.method_string());
    int n_hosts = 0, n_codings = 0;
    bool chunked = false;
    for (const auto& field : message) {
      const std::string_view given(field.name_string().data(), field.name_string().size());
      std::string name = ascii_lower(given);
      n_hosts += name == "host" ? 1 : 0;
      if (name == "transfer-encoding") {
        ++n_codings;
        chunked = message.version() >= 11 && beast::iequals(field.value(), "chunked");
      }
      request->headers.emplace_back(std::move(name), std::string(field.value()));
    }
    if (n_hosts > 1 || (n_hosts == 0 && message.version() >= 11))
      return "one Host header is wanted";
    if (n_codings > 1 || (n_codings == 1 && !chunked))
      return "of transfer codings chunked alone is understood";
    try {
      parse_target(std::string_view(message.target().data(), message.target().size()), request);
    } catch (const Error& e) {
      return e.what();
    }
    return {};
  }

  asio::awaitable<void> read_body(const Request& request, Parser& parser,
                                  beast::error_code& error) {
    if (parser.is_done()) co_return;
    const auto end = std::chrono::steady_clock::now() + options_.body_time;
    if (version_ >= 11 && beast::iequals(request.header("expect"), "100-continue")) {
      static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
      expires_after(options_.stall_time);
      co_await asio::async_write(stream_, asio::buffer(kContinue), token(error));
    }
    while (!error && !parser.is_done()) {
      expires_at(std::min(end, std::chrono::steady_clock::now() + options_.stall_time));
      co_await beast::http::async_read_some(stream_, buffer_, parser, token(error));
    }
  }

  // Tells what cannot be read, where that makes sense, and closes.
  asio::awaitable<bool> refuse(const Request& request, beast::error_code error) {
    using E = beast::http::error;
    keep_alive_ = false;
    if (error == E::end_of_stream) co_return false;
    int status = 0;
    std::string why;
    if (timed_out_) {
      status = 408;
      why = "the request did not arrive in time";
    } else if (error == E::body_limit) {
      status = 413;
      why = fmt::format("the body is larger than {} bytes", options_.max_body);
    } else if (error == E::header_limit || error == E::buffer_overflow) {
      status = 431;
      why = fmt::format("the header is larger than {} bytes", options_.max_header);
    } else if (error.category() == make_error_code(E::bad_method).category()) {
      status = 400;
      why = "not an HTTP/1.1 request: " + error.message();
    } else {
      co_return false;  // the connection broke
    }
    co_return co_await send(handler_.refuse(request, status, why));
  }

  template <class Body>
  void fill_head(beast::http::response<Body>& message, const Head& head) {
    message.set(beast::http::field::content_type, head.content_type);
    for (const auto& [name, value] : head.headers) message.insert(name, value);
    message.keep_alive(keep_alive_);
  }

  asio::awaitable<bool> send(Reply reply) {
    namespace bh = beast::http;
    if (stopping_) keep_alive_ = false;
    bh::response<bh::string_body> message(static_cast<bh::status>(reply.head.status), version_);
    fill_head(message, reply.head);
    if (reply.head.status == 204 || reply.head.status == 304) {
      message.erase(bh::field::content_type);
    } else {
      message.body() = std::move(reply.body);
      message.content_length(message.body().size());
    }
    if (head_only_) message.body().clear();
    bh::response_serializer<bh::string_body> serializer(message);
    beast::error_code error;
    while (!error && !serializer.is_done()) {
      expires_after(options_.stall_time);
      co_await bh::async_write_some(stream_, serializer, token(error));
    }
    co_return !error && keep_alive_;
  }

  asio::awaitable<bool> start_stream(const Head& head) {
    namespace bh = beast::http;
    if (version_ < 11 || stopping_) keep_alive_ = false;
    bh::response<bh::empty_body> message(static_cast<bh::status>(head.status), version_);
    fill_head(message, head);
    if (version_ >= 11) message.chunked(true);
    bh::response_serializer<bh::empty_body> serializer(message);
    beast::error_code error;
    expires_after(options_.stall_time);
    co_await bh::async_write_header(stream_, serializer, token(error));
    co_return !error;
  }

  asio::awaitable<bool> send_bytes(std::string_view bytes) {
    beast::error_code error;
    expires_after(options_.stall_time);
    const asio::const_buffer data(bytes.data(), bytes.size());
    if (version_ >= 11) {
      co_await asio::async_write(stream_, beast::http::make_chunk(data), token(error));
    } else {
      co_await asio::async_write(stream_, data, token(error));
    }
    co_return !error;
  }

  asio::awaitable<bool> serve(std::unique_ptr<Work> work) {
    const auto watch = std::make_shared<Watch>(stream_.get_executor());
    watch_ = watch.get();
    asio::co_spawn(stream_.get_executor(), watch_client(this->shared_from_this(), watch),
                   asio::detached);
    asio::co_spawn(stream_.get_executor(), watch_time(options_.ping_time, watch), asio::detached);
    const bool go_on = co_await drive(*work, *watch);
    watch_ = nullptr;
    watch->ended = true;
    watch->ping.cancel();
    watch->poll.cancel();
    beast::error_code ignored;
    if (socket().is_open()) socket().cancel(ignored);
    co_return go_on;
  }

  asio::awaitable<bool> drive(Work& work, Watch& watch) {
    bool streaming = false;
    while (true) {
      if (watch.gone) co_return false;
      Output output;
      try {
        work.advance(output);
      } catch (const std::exception&) {
        co_return false;  // nothing sensible can follow what was sent
      }
      if (output.whole()) co_return co_await send(std::move(*output.whole()));
      if (output.head()) {
        streaming = true;
        const bool sent = co_await start_stream(*output.head());
        if (!sent || head_only_) co_return sent&& keep_alive_;
      }
      std::string_view bytes = output.bytes();
      if (bytes.empty() && std::exchange(watch.ping_due, false) && streaming)
        bytes = work.keep_alive();
      if (!bytes.empty()) {
        const bool sent = co_await send_bytes(bytes);
        if (!sent) co_return false;
        watch.last_sent = std::chrono::steady_clock::now();
      }
      if (output.complete()) co_return co_await end_stream();
      if (watch.gone || watch.ping_due) continue;
      if (!watch.follow(work.descriptor())) co_return false;
      deadline_ = Deadline::max();  // a Work may take its time
      beast::error_code woken;
      co_await watch.events.async_wait(asio::posix::descriptor_base::wait_read, token(woken));
    }
  }

  asio::awaitable<bool> end_stream() {
    beast::error_code error;
    if (version_ >= 11) {
      expires_after(options_.stall_time);
      co_await asio::async_write(stream_, beast::http::make_chunk_last(), token(error));
    }
    co_return !error && keep_alive_;
  }

  // Tells a Work's loop when its client has closed its side.
  static asio::awaitable<void> watch_client(std::shared_ptr<Connection> self,
                                            std::shared_ptr<Watch> watch) {
    while (!watch->ended) {
      beast::error_code error;
      co_await self->socket().async_wait(asio::socket_base::wait_read, token(error));
      if (watch->ended) co_return;
      pollfd poll{self->socket().native_handle(), POLLRDHUP, 0};
      if (error || ::poll(&poll, 1, 0) != 0) {
        watch->wake(&Watch::gone);
        co_return;
      }
      // A request behind this one lies there already; only its end is of interest.
      watch->poll.expires_after(std::chrono::milliseconds(100));
      co_await watch->poll.async_wait(token(error));
    }
  }

  static asio::awaitable<void> watch_time(std::chrono::milliseconds ping_time,
                                          std::shared_ptr<Watch> watch) {
    while (!watch->ended) {
      watch->ping.expires_at(watch->last_sent + ping_time);
      beast::error_code error;
      co_await watch->ping.async_wait(token(error));
      if (watch->ended) co_return;
      if (std::chrono::steady_clock::now() - watch->last_sent < ping_time) continue;
      watch->last_sent = std::chrono::steady_clock::now();
      watch->wake(&Watch::ping_due);
    }
  }

  // Closes so that the client can still read the last reply: what it sends is read for a moment.
  asio::awaitable<void> close() {
    beast::error_code error;
    if (!socket().is_open()) co_return;
    if constexpr (kTls) {
      expires_after(std::chrono::seconds(1));
      co_await stream_.async_shutdown(token(error));
      error = {};
    }
    socket().shutdown(asio::socket_base::shutdown_send, error);
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    for (std::size_t n = 0; !error && n < kReadAhead * 8;) {
      buffer_.clear();
      expires_at(end);
      const std::size_t read =
          co_await socket().async_read_some(buffer_.prepare(16384), token(error));
      n += read;
    }
    socket().close(error);
  }

  Stream stream_;
  const ServerOptions& options_;
  Handler& handler_;
  beast::flat_buffer buffer_;
  asio::steady_timer timer_;
  Deadline deadline_ = Deadline::max();
  bool timed_out_ = false;
  bool ended_ = false;
  Watch* watch_ = nullptr;  // of the reply in progress
  unsigned version_ = 11;
  bool keep_alive_ = false;
  bool head_only_ = false;
  bool first_ = true;
  bool idle_ = false;
  bool stopping_ = false;
};

template <class C>
Spawner::Started start_connection(std::shared_ptr<C> connection) {
  return {connection, [connection](std::function<void()> on_end) {
            asio::co_spawn(
                connection->executor(), [connection] { return connection->run(); },
                [on_end = std::move(on_end)](const std::exception_ptr&) { on_end(); });
          }};
}

}  // namespace kt::serve::http
