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

[[noreturn]] void refuse_taken(const std::string& name) {
  throw Refusal({400, fmt::format("there is a model '{}' already", name)});
}

}  // namespace

bool same_model(std::string_view a, std::string_view b) { return plain(a) == plain(b); }

const Models::Copy* Models::find_copy(const Entry& entry, std::string_view name) {
  const auto it = std::find_if(entry.copies.begin(), entry.copies.end(),
                               [name](const Copy& copy) { return same_model(copy.name, name); });
  return it == entry.copies.end() ? nullptr : &*it;
}

Models::Copy* Models::find_copy(Entry& entry, std::string_view name) {
  return const_cast<Copy*>(find_copy(std::as_const(entry), name));
}

bool Models::has_name(const Entry& entry, std::string_view name) {
  return same_model(entry.options.id, name) || find_copy(entry, name) != nullptr;
}

bool Models::is_taken(std::string_view name) const {
  return std::any_of(entries_.begin(), entries_.end(),
                     [name](const Entry& entry) { return has_name(entry, name); });
}

Models::Models(std::vector<ModelOptions> options, Duration keep_alive) : keep_alive_(keep_alive) {
  for (ModelOptions& o : options) {
    if (o.id.empty()) o.id = default_id(o.session.model);
    if (is_taken(o.id)) {
      fail(ErrorCode::kUsage, o.session.model,
           "another model is served as '{}' too; NAME=MODEL names one", o.id);
    }
    const Duration keep = entries_.empty() ? kForever : keep_alive;
    entries_.push_back({std::move(o), {}, keep, keep, nullptr, nullptr, false});
  }
  KT_CHECK(!entries_.empty());
  open(entries_.front());
  reaper_ = std::thread([this] { reap(); });
}

Models::~Models() { close(); }

const Models::Entry& Models::find(const std::string& name) const {
  if (name.empty()) return entries_.front();
  std::string all;
  for (const Entry& entry : entries_) {
    if (has_name(entry, name)) return entry;
    all += (all.empty() ? "" : ", ") + entry.options.id;
  }
  Problem problem{404, fmt::format("model '{}' not found; this server has {}", name, all)};
  problem.param = "model";
  problem.code = "model_not_found";
  throw Refusal(std::move(problem));
}

Models::Entry& Models::find(const std::string& name) {
  return const_cast<Entry&>(std::as_const(*this).find(name));
}

// What is leaving gives its memory back first.
void Models::open(Entry& entry) {
  const auto close_leaving = [leaving = leaving_]() mutable {
    for (const auto& model : leaving) model->worker().close();
    leaving.clear();
  };
  entry.model = std::make_shared<ServedModel>(entry.options, close_leaving);
  entry.keep_alive = entry.default_keep_alive;
}

// What an open model's name says of it: made once for each name and opening, as it may look at the
// whole vocabulary.
std::shared_ptr<const ModelFacts> Models::facts_of(ServedModel& model, Copy* copy) {
  std::shared_ptr<const ModelFacts> base = model.shared_facts();
  if (copy == nullptr || copy->defaults == nullptr) return base;
  if (copy->base == base) return copy->facts;
  copy->facts = model.worker().read([&](const session::Session& session) {
    return std::make_shared<const ModelFacts>(
        with_defaults(*base, *copy->defaults, session.tokenizer()));
  });
  copy->base = std::move(base);
  return copy->facts;
}

NamedModel Models::get(const std::string& name) {
  using Is = ServedModel::State;
  const std::lock_guard lock(mutex_);
  if (closing_) throw Refusal({503, "the server is stopping"});
  Entry& entry = find(name);
  if (entry.model != nullptr) {
    const Is state = entry.model->state();
    if (state != Is::kOpening && state != Is::kOpen) {
      constexpr std::chrono::seconds kBeforeRetry(5);
      const bool tried_just_now =
          ServedModel::Clock::now() - entry.model->last_used() < kBeforeRetry;
      if (state == Is::kNoMemory && !dismiss_idle(&entry, true) && tried_just_now)
        entry.model->facts();  // throws why
      dismiss(entry);
    }
  }
  if (entry.model == nullptr) {
    entry.on_demand = true;
    open(entry);
  }
  const std::shared_ptr<ServedModel>& model = entry.model;
  model->begin_use();
  std::shared_ptr<ServedModel> lease(model.get(), [model](ServedModel*) { model->end_use(); });
  std::shared_ptr<const ModelFacts> facts;
  try {
    facts = facts_of(*model, find_copy(entry, name));
  } catch (const Refusal& opening) {
    if (!entry.on_demand) throw;
    throw Loading(opening.problem(), std::move(lease));
  }
  return {std::move(lease), std::move(facts)};
}

std::shared_ptr<ServedModel> Models::peek(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  return find(name).model;
}

std::shared_ptr<const ModelFacts> Models::facts(const std::string& name) {
  ModelOptions options;
  std::shared_ptr<const ModelDefaults> defaults;
  std::shared_ptr<const ModelFacts> facts;
  {
    const std::lock_guard lock(mutex_);
    const Entry& entry = find(name);
    if (const Copy* copy = find_copy(entry, name)) defaults = copy->defaults;
    facts = entry.model != nullptr ? entry.model->shared_facts() : entry.facts;
    options = entry.options;
  }
  if (facts == nullptr) {
    facts = std::make_shared<const ModelFacts>(read_facts(options));  // takes a while
    const std::lock_guard lock(mutex_);
    find(name).facts = facts;
  }
  if (defaults == nullptr) return facts;
  return std::make_shared<const ModelFacts>(with_defaults(*facts, *defaults, nullptr));
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
  for (const Entry& entry : entries_) {
    all.push_back(state_of(entry, entry.options.id));
    for (const Copy& copy : entry.copies) all.push_back(state_of(entry, copy.name));
  }
  return all;
}

