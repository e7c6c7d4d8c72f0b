// What the server answers: finds the handler of a request in the list of routes, checks who asks,
// turns what handlers throw into each protocol's errors, counts and logs.
//
// Thread rule: any thread.
#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "serve/access.h"
#include "serve/http/server.h"
#include "serve/metrics.h"
#include "serve/models.h"

namespace kt::serve {

using Answer = std::variant<http::Reply, std::unique_ptr<http::Work>>;

struct Route;

struct ServiceOptions {
  AccessOptions access;
  /// Takes one line of JSON for each request, without its newline; null: none.
  std::function<void(const std::string& line)> log;
  /// Of the models' caches, for metrics; may be null.
  std::shared_ptr<const io::PageStore> page_store;
};

class Service : public http::Handler {
 public:
  Service(ServiceOptions options, Models& models);

  // For handlers.
  Models& models() { return models_; }
  const Metrics& metrics() const { return metrics_; }
  const io::PageStore* page_store() const { return options_.page_store.get(); }
  std::int64_t started() const { return started_; }
  /// The Work that answers with a Generation of this request.
  Answer reply(const http::Request& request, Generation generation, std::unique_ptr<Codec> codec);

  /// Headers that every reply to this request carries: its id, and what lets pages read it.
  http::Headers common_headers(const http::Request& request) const;
  Access& access() { return access_; }
  std::optional<http::Reply> admit(const http::Request& request) override;
  Answer handle(http::Request request) override;
  http::Reply refuse(const http::Request& request, int status, const std::string& why) override;

 private:
  std::unique_ptr<Answer> attempt(const Route& route, const http::Request& request, bool may_wait);
  http::Reply finish(const http::Request& request, std::string_view route, http::Reply reply);
  void log(const http::Request& request, int status, const Usage* usage, double seconds);
  const ServiceOptions options_;
  Access access_;
  Metrics metrics_;
  Models& models_;
  const std::int64_t started_;
};

/// A JSON reply.
http::Reply json_reply(const Json& json, int status = 200);

}  // namespace kt::serve
