#include "serve/models.h"

#include <algorithm>

#include "base/error.h"
#include "base/utf8.h"
#include "serve/problem.h"

namespace kt::serve {
namespace {

// As names are compared: lower case, without the tag and the parts that stand for Ollama's library.
std::string plain(std::string_view name) {
  std::string out = ascii_lower(name);
  for (const std::string_view prefix : {"registry.ollama.ai/", "library/"}) {
    if (out.starts_with(prefix)) out.erase(0, prefix.size());
  }
  if (out.ends_with(":latest")) out.resize(out.size() - 7);
  return out;
}

}  // namespace

bool same_model(std::string_view a, std::string_view b) { return plain(a) == plain(b); }

Models::Models(std::vector<ModelOptions> options, Duration keep_alive) {
  for (ModelOptions& o : options) {
    if (o.id.empty()) o.id = default_id(o.session.model);
    for (const Entry& other : entries_) {
      if (!same_model(other.options.id, o.id)) continue;
      fail(ErrorCode::kUsage, o.session.model,
           "another model is served as '{}' too; NAME=MODEL names one", o.id);
    }
    const Duration keep = entries_.empty() ? kForever : keep_alive;
    entries_.push_back(
        {std::move(o), keep, keep, nullptr, std::chrono::steady_clock::now(), false});
  }
  KT_CHECK(!entries_.empty());
  open(entries_.front());
  reaper_ = std::thread([this] { reap(); });
}

Models::~Models() { close(); }

Models::Entry& Models::find(const std::string& name) {
  if (name.empty()) return entries_.front();
  std::string all;
  for (Entry& entry : entries_) {
    if (same_model(entry.options.id, name)) return entry;
    all += (all.empty() ? "" : ", ") + entry.options.id;
  }
  Problem problem{404, fmt::format("model '{}' not found; this server has {}", name, all)};
  problem.param = "model";
  problem.code = "model_not_found";
  throw Refusal(std::move(problem));
}

void Models::open(Entry& entry) {
  entry.model = std::make_shared<ServedModel>(entry.options);
  entry.keep_alive = entry.default_keep_alive;
  entry.last_used = std::chrono::steady_clock::now();
}

std::shared_ptr<ServedModel> Models::get(const std::string& name) {
  std::shared_ptr<ServedModel> evicted, failed;  // go after the lock does
  const std::lock_guard lock(mutex_);
  Entry& entry = find(name);
  if (closing_) throw Refusal({503, "the server is stopping"});
  if (entry.model != nullptr && entry.model->failed_for_memory()) {
    evicted = take_idle(&entry, true);
    if (evicted != nullptr) failed = std::exchange(entry.model, nullptr);
  } else if (entry.model != nullptr && entry.model->failed()) {
    failed = std::exchange(entry.model, nullptr);
    failed->facts();  // throws why; the next request tries again
  }
  if (evicted != nullptr) evicted->worker().close();  // its memory is wanted now
  if (entry.model == nullptr) {
    entry.options.opened_by_request = true;
    open(entry);
  }
  entry.last_used = std::chrono::steady_clock::now();
  return entry.model;
}

std::shared_ptr<ServedModel> Models::peek(const std::string& name) {
  const std::lock_guard lock(mutex_);
  return find(name).model;
}

void Models::keep(const std::string& name, Duration keep_alive) {
  const std::lock_guard lock(mutex_);
  Entry& entry = find(name);
  if (&entry == &entries_.front()) return;
  entry.keep_alive = keep_alive;
  changed_.notify_all();
}

std::vector<Models::State> Models::list() const {
  const std::lock_guard lock(mutex_);
  std::vector<State> all;
  const auto now = std::chrono::steady_clock::now();
  for (const Entry& e : entries_) {
    auto until = std::chrono::system_clock::time_point::max();
    if (e.keep_alive != kForever) {
      until = std::chrono::system_clock::now() +
              std::chrono::duration_cast<std::chrono::system_clock::duration>(e.last_used +
                                                                              e.keep_alive - now);
    }
    all.push_back({e.options.id, e.options.session.model, e.model, until});
  }
  return all;
}

// The model that has been idle longest, taken out; with `any_age`, even if it may still stay.
std::shared_ptr<ServedModel> Models::take_idle(const Entry* except, bool any_age) {
  const auto now = std::chrono::steady_clock::now();
  Entry* oldest = nullptr;
  for (Entry& e : entries_) {
    if (&e == except || e.model == nullptr || !e.model->opened()) continue;
    const auto load = e.model->worker().load();
    if (load.n_running + load.n_waiting > 0) {
      e.last_used = now;
      continue;
    }
    const bool expired = e.keep_alive != kForever && now - e.last_used >= e.keep_alive;
    if (!expired && !any_age) continue;
    if (oldest == nullptr || e.last_used < oldest->last_used) oldest = &e;
  }
  return oldest == nullptr ? nullptr : std::exchange(oldest->model, nullptr);
}

void Models::reap() {
  std::unique_lock lock(mutex_);
  while (!closing_) {
    std::shared_ptr<ServedModel> gone = take_idle(nullptr, false);
    if (gone != nullptr) {
      lock.unlock();
      gone->worker().close();
      gone.reset();
      lock.lock();
      continue;
    }
    changed_.wait_for(lock, std::chrono::seconds(1), [this] { return closing_; });
  }
}

void Models::close() {
  std::vector<std::shared_ptr<ServedModel>> open;
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    for (const Entry& e : entries_) {
      if (e.model != nullptr) open.push_back(e.model);
    }
    changed_.notify_all();
  }
  if (reaper_.joinable()) reaper_.join();
  for (const auto& model : open) model->worker().close();
}

}  // namespace kt::serve
