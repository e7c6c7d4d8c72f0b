// The files of the chat page, built from apps/web and linked into the program.
//
// Each is stored as one gzip member; a server sends it as it is with `Content-Encoding: gzip`. The
// page must lie at a path that ends in a slash: its addresses are relative. Names below assets/
// carry a hash of their content, so they may be cached for ever; the others change. Built with
// KT_WEB=OFF there are none. Constant data: any thread may read it at any time.
#pragma once

#include <span>
#include <string_view>

namespace kt::web {

struct Asset {
  std::string_view path;  // relative, e.g. "index.html" or "assets/index-1a2b3c4d.js"
  std::string_view content_type;
  std::span<const unsigned char> gzip;
  std::string_view etag;  // of the content, in double quotes, as the header wants it
};

// index.html first.
std::span<const Asset> assets();

}  // namespace kt::web
