// Any bytes from a client over a real socket pair: what the handler sees of a request is clean, and
// every reply that goes back can be read as one, as many as there are to requests.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/asio/io_context.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <cstddef>
#include <cstdint>
#include <string>

#include "serve/http/spawn.h"

namespace {

namespace asio = boost::asio;
namespace bh = boost::beast::http;
using namespace kt::serve::http;

void check(bool ok) {
  if (!ok) __builtin_trap();
}

// A stream of three pieces.
class Pieces : public Work {
 public:
  Pieces() : event_(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)) { check(event_ >= 0); }
  ~Pieces() override { ::close(event_); }
  int descriptor() override { return event_; }
  void advance(Output& output) override {
    if (n_ == 0) output.start({200, "text/plain", {}});
    output.write("piece");
    if (++n_ == 3) output.finish();
  }

 private:
  int event_, n_ = 0;
};

class Checked : public Handler {
 public:
  std::optional<Reply> admit(const Request& request) override {
    look_at(request);
    return request.path == "/no" ? std::optional(reply_to(request, 403)) : std::nullopt;
  }
  std::variant<Reply, std::unique_ptr<Work>> handle(Request request) override {
    look_at(request);
    check(request.body.size() <= kMaxBody);
    if (request.path != "/stream") return reply_to(request, 200);
    ++n_replies;
    return std::make_unique<Pieces>();
  }
  Reply refuse(const Request& request, int status, const std::string& why) override {
    check(!why.empty());
    return reply_to(request, status);
  }
  static constexpr std::size_t kMaxBody = 4096;
  std::size_t n_replies = 0;  // that were given back

 private:
  static void look_at(const Request& request) {
    check(request.path.starts_with('/') && !request.method.empty());
    for (const char c : request.path) check(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
    for (const auto& [name, value] : request.headers) {
      for (const char c : name) check(c > 0x20 && !(c >= 'A' && c <= 'Z'));
      check(value.find_first_of(std::string_view("\r\n\0", 3)) == std::string::npos);
    }
  }
  Reply reply_to(const Request& request, int status) {
    ++n_replies;
    Reply reply{{status, "text/plain", {}}, "body"};
    reply.head.headers.emplace_back("x-request-id", request.header("x-request-id"));
    return reply;
  }
};

bool skip(std::string_view* bytes, std::string_view what) {
  if (!bytes->starts_with(what)) return false;
  bytes->remove_prefix(what.size());
  return true;
}

// Reads all that came back; who asked with HEAD got no body.
std::size_t count_replies(std::string_view bytes) {
  std::size_t n = 0;
  while (!bytes.empty()) {
    bh::response_parser<bh::empty_body> parser;
    parser.skip(true);
    boost::beast::error_code error;
    const std::size_t used = parser.put(asio::buffer(bytes.data(), bytes.size()), error);
    check(!error && parser.is_header_done());
    bytes.remove_prefix(used);
    if (parser.get().result_int() == 100) continue;
    ++n;
    check(parser.get().count("x-request-id") <= 1);
    if (skip(&bytes, "body")) continue;
    while (skip(&bytes, "5\r\npiece\r\n") || skip(&bytes, "piece")) {
    }
    skip(&bytes, "0\r\n\r\n");
  }
  return n;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::size_t kLongest = 60000;  // fits into the socket
  if (size > kLongest) return 0;
  int pair[2];
  check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
  check(::send(pair[0], data, size, 0) == static_cast<ssize_t>(size));
  check(::shutdown(pair[0], SHUT_WR) == 0);
  ::fcntl(pair[0], F_SETFL, O_NONBLOCK);
  ServerOptions options;
  options.max_header = 2048;
  options.max_body = Checked::kMaxBody;
  Checked handler;
  std::string replies;
  {
    asio::io_context io;
    const auto spawner = make_plain_spawner(options, handler);
    bool ended = false;
    spawner->make(asio::ip::tcp::socket(io, asio::ip::tcp::v4(), pair[1])).run([&] {
      ended = true;
    });
    char buffer[16384];
    while (!ended) {
      io.run_one_for(std::chrono::milliseconds(10));
      for (ssize_t n; (n = ::recv(pair[0], buffer, sizeof buffer, 0)) > 0;)
        replies.append(buffer, static_cast<std::size_t>(n));
    }
    for (ssize_t n; (n = ::recv(pair[0], buffer, sizeof buffer, 0)) > 0;)
      replies.append(buffer, static_cast<std::size_t>(n));
  }
  ::close(pair[0]);
  check(count_replies(replies) == handler.n_replies);
  return 0;
}
