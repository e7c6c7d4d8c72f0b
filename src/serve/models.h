// The models that a server has, by name: opened when asked for, closed again when nobody did for a
// while or another needs the memory. A model may have several names.
//
//   get(name) → open: a lease; else begins to open it, throws Loading → when_opened → get again
//
// A model that has to go is closed by a thread of its own or by the one that opens the next.
// Thread rule: any thread.
#pragma once
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "serve/named_model.h"
#include "serve/problem.h"

namespace kt::serve {

/// Whether two names mean the same model: of any case, ":latest" or not.
bool same_model(std::string_view a, std::string_view b);

/// Thrown while a model is being opened for the request.
class Loading : public Refusal {
 public:
  Loading(Problem problem, std::shared_ptr<ServedModel> model)
      : Refusal(std::move(problem)), model_(std::move(model)) {}
  /// A lease: whoever waits for the model keeps it open.
  const std::shared_ptr<ServedModel>& model() const { return model_; }

 private:
  std::shared_ptr<ServedModel> model_;
};

class Models {
 public:
  using Duration = std::chrono::milliseconds;
  static constexpr Duration kForever = Duration::max();

  /// The first is opened now, and stays; others stay so long after their last request.
  Models(std::vector<ModelOptions> options, Duration keep_alive);
  ~Models();
  Models(const Models&) = delete;
  Models& operator=(const Models&) = delete;

  /// The model of this name (same_model), the first for an empty one, which stays open as long as
  /// its lease does. Throws a Refusal (404) that lists the names, Loading, a Refusal (503) while
  /// the server begins or stops, and what opening threw.
  NamedModel get(const std::string& name);
  /// The same without opening it or keeping it open; null when it is closed.
  std::shared_ptr<ServedModel> peek(const std::string& name) const;
  /// How long it stays after its last request, until it is opened anew; 0: it goes as soon as it
  /// has nothing to do. The first stays all the same.
  void keep(const std::string& name, Duration keep_alive);

  struct State {
    std::string id, path;
    std::shared_ptr<ServedModel> model;           // null: closed; it is not kept open by this
    std::chrono::system_clock::time_point until;  // when it is to go; max(): never
    bool is(ServedModel::State wanted) const {
      return model != nullptr && model->state() == wanted;
    }
  };
  std::vector<State> list() const;
  State state(const std::string& name) const;
  /// What get() knows of a model that may be closed, too: from when it was open, or the headers of
  /// its files. Not to read replies by. Throws as get and as ServedModel::facts.
  std::shared_ptr<const ModelFacts> facts(const std::string& name);
  /// Serves a file or folder too, with the options of the first model but for those of its own
  /// (rules, template). Nothing when a model of this name is here.
  void add(const std::string& name, const std::string& path);
  /// Serves a model under another name too, with the same defaults. Throws a Refusal: 404, 400 for
  /// a name that is taken.
  void copy(const std::string& name, const std::string& another);
  /// The same with other defaults, unless they are null; a copy of that name gives way.
  void create(const std::string& name, const std::string& another,
              std::shared_ptr<const ModelDefaults> defaults);
  /// Takes a name away, and with its own name the model; files stay. Throws a Refusal: 404, 400 for
  /// the first model, 409 while it is in use.
  void remove(const std::string& name);
  /// Closes all of them; requests in progress end.
  void close();

 private:
  // A further name.
  struct Copy {
    std::string name;
    std::shared_ptr<const ModelDefaults> defaults;  // null: the model's own
    // The model's facts when it was last open, and what became of them under this name.
    std::shared_ptr<const ModelFacts> base, facts;
  };
  struct Entry {
    ModelOptions options;
    std::vector<Copy> copies;
    Duration default_keep_alive = kForever, keep_alive = kForever;
    std::shared_ptr<ServedModel> model;       // null: closed
    std::shared_ptr<const ModelFacts> facts;  // from when it was open
    bool on_demand = false;  // requests wait for it; else they are told to come again
  };
  const Entry& find(const std::string& name) const;
  Entry& find(const std::string& name);
  static const Copy* find_copy(const Entry& entry, std::string_view name);
  static Copy* find_copy(Entry& entry, std::string_view name);
  static std::shared_ptr<const ModelFacts> facts_of(ServedModel& model, Copy* copy);
  void add_copy(const std::string& name, const std::string& another,
                std::shared_ptr<const ModelDefaults> defaults);
  static bool remove_copy(Entry& entry, const std::string& name);
  void open(Entry& entry);
  void dismiss(Entry& entry);
  bool dismiss_idle(const Entry* except, bool any_age);
  State state_of(const Entry& entry, const std::string& name) const;
  static bool has_name(const Entry& entry, std::string_view name);
  bool is_taken(std::string_view name) const;
  void reap();
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  const Duration keep_alive_;
  std::vector<Entry> entries_;
  std::vector<std::shared_ptr<ServedModel>> leaving_;  // to be closed
  bool closing_ = false;
  std::thread reaper_;
};

}  // namespace kt::serve
