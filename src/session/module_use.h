// Which modules a model is made of, what runs each, and how the time of the last minute was divided
// among them, as long as somebody looks.
//
//   before a step: trace() → Engine::set_trace; after it: add() → shares()
//
// Thread rule: one thread.
#pragma once
#include <chrono>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "operators/trace.h"
#include "placement/explain.h"

namespace kt::session {

struct ModuleUse {
  placement::ExplainRow row;
  double share = -1.0;  // of the time of the steps, modules below included; -1: not known
};

class ModuleMeter {
 public:
  explicit ModuleMeter(std::vector<placement::ExplainRow> rows);
  /// Where a step's zones go.
  operators::Trace* trace() { return &trace_; }
  /// Takes the zones of a step that took so long.
  void add(double seconds);
  /// Every module, with what the last minute's steps say.
  std::vector<ModuleUse> modules() const;

 private:
  struct Step {
    std::chrono::steady_clock::time_point when;
    double seconds = 0.0;
    std::vector<float> modules;  // seconds of each row
  };
  std::vector<placement::ExplainRow> rows_;
  std::unordered_map<std::string, std::size_t> index_;  // of rows, by path
  operators::Trace trace_;
  std::deque<Step> steps_;
};

}  // namespace kt::session
