// What runs where, decided by rules or the planner before anything is built: path → operator class,
// devices, keyword arguments, and why. The rule reader, the planner and tests make Placements; the
// Builder reads them.
//
// Devices are written as rules write them: "cpu", "cuda:0". Thread rule: a value.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace kt::operators {

/// The devices a placement may name.
struct Devices {
  int n_gpus = 0;
  /// The GPUs do not exist: the CPU computes what is placed on them, with the same operators (to
  /// try a rule file without the hardware).
  bool emulated = false;
};

/// A keyword argument of a rule: None, a flag, a number, text, or {layer: device}.
using Value = std::variant<std::monostate, bool, std::int64_t, double, std::string,
                           std::map<std::int64_t, std::string>>;
using Kwargs = std::map<std::string, Value, std::less<>>;

/// Whether weights of experts that are in host memory go to the GPU of their layer when a step has
/// many rows: where that is faster, always, or never.
enum class StreamExperts { kAuto, kOn, kOff };

/// Whether some experts of the CPU are in GPU memory too, and change by use (expert_cache.h).
enum class ExpertCacheMode { kAuto, kFixed, kOff };

class Catalogue;

struct Placement {
  /// Everything on the CPU with the default operators that ship.
  Placement();
  /// The same with operators of plug-ins.
  explicit Placement(std::shared_ptr<const Catalogue> operators);
  std::shared_ptr<const Catalogue> catalogue;  // the operators that entries name
  struct Entry {
    std::string op;  // operator that runs (a row of operators.inc); empty: the kind's default
    std::string device = "cpu";
    std::string reason;
    std::string rule_class;  // class as the rule wrote it, without package; empty: no rule chose it
    std::string prefill_op;  // operator while layer-wise prefill runs; empty: as op
    std::string prefill_device;
    Kwargs kwargs;
  };
  std::map<std::string, Entry, std::less<>> entries;
  Entry default_entry;
  Devices devices;
  std::int64_t layer_wise_threshold = 0;  // prompts longer than this run layer by layer; 0: none
  StreamExperts stream_experts = StreamExperts::kAuto;
  ExpertCacheMode expert_cache = ExpertCacheMode::kAuto;
  const Entry& at(std::string_view path) const {
    const auto it = entries.find(path);
    return it == entries.end() ? default_entry : it->second;
  }
};

/// "cuda:0" → "cuda"; "cpu" → "cpu".
std::string_view device_type(std::string_view device);
/// "cuda:3" → 3, "cuda" → 0; nothing for other devices.
std::optional<int> gpu_index(std::string_view device);
/// 3 → "cuda:3".
std::string gpu_name(int index);

}  // namespace kt::operators
