// Cores, memory and limits of this machine as this process may use them: the affinity mask and the
// cgroup limits count, not only what the hardware has. Thread rule: pure reads of /proc and /sys.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace kt {

struct Topology {
  std::vector<int>
      cores;          // one logical CPU per physical core allowed to this process, in NUMA order
  int n_logical = 0;  // logical CPUs allowed
  int n_nodes = 1;    // NUMA nodes with allowed CPUs
  double cpu_quota = 0.0;              // cgroup CPU limit in cores; 0: none
  std::uint64_t cache_bytes = 0;       // last-level caches of the allowed CPUs, summed; 0: unknown
  std::uint64_t memory_total = 0;      // bytes
  std::uint64_t memory_available = 0;  // bytes: MemAvailable, not above the cgroup's free part
};

Topology detect_topology();

/// Threads to use when the user names none: the physical cores, not above the cgroup quota.
int default_threads(const Topology& topology);

}  // namespace kt
