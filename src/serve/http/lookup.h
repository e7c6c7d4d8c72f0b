// The addresses behind a host's name, in time. The system's look-up knows no limit and cannot be
// ended, so it has a thread of its own, which is left to itself when it takes too long.
//
//   find → thread: look up → addresses; or too late → the next find waits for the same thread
//
// Thread rule: one thread. Neither it nor the end of the program waits for a look-up.
#pragma once
#include <boost/asio/ip/tcp.hpp>
#include <chrono>
#include <functional>
#include <future>
#include <string>
#include <vector>

namespace kt::serve::http {

class Lookup {
 public:
  using Addresses = std::vector<boost::asio::ip::tcp::endpoint>;
  Lookup(const std::string& host, const std::string& port);
  /// With another look-up than the system's: it may take for ever, and outlive this.
  explicit Lookup(std::function<Addresses()> look_up) : look_up_(std::move(look_up)) {}
  /// Throws kIo when there are none until then, and what the look-up throws.
  Addresses find(std::chrono::steady_clock::time_point until);

 private:
  const std::function<Addresses()> look_up_;
  std::future<Addresses> running_;  // one at a time; its end waits for nothing
};

}  // namespace kt::serve::http
