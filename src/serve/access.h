// Who may ask: API keys, the Host header (a page of another site must not reach a server on this
// machine by a name of its own: DNS rebinding), and origins of pages (CORS).
//
// Thread rule: check from any thread; set_keys from any thread.
#pragma once
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "serve/problem.h"

namespace kt::serve {

struct AccessOptions {
  std::vector<std::string> keys;     // none: everybody may ask
  std::vector<std::string> origins;  // of pages that may ask, besides those of this server and of
                                     // this machine; "*": all
  std::string host;                  // that the server listens on
};

class Access {
 public:
  explicit Access(AccessOptions options);
  void set_keys(std::vector<std::string> keys);
  /// What forbids the request, or nothing. `open`: no key is needed for it.
  std::optional<Problem> check(const http::Request& request, bool open) const;
  /// Headers that let the page that asked read the reply; empty when it may not, or none asked.
  http::Headers cors(const http::Request& request) const;

 private:
  bool origin_allowed(std::string_view origin, std::string_view host) const;
  bool key_known(std::string_view key) const;
  AccessOptions options_;
  bool loopback_ = false;
  mutable std::mutex mutex_;  // of the keys
};

/// Whether this name or address is of this machine alone.
bool is_loopback(std::string_view host);

}  // namespace kt::serve
