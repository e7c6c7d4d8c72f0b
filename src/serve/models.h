// The models that a server has, by name: opened when asked for, closed again when nobody did for a
// while or another needs the memory.
//
//   get(name) → open already, or begins to open it → ServedModel (whose facts() tell when it is)
//
// Thread rule: any thread.
#pragma once
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "serve/served_model.h"

namespace kt::serve {

/// Whether two names mean the same model: of any case, ":latest" or not.
bool same_model(std::string_view a, std::string_view b);

class Models {
 public:
  using Duration = std::chrono::milliseconds;
  static constexpr Duration kForever = Duration::max();

  /// The first is opened now, and stays; others stay so long after their last request.
  Models(std::vector<ModelOptions> options, Duration keep_alive);
  ~Models();
  Models(const Models&) = delete;
  Models& operator=(const Models&) = delete;

  /// The model of this name (same_model), the first for an empty one. Throws a
  /// Refusal (404) that lists the names.
  std::shared_ptr<ServedModel> get(const std::string& name);
  /// The same without opening it; null when it is not open.
  std::shared_ptr<ServedModel> peek(const std::string& name);
  /// How long it stays after its last request, until it is opened anew; 0: it goes as soon as it
  /// has nothing to do. The first stays all the same.
  void keep(const std::string& name, Duration keep_alive);

  struct State {
    std::string id, path;
    std::shared_ptr<ServedModel> model;           // null: not open
    std::chrono::system_clock::time_point until;  // when it is to go; max(): never
  };
  std::vector<State> list() const;
  /// Closes all of them; requests in progress end.
  void close();

 private:
  struct Entry {
    ModelOptions options;
    Duration default_keep_alive, keep_alive;
    std::shared_ptr<ServedModel> model;
    std::chrono::steady_clock::time_point last_used;
    bool on_demand = false;  // opened by a request
  };
  Entry& find(const std::string& name);
  void open(Entry& entry);
  std::shared_ptr<ServedModel> take_idle(const Entry* except, bool any_age);
  void reap();
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Entry> entries_;
  bool closing_ = false;
  std::thread reaper_;
};

}  // namespace kt::serve
