// What this machine's CPU does, measured in about half a second per weight format and width and
// kept in a file of the user's cache folder, so that the next plan starts at once:
//
//   $XDG_CACHE_HOME/ktransformers/profile.json, or ~/.cache/ktransformers/profile.json
//
// The key is the CPU's name, the instruction sets, the threads and the activation type. Products
// are timed on weights that no cache holds. Thread rule: one thread; the work is parallel inside.
#pragma once
#include <set>
#include <string>
#include <utility>

#include "backend/cpu/cpu.h"
#include "base/topology.h"
#include "placement/machine.h"

namespace kt::session {

/// What a plan wants to know.
struct ProfileNeeds {
  std::set<std::pair<placement::WeightKind, std::int64_t>> weights;  // of CPU products, and widths
  std::int64_t dim_qk = 128;                                         // of attention
  std::int64_t dim_v = 128;
  std::int64_t heads_per_kv = 1;  // query heads that share a cache row
  formats::Format kv_format = formats::Format::kF16;
};

/// The rates, from the cache where it has them; the others are measured and added to it. A cache
/// that cannot be read counts as empty, one that cannot be written is left alone. `refresh`
/// measures all.
placement::CpuRates cpu_profile(backend::Cpu& cpu, const Topology& topology,
                                const ProfileNeeds& needs, bool refresh);

/// Path of the cache file; empty when the user has no cache folder.
std::string profile_path();

}  // namespace kt::session
