// What an HTTP request and a reply are to everything above the sockets: no type of the library that
// reads them shows here.
//
// Thread rule: plain values.
#pragma once
#include <chrono>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kt::serve::http {

using Headers = std::vector<std::pair<std::string, std::string>>;

struct Request {
  std::string method;                        // upper case
  std::string path;                          // decoded, without the query
  std::map<std::string, std::string> query;  // decoded; the last of equal names counts
  Headers headers;                           // names in lower case
  std::string body;
  std::chrono::steady_clock::time_point received = std::chrono::steady_clock::now();
  /// The first header of this (lower case) name; empty when there is none.
  std::string_view header(std::string_view name) const;
};

/// What stands before the body of a reply.
struct Head {
  int status = 200;
  std::string content_type = "application/json";
  Headers headers;
};

struct Reply {
  Head head;
  std::string body;
};

/// Takes a request target ("/v1/models/a%2Fb?x=1") apart. Throws kUsage for bytes and escapes that
/// no path has, and for "." and ".." in it.
void parse_target(std::string_view target, Request* request);

}  // namespace kt::serve::http
