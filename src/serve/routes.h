// The list of routes.
//
//   ROUTE(method, path, handler, open): `open` needs no API key; a path that ends in '*' takes
//   whatever follows
//
// Thread rule: immutable.
#pragma once
#include <span>
#include <string_view>

#include "serve/service.h"

namespace kt::serve {

struct Route {
  std::string_view method, path;
  Answer (*handler)(Service& service, const http::Request& request);
  bool open;
};
std::span<const Route> routes();

}  // namespace kt::serve
