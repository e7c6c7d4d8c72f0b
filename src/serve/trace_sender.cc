#include "serve/trace_sender.h"

#include <chrono>
#include <utility>

#include "base/error.h"

namespace kt::serve {
namespace {

constexpr std::size_t kMaxWaiting = 4096;  // spans
constexpr std::size_t kBatch = 512;        // spans that do not wait for the second to pass
constexpr std::chrono::seconds kPause{1};
constexpr std::chrono::seconds kTimeout{3};

http::Url traces_url(const std::string& endpoint) {
  constexpr std::string_view kPath = "/v1/traces";
  http::Url url = http::parse_url(endpoint, "4318");
  while (url.path.ends_with('/')) url.path.pop_back();
  if (!url.path.ends_with(kPath)) url.path += kPath;
  return url;
}

std::string body_of(const std::vector<Json>& spans) {
  const Json service = {{"key", "service.name"}, {"value", {{"stringValue", "ktransformers"}}}};
  const Json version = {{"key", "service.version"}, {"value", {{"stringValue", KT_VERSION}}}};
  const Json scope = {{"name", "kt serve"}, {"version", KT_VERSION}};
  return wire({{"resourceSpans",
                Json::array({{{"resource", {{"attributes", Json::array({service, version})}}},
                              {"scopeSpans",
                               Json::array({{{"scope", scope}, {"spans", Json(spans)}}})}}})}});
}

}  // namespace

TraceSender::TraceSender(TraceSenderOptions options)
    : options_(std::move(options)), poster_(traces_url(options_.endpoint)) {
  thread_ = std::thread([this] { main(); });
}

TraceSender::~TraceSender() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

void TraceSender::add(std::vector<Json> spans) {
  const std::lock_guard lock(mutex_);
  if (waiting_.size() + spans.size() > kMaxWaiting) {
    n_dropped_ += spans.size();
    return;
  }
  for (Json& span : spans) waiting_.push_back(std::move(span));
  changed_.notify_all();
}

void TraceSender::main() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return closing_ || !waiting_.empty(); });
    changed_.wait_for(lock, kPause, [this] { return closing_ || waiting_.size() >= kBatch; });
    const bool last = closing_;
    const std::vector<Json> spans = std::exchange(waiting_, {});
    lock.unlock();
    if (!spans.empty()) send(spans);
    lock.lock();
    if (last) return;
  }
}

void TraceSender::send(const std::vector<Json>& spans) {
  std::string problem;
  try {
    const int status = poster_.post("application/json", body_of(spans), kTimeout);
    if (status < 200 || status >= 300) problem = fmt::format("it answers {}", status);
  } catch (const std::exception& e) {
    problem = e.what();
  }
  const bool away = !problem.empty();
  (away ? n_dropped_ : n_sent_) += spans.size();
  if (std::exchange(away_, away) == away || !options_.on_change) return;
  options_.on_change(
      away ? fmt::format("traces do not reach {}, and are dropped: {}", options_.endpoint, problem)
           : fmt::format("traces reach {} again", options_.endpoint));
}

}  // namespace kt::serve