Models::State Models::state(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const Entry& entry = find(name);
  return state_of(entry, entry.options.id);
}

Models::State Models::state_of(const Entry& entry, const std::string& name) const {
  using std::chrono::system_clock;
  auto until = system_clock::time_point::max();
  if (entry.model != nullptr && entry.keep_alive != kForever) {
    const auto now = ServedModel::Clock::now();
    const auto since = entry.model->in_use() ? now : entry.model->last_used();
    until = system_clock::now() +
            std::chrono::duration_cast<system_clock::duration>(since + entry.keep_alive - now);
  }
  return {name, entry.options.session.model, entry.model, until};
}

void Models::add(const std::string& name, const std::string& path) {
  const std::lock_guard lock(mutex_);
  if (is_taken(name)) return;
  ModelOptions options = entries_.front().options;
  options.id = name;
  options.session.model = path;
  options.session.rules.clear();
  options.session.plugins.clear();
  options.session.chat_template.clear();
  entries_.push_back({std::move(options), {}, keep_alive_, keep_alive_, nullptr, nullptr, false});
}

void Models::copy(const std::string& name, const std::string& another) {
  const std::lock_guard lock(mutex_);
  if (is_taken(another)) refuse_taken(another);
  add_copy(name, another, nullptr);
}

void Models::create(const std::string& name, const std::string& another,
                    std::shared_ptr<const ModelDefaults> defaults) {
  const std::lock_guard lock(mutex_);
  for (const Entry& entry : entries_) {
    if (same_model(entry.options.id, another)) refuse_taken(another);
  }
  add_copy(name, another, std::move(defaults));
}

// With the lock held. A copy of that name goes once all is well.
void Models::add_copy(const std::string& name, const std::string& another,
                      std::shared_ptr<const ModelDefaults> defaults) {
  constexpr std::size_t kMostNames = 100, kLongestName = 256;
  Entry& entry = find(name);
  if (another.empty() || another.size() > kLongestName || another.find('\n') != std::string::npos)
    throw Refusal({400, "a model's name has 1 to 256 characters, in one line"});
  if (entry.copies.size() >= kMostNames)
    throw Refusal({400, fmt::format("model '{}' has {} names already", name, kMostNames)});
  const Copy* copied = find_copy(entry, name);
  if (defaults == nullptr && copied != nullptr) defaults = copied->defaults;
  for (Entry& e : entries_) remove_copy(e, another);
  entry.copies.push_back({another, std::move(defaults), nullptr, nullptr});
}

bool Models::remove_copy(Entry& entry, const std::string& name) {
  return std::erase_if(entry.copies,
                       [&](const Copy& copy) { return same_model(copy.name, name); }) > 0;
}

void Models::remove(const std::string& name) {
  const std::lock_guard lock(mutex_);
  Entry& entry = find(name);
  if (remove_copy(entry, name)) return;
  if (&entry == &entries_.front())
    throw Refusal({400, "the first model stays: the server was started with it"});
  if (entry.model != nullptr && entry.model->in_use())
    throw Refusal({409, fmt::format("model '{}' is in use", name)});
  if (entry.model != nullptr) dismiss(entry);
  entries_.erase(entries_.begin() + (&entry - entries_.data()));
}

// Takes a model out; it is closed without the lock.
void Models::dismiss(Entry& entry) {
  if (entry.model->state() == ServedModel::State::kOpen) entry.facts = entry.model->shared_facts();
  leaving_.push_back(std::exchange(entry.model, nullptr));
  changed_.notify_all();
}

// Dismisses the model that has been idle longest, if there is one; with `any_age` even if it may
// still stay. Leases are given with the lock held: what nobody uses now nobody will.
bool Models::dismiss_idle(const Entry* except, bool any_age) {
  const auto now = ServedModel::Clock::now();
  Entry* oldest = nullptr;
  for (Entry& e : entries_) {
    if (&e == except || e.model == nullptr || e.model->in_use() ||
        e.model->state() == ServedModel::State::kOpening) {
      continue;
    }
    const auto last = e.model->last_used();
    const bool expired = e.keep_alive != kForever && now - last >= e.keep_alive;
    if (!expired && !any_age) continue;
    if (oldest == nullptr || last < oldest->model->last_used()) oldest = &e;
  }
  if (oldest != nullptr) dismiss(*oldest);
  return oldest != nullptr;
}

void Models::reap() {
  std::unique_lock lock(mutex_);
  while (true) {
    while (dismiss_idle(nullptr, false)) {
    }
    if (!leaving_.empty()) {
      const std::shared_ptr<ServedModel> gone = leaving_.back();
      lock.unlock();
      gone->worker().close();
      lock.lock();
      std::erase(leaving_, gone);
      continue;
    }
    if (closing_) return;
    changed_.wait_for(lock, std::chrono::seconds(1),
                      [this] { return closing_ || !leaving_.empty(); });
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
