// What each module of a tree takes: weight matrices in the form its operator keeps them, bytes on
// its device, and the memory of a step. Everything comes from headers; nothing is read or
// allocated.
//
//   bytes = Σ packed matrices (as the CPU packs them; file blocks on a GPU) + vectors as floats
//
// Thread rule: pure.
#pragma once
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "io/weight_source.h"
#include "operators/kinds.h"
#include "operators/placement.h"

namespace kt::placement {

/// Classes of bytes, as the plan prints them.
enum class Part { kAttention, kShared, kDense, kExperts, kOther, kEmbedding, kHead };
inline constexpr int kParts = 7;
std::string_view part_name(Part part);

struct ModuleCost {
  std::string path;
  std::string_view kind;
  std::string op;
  std::string device;  // that holds and computes it; of an embedding always the CPU
  std::string reason;
  std::string format;  // for people: "Q4_K+Q6_K"
  Part part = Part::kOther;
  std::int64_t layer = -1;  // -1: outside the layers
  operators::Kept kept;
  std::uint64_t bytes = 0;  // on its device
  /// What its prefill operator keeps instead while layer-wise prefill is in its layer; empty: it
  /// has none.
  std::string prefill_device;
  std::uint64_t prefill_bytes = 0;
  std::optional<int> block_gpu;   // of experts on the CPU: the GPU that their block is on
  std::optional<int> streams_to;  // the same, if it may compute some of them
  /// Whether steps of many rows may send them there.
  operators::StreamExperts streams = operators::StreamExperts::kOff;
  std::int64_t n_on_gpu = 0;  // experts that are there too
};

/// How the CPU packs.
struct Packing {
  CpuCaps caps = 0;
  backend::ActPolicy act = backend::ActPolicy::kQ16;
  int n_threads = 1;
  bool gpus = false;  // GPUs exist: weights on them keep their blocks; else the CPU stands in
};

/// Whether a module's device is the CPU, or a GPU that the CPU stands in for.
bool on_cpu(const std::string& device, const Packing& packing);

/// Memory that `bytes` of one weight buffer take when huge pages serve it.
std::uint64_t resident_bytes(std::uint64_t bytes);

/// Modules that own weights, in tree order. Throws kMismatch for missing tensors and wrong shapes.
std::vector<ModuleCost> footprint(operators::Model& model, const operators::Placement& placement,
                                  const io::WeightSource& source, const Packing& packing);

/// The GPUs that modules of a model are on, or come to for long prompts; none of emulated ones.
std::set<int> gpus_in_use(operators::Model& model, const operators::Placement& placement);

/// What a device takes more while layer-wise prefill is in the layer where that is most: the
/// prefill operators hold weights there. Others were dropped before, or wait on their own device.
std::uint64_t prefill_growth(const std::vector<ModuleCost>& modules, const Packing& packing,
                             const std::string& device);

/// The rows of a prompt that wait between layers of layer-wise prefill, in main memory; 0 when no
/// prompt in this context is long enough for it.
std::uint64_t waiting_rows_bytes(const io::ModelConfig& config,
                                 const operators::Placement& placement, std::int64_t context);

/// Bytes of what a module keeps on a device; an embedding on the CPU is not packed.
std::uint64_t bytes_on(const operators::Kept& kept, bool packed, const Packing& packing);

/// Whether a GPU can compute experts from the memory of the CPU.
bool can_stream(const ModuleCost& experts);

/// What a GPU of so many bytes takes more when experts of the CPU go to it, in steps of `chunk`
/// rows: streamed (operators/expert_stream.h), to stay there beside the slots of
/// operators/expert_cache.h, or both; 0: none can.
struct ExpertWays {
  bool streamed = false, cached = false;
};
std::uint64_t stream_bytes(const io::ModelConfig& config, const std::vector<ModuleCost>& modules,
                           std::int64_t chunk, std::uint64_t gpu_bytes, ExpertWays ways);

/// Bytes of n of a layer's experts on a GPU.
std::uint64_t expert_bytes_on_gpu(const ModuleCost& experts, std::int64_t n_experts,
                                  std::int64_t n);

/// Temporaries of one step of `chunk` rows.
std::uint64_t workspace_bytes(const io::ModelConfig& config, const std::vector<ModuleCost>& modules,
                              std::int64_t chunk, const Packing& packing);

}  // namespace kt::placement
