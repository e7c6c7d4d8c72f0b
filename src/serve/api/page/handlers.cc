#include "serve/api/page/handlers.h"

#include "embed/web_assets.h"

namespace kt::serve::page {
namespace {

constexpr const char* kPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'";

}  // namespace

Answer file(Service&, const http::Request& request) {
  std::string_view path = request.path;
  path.remove_prefix(path.starts_with("/web/") ? 5 : 1);
  if (path.empty()) path = "index.html";
  for (const web::Asset& asset : web::assets()) {
    if (asset.path != path) continue;
    http::Reply reply;
    reply.head.content_type = std::string(asset.content_type);
    const bool hashed = path.starts_with("assets/");
    reply.head.headers = {
        {"etag", std::string(asset.etag)},
        {"cache-control", hashed ? "public, max-age=31536000, immutable" : "no-cache"},
        {"content-security-policy", kPolicy},
        {"x-content-type-options", "nosniff"},
        {"referrer-policy", "no-referrer"},
        {"cross-origin-opener-policy", "same-origin"}};
    if (request.header("if-none-match") == asset.etag) {
      reply.head.status = 304;
      return reply;
    }
    reply.head.headers.emplace_back("content-encoding", "gzip");
    reply.body.assign(reinterpret_cast<const char*>(asset.gzip.data()), asset.gzip.size());
    return reply;
  }
  Problem problem{404, web::assets().empty() ? "this program was built without the chat page"
                                             : "the chat page has no such file"};
  throw Refusal(std::move(problem));
}

Answer redirect(Service&, const http::Request&) {
  http::Reply reply;
  reply.head.status = 308;
  reply.head.headers = {{"location", "/web/"}};
  return reply;
}

}  // namespace kt::serve::page
