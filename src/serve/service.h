// What the server answers: finds the handler of a request in the list of routes, checks who asks,
// turns what handlers throw into each protocol's errors, counts and logs every reply once.
//
//   without a body: the handler, here       with one: the handler on the pool → Reply, or Work
//   the model is being opened: parked until it is, then the handler again
//
// Thread rule: any thread.
#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "serve/access.h"
#include "serve/http/server.h"
#include "serve/metrics.h"
#include "serve/models.h"
#include "serve/pool.h"
#include "serve/request_spans.h"
#include "serve/trace_sender.h"

namespace kt::serve {

using http::Answer;

struct Route;

struct ServiceOptions {
  AccessOptions access;
  /// Takes one line of JSON for each request, without its newline; null: none.
  std::function<void(const std::string& line)> log;
  /// Of the models' caches, for metrics; may be null.
  std::shared_ptr<const io::PageStore> page_store;
  /// Takes the spans of requests; null: none are made.
  TraceSender* traces = nullptr;
};

class Service : public http::Handler {
 public:
  Service(ServiceOptions options, Models& models);
  ~Service() override;

  // For handlers.
  Models& models() { return models_; }
  std::string write_metrics(const std::string& model, const session::Worker::Load& load) const {
    return metrics_.write({model, load, options_.page_store.get(), options_.traces});
  }
  std::int64_t started() const { return started_; }
  /// The Work that answers with a Generation of this request; the model stays open until then.
  Answer reply(const http::Request& request, std::shared_ptr<ServedModel> model,
               Generation generation, std::unique_ptr<Codec> codec);
  /// The Work whose reply the model's thread makes between two steps.
  Answer between_steps(const http::Request& request, std::shared_ptr<ServedModel> model,
                       std::function<http::Reply(session::Session&)> make);
  /// The same for what takes long: see posted.h.
  Answer in_parts(const http::Request& request, std::shared_ptr<ServedModel> model,
                  std::function<bool(session::Session&)> part, std::function<http::Reply()> make);

  /// The Work whose reply a thread of its own makes, for what takes minutes: one after the other.
  Answer aside(const http::Request& request, std::function<http::Reply()> make);

  /// Headers that every reply to this request carries: its id, and what lets pages read it.
  http::Headers common_headers(const http::Request& request) const;
  Access& access() { return access_; }
  std::optional<http::Reply> admit(const http::Request& request) override;
  Answer handle(http::Request request) override;
  http::Reply refuse(const http::Request& request, int status, const std::string& why) override;

 private:
  struct Job;
  void run(const std::shared_ptr<Job>& job);
  void park(const std::shared_ptr<Job>& job, const std::shared_ptr<ServedModel>& model);
  Answer ask(const Route& route, const http::Request& request);
  http::Reply failure(const http::Request& request);
  http::Reply finish(const http::Request& request, http::Reply reply);
  void record(const http::Request& request, int status, const Usage* usage = nullptr);
  void trace(const FinishedRequest& finished);
  const ServiceOptions options_;
  Access access_;
  Metrics metrics_;
  Models& models_;
  const std::int64_t started_;
  const std::shared_ptr<Pool> pool_;
  Pool aside_;
};

/// A JSON reply.
http::Reply json_reply(const Json& json, int status = 200);

}  // namespace kt::serve
