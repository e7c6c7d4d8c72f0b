#include "serve/access.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include "base/utf8.h"

namespace kt::serve {
namespace {

// "name:port" or "[::1]:port" without the port.
std::string_view host_of(std::string_view authority) {
  if (authority.starts_with('[')) {
    const std::size_t end = authority.find(']');
    return end == std::string_view::npos ? authority : authority.substr(0, end + 1);
  }
  return authority.substr(0, authority.find(':'));
}

// Takes the same time whatever the first difference is.
bool same(std::string_view a, std::string_view b) {
  unsigned difference = a.size() == b.size() ? 0u : 1u;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const char c = b.empty() ? '\0' : b[i % b.size()];
    difference |= static_cast<unsigned char>(a[i] ^ c);
  }
  return difference == 0;
}

// The key that a request shows, in any of the ways that clients have.
std::string_view shown_key(const http::Request& request) {
  const std::string_view authorization = request.header("authorization");
  if (ascii_lower(authorization.substr(0, 7)) == "bearer ") {
    std::string_view key = authorization.substr(7);
    while (key.starts_with(' ')) key.remove_prefix(1);
    return key;
  }
  return request.header("x-api-key");
}

}  // namespace

bool is_loopback(std::string_view host) {
  // An address must be one in whole: 127.0.0.1.example.com is somebody's name.
  const std::string name = ascii_lower(host);
  in_addr address{};
  const bool four = ::inet_pton(AF_INET, name.c_str(), &address) == 1;
  return (four && ntohl(address.s_addr) >> 24 == 127) || name == "localhost" ||
         name.ends_with(".localhost") || name == "::1" || name == "[::1]";
}

Access::Access(AccessOptions options)
    : options_(std::move(options)), loopback_(is_loopback(options_.host)) {}

void Access::set_keys(std::vector<std::string> keys) {
  const std::lock_guard lock(mutex_);
  options_.keys = std::move(keys);
}

bool Access::key_known(std::string_view key) const {
  const std::lock_guard lock(mutex_);
  bool known = options_.keys.empty();
  for (const std::string& k : options_.keys) known |= same(key, k);
  return known;
}

std::optional<Problem> Access::check(const http::Request& request, bool open) const {
  const std::string_view host = host_of(request.header("host"));
  if (loopback_ && !is_loopback(host) && ascii_lower(host) != ascii_lower(options_.host)) {
    return Problem{403,
                   fmt::format("this server answers on this machine's own names only, not '{}'; "
                               "--host serves others",
                               host)};
  }
  const std::string_view origin = request.header("origin");
  if (!origin.empty() && !origin_allowed(origin, request.header("host"))) {
    return Problem{403,
                   fmt::format("pages of {} may not ask here; --cors-origins lets them", origin)};
  }
  if (open || request.method == "OPTIONS" || key_known(shown_key(request))) return std::nullopt;
  Problem problem{401, "a valid API key is wanted in the header Authorization: Bearer KEY"};
  problem.code = "invalid_api_key";
  problem.headers = {{"www-authenticate", "Bearer"}};
  return problem;
}

bool Access::origin_allowed(std::string_view origin, std::string_view host) const {
  for (const std::string& allowed : options_.origins) {
    if (allowed == "*" || ascii_lower(allowed) == ascii_lower(origin)) return true;
  }
  for (const std::string_view scheme :
       {"app://", "file://", "tauri://", "vscode-webview://", "vscode-file://"}) {
    if (origin.starts_with(scheme)) return true;
  }
  const std::size_t at = origin.find("://");
  if (at == std::string_view::npos) return false;
  const std::string_view authority = origin.substr(at + 3);
  return ascii_lower(authority) == ascii_lower(host) || is_loopback(host_of(authority));
}

http::Headers Access::cors(const http::Request& request) const {
  const std::string_view origin = request.header("origin");
  if (origin.empty() || !origin_allowed(origin, request.header("host"))) return {};
  http::Headers headers = {{"access-control-allow-origin", std::string(origin)},
                           {"vary", "Origin"},
                           {"access-control-expose-headers", "x-request-id"}};
  if (request.method == "OPTIONS") {
    headers.emplace_back("access-control-allow-methods", "GET, POST, DELETE, HEAD, OPTIONS");
    const std::string_view wanted = request.header("access-control-request-headers");
    headers.emplace_back("access-control-allow-headers",
                         wanted.empty() ? "authorization, content-type" : std::string(wanted));
    headers.emplace_back("access-control-max-age", "86400");
  }
  return headers;
}

}  // namespace kt::serve
