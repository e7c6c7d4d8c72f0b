// Sends one body to another server over HTTP/1.1, without TLS, on a connection of its own.
//
// Thread rule: any thread; post() blocks.
#pragma once
#include <chrono>
#include <string>

namespace kt::serve::http {

struct Url {
  std::string host, port, path;
};

/// Takes http://HOST[:PORT][/PATH] apart. Throws kUsage, also for other schemes.
Url parse_url(const std::string& text, const std::string& default_port);

/// The status of the reply. Throws kIo when there is none in time, which begins once the host's
/// name is looked up.
int post(const Url& url, const std::string& content_type, std::string body,
         std::chrono::milliseconds timeout);

}  // namespace kt::serve::http
