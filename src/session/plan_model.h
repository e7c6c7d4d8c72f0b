// Plans a model without loading it: opens its headers (or a config.json, with the tensors a file
// type would have), describes the machine as given or found, and asks the planner. Thread rule: one
// thread.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "io/weight_source.h"
#include "session/placing.h"

namespace kt::session {

struct PlanRequest : RunOptions {
  std::string model;              // path, registry name, or config.json
  std::string format = "Q4_K_M";  // file type, with a config.json
  std::vector<std::string> gpus;  // "24GiB@1000GB/s"
  std::string ram;                // "128GiB@100GB/s"; empty: what this machine has
  std::string link;               // "25GB/s"
  std::string disk;
  std::string cpu_flops;
  bool remeasure = false;
  std::uint64_t held = 0;  // bytes of this machine that count as free, though this process has them
};

struct PlannedModel {
  std::unique_ptr<io::WeightSource> source;
  placement::Machine machine;
  placement::Plan plan;
  std::string format;                 // file type planned for; empty: the file's own
  std::vector<std::string> warnings;  // of the rule file
};

/// Throws as placement::plan and read_rules; kUsage for flags that are no amounts or rates.
PlannedModel plan_model(const PlanRequest& request);

}  // namespace kt::session
