// Sends bodies to another server over HTTP/1.1, without TLS, each on a connection of its own.
//
// Thread rule: one thread per object; post() blocks.
#pragma once
#include <chrono>
#include <memory>
#include <string>

namespace kt::serve::http {

struct Url {
  std::string host, port, path;
};

/// Takes http://HOST[:PORT][/PATH] apart. Throws kUsage, also for other schemes.
Url parse_url(const std::string& text, const std::string& default_port);

class Lookup;

class Poster {
 public:
  explicit Poster(Url url);
  ~Poster();
  /// The status of the reply. Throws kIo when there is none in time.
  int post(const std::string& content_type, std::string body, std::chrono::milliseconds timeout);

 private:
  const Url url_;
  const std::unique_ptr<Lookup> lookup_;
};

}  // namespace kt::serve::http
