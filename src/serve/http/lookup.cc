#include "serve/http/lookup.h"

#include <boost/asio/io_context.hpp>
#include <thread>

#include "base/error.h"

namespace kt::serve::http {

Lookup::Lookup(const std::string& host, const std::string& port)
    : Lookup([host, port] {
        boost::asio::io_context io;
        Addresses addresses;
        for (const auto& found : boost::asio::ip::tcp::resolver(io).resolve(host, port))
          addresses.push_back(found.endpoint());
        return addresses;
      }) {}

Lookup::Addresses Lookup::find(std::chrono::steady_clock::time_point until) {
  if (!running_.valid()) {
    std::packaged_task<Addresses()> task(look_up_);
    running_ = task.get_future();
    std::thread(std::move(task)).detach();
  }
  if (running_.wait_until(until) != std::future_status::ready)
    fail(ErrorCode::kIo, {}, "its name could not be looked up in time");
  return running_.get();
}

}  // namespace kt::serve::http
