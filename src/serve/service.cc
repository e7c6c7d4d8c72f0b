#include "serve/service.h"

#include <ctime>

#include "base/error.h"
#include "base/suggest.h"
#include "serve/ids.h"
#include "serve/pending.h"
#include "serve/posted.h"
#include "serve/routes.h"

namespace kt::serve {
namespace {

constexpr int kPoolThreads = 4;  // so that a heavy prompt does not hold up the others
constexpr std::size_t kPoolQueue = 1024;
constexpr std::size_t kAsideQueue = 16;

bool matches(const Route& route, std::string_view path) {
  if (!route.path.ends_with('*')) return route.path == path;
  const std::string_view prefix = route.path.substr(0, route.path.size() - 1);
  return path.size() > prefix.size() && path.starts_with(prefix);
}

bool same_method(std::string_view wanted, std::string_view got) {
  return wanted == got || (wanted == "GET" && got == "HEAD");
}

const Route* find_route(const http::Request& request) {
  for (const Route& route : routes()) {
    if (same_method(route.method, request.method) && matches(route, request.path)) return &route;
  }
  return nullptr;
}

// Nothing there at all, or nothing for this method.
Problem no_route(const http::Request& request) {
  std::string allowed;
  std::vector<std::string> paths;
  for (const Route& route : routes()) {
    if (matches(route, request.path)) {
      allowed += (allowed.empty() ? "" : ", ") + std::string(route.method);
    }
    paths.emplace_back(route.path);
  }
  if (!allowed.empty()) {
    Problem problem{405, fmt::format("{} takes {}, not {}", request.path, allowed, request.method)};
    problem.headers = {{"allow", allowed}};
    return problem;
  }
  const auto near = nearest(request.path, paths);
  return {404, fmt::format("there is nothing at {}{}", request.path,
                           near ? fmt::format("; did you mean {}?", *near) : "")};
}

// The client's own id of the request, when it is a short one, or one of ours.
void name_request(http::Request& request) {
  constexpr std::size_t kLongest = 128;
  const std::string_view given = request.header("x-request-id");
  if (!given.empty() && given.size() <= kLongest) return;
  std::erase_if(request.headers, [](const auto& h) { return h.first == "x-request-id"; });
  request.headers.emplace_back("x-request-id", make_id("req_"));
}

http::Request without_body(const http::Request& request) {
  return {request.method, request.path, {}, request.headers, {}, request.received};
}

std::string now_text() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text;
}

}  // namespace

http::Reply json_reply(const Json& json, int status) {
  http::Reply reply;
  reply.head.status = status;
  reply.body = wire(json);
  return reply;
}

Service::Service(ServiceOptions options, Models& models)
    : options_(std::move(options)),
      access_(options_.access),
      models_(models),
      started_(std::time(nullptr)),
      pool_(std::make_shared<Pool>(kPoolThreads, kPoolQueue)),
      aside_(1, kAsideQueue) {}

Service::~Service() {
  aside_.stop();
  pool_->stop();
}

std::optional<http::Reply> Service::admit(const http::Request& request) {
  const Route* route = find_route(request);
  std::optional<Problem> problem = access_.check(request, route != nullptr && route->open);
  if (!problem && route == nullptr && request.method != "OPTIONS") problem = no_route(request);
  if (!problem) return std::nullopt;
  return finish(request, problem_reply(protocol_of(request.path), *problem));
}

// A request whose handler runs on the pool.
struct Service::Job {
  const Route& route;
  const http::Request request;
  const std::shared_ptr<Pending> pending;
};

Answer Service::handle(http::Request request) {
  name_request(request);
  if (request.method == "OPTIONS") return finish(request, {{204, {}, {}}, {}});
  const Route& route = *find_route(request);
  std::shared_ptr<Job> job;
  try {
    if (request.method != "POST") return ask(route, request);
    auto pending = std::make_shared<Pending>();
    std::unique_ptr<http::Work> work = wait_for(pending);
    job = std::make_shared<Job>(route, std::move(request), std::move(pending));
    if (pool_->run([this, job] { run(job); })) return work;
    throw Refusal({503, "too many requests wait to be read", {}, "queue_full", 5});
  } catch (...) {
    return failure(job != nullptr ? job->request : request);
  }
}

// On the pool.
void Service::run(const std::shared_ptr<Job>& job) {
  if (job->pending->gone()) return record(job->request, 499);
  try {
    job->pending->set(ask(job->route, job->request));
  } catch (const Loading& loading) {
    park(job, loading.model());
  } catch (...) {
    job->pending->set(failure(job->request));
  }
}

