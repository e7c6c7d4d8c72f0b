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
  std::string model;                    // path, registry name, or config.json
  std::string format = "Q4_K_M";        // file type, with a config.json
  std::vector<std::string> given_gpus;  // "24GiB@1000GB/s"; with these or ram, not this machine's
  std::string ram;                      // "128GiB@100GB/s"; empty: what this machine has
  std::string link;                     // "25GB/s"
  std::string disk;
  std::string cpu_flops;
  bool remeasure = false;
  std::uint64_t held = 0;  // bytes of this machine that count as free, though this process has them
  /// What may be used of each of this machine's GPUs, found before this process took it; empty:
  /// look.
  std::vector<std::uint64_t> gpu_bytes;
};

struct PlannedModel {
  std::unique_ptr<io::WeightSource> source;
  placement::Machine machine;
  placement::Plan plan;
  std::string format;                 // file type planned for; empty: the file's own
  std::vector<std::string> warnings;  // of the rule file and the flags
  bool gpus_measured = false;         // there are GPUs, and their rates were measured
  std::string gpu_notes;  // for people, lines: GPUs of this machine left out, or why there is none
};

/// Plans for the GPUs of this machine, with measured rates, unless a machine is given by hand.
/// Throws as placement::plan, read_rules and find_gpus; kUsage for flags that are no amounts or
/// rates.
PlannedModel plan_model(const PlanRequest& request);

}  // namespace kt::session