// Goes on when the model is there, or could not be opened.
void Service::park(const std::shared_ptr<Job>& job, const std::shared_ptr<ServedModel>& model) {
  const auto go_on = [this, job, model] {
    if (model->state() != ServedModel::State::kFailed) return run(job);
    try {
      model->facts();  // throws why
    } catch (...) {
      job->pending->set(failure(job->request));
    }
  };
  model->when_opened([pool = pool_, go_on] { pool->go_on(go_on); });
}

// The answer of a handler.
Answer Service::ask(const Route& route, const http::Request& request) {
  Answer answer = route.handler(*this, request);
  if (auto* reply = std::get_if<http::Reply>(&answer)) return finish(request, std::move(*reply));
  return answer;
}

// The reply for what is in flight.
http::Reply Service::failure(const http::Request& request) {
  const Problem problem = current_problem();
  if (request.method == "POST") trace({request, find_route(request)->path, &problem});
  return finish(request, problem_reply(protocol_of(request.path), problem));
}

http::Reply Service::refuse(const http::Request& request, int status, const std::string& why) {
  return finish(request, problem_reply(protocol_of(request.path), {status, why}));
}

http::Headers Service::common_headers(const http::Request& request) const {
  http::Headers headers = access_.cors(request);
  const std::string_view id = request.header("x-request-id");
  if (!id.empty()) headers.emplace_back("x-request-id", std::string(id));
  return headers;
}

http::Reply Service::finish(const http::Request& request, http::Reply reply) {
  record(request, reply.head.status);
  for (auto& header : common_headers(request)) reply.head.headers.push_back(std::move(header));
  return reply;
}

Answer Service::reply(const http::Request& request, std::shared_ptr<ServedModel> model,
                      Generation generation, std::unique_ptr<Codec> codec) {
  const auto on_done = [this, model = std::move(model), asked = generation.asked,
                        head = without_body(request)](
                           const Usage& usage, const std::vector<Choice>& choices,
                           double seconds_to_first, const Problem* problem) {
    metrics_.count_reply(usage, choices, seconds_to_first, problem);
    trace({head, head.path, problem,
           FinishedRequest::Reply{asked, usage, choices, seconds_to_first}});
    record(head, problem != nullptr ? problem->status : 200, &usage);
  };
  http::Headers headers = common_headers(request);
  headers.emplace_back("x-queue-position", std::to_string(generation.n_ahead));
  return make_reply(protocol_of(request.path), std::move(generation), std::move(codec), on_done,
                    std::move(headers));
}

void Service::trace(const FinishedRequest& finished) {
  if (options_.traces != nullptr) options_.traces->add(request_spans(finished));
}

Answer Service::between_steps(const http::Request& request, std::shared_ptr<ServedModel> model,
                              std::function<http::Reply(session::Session&)> make) {
  const auto done = [this, head = without_body(request)](http::Reply reply) {
    return finish(head, std::move(reply));
  };
  return serve::between_steps({std::move(model), protocol_of(request.path), done}, std::move(make));
}

Answer Service::in_parts(const http::Request& request, std::shared_ptr<ServedModel> model,
                         std::function<bool(session::Session&)> part,
                         std::function<http::Reply()> make) {
  const auto done = [this, head = without_body(request)](http::Reply reply) {
    return finish(head, std::move(reply));
  };
  return serve::in_parts({std::move(model), protocol_of(request.path), done}, pool_,
                         std::move(part), std::move(make));
}

Answer Service::aside(const http::Request& request, std::function<http::Reply()> make) {
  auto pending = std::make_shared<Pending>();
  std::unique_ptr<http::Work> work = wait_for(pending);
  const auto job = [this, pending, make = std::move(make), head = without_body(request)] {
    try {
      pending->set(finish(head, make()));
    } catch (...) {
      pending->set(failure(head));
    }
  };
  if (!aside_.run(job)) throw Refusal({503, "too many wait for this already", {}, "queue_full", 5});
  return work;
}

// Counts and logs the end of a request: with the status that was sent, that of the error that ended
// a stream, or 499 when the client had gone.
void Service::record(const http::Request& request, int status, const Usage* usage) {
  const Route* route = find_route(request);
  metrics_.count_request(route != nullptr ? route->path : "none", request.method, status);
  if (!options_.log) return;
  const std::string_view id = request.header("x-request-id");
  Json line = {{"time", now_text()},
               {"method", request.method},
               {"path", request.path},
               {"status", status},
               {"request_id", id.empty() ? make_id("req_") : std::string(id)}};
  if (usage != nullptr) {
    line["seconds"] = usage->total_seconds;
    line["prompt_tokens"] = usage->n_prompt;
    line["cached_tokens"] = usage->n_cached;
    line["completion_tokens"] = usage->n_generated;
    line["prefill_seconds"] = usage->prefill_seconds;
    line["decode_seconds"] = usage->decode_seconds;
  }
  options_.log(wire(line));
}

}  // namespace kt::serve
