// Cores, NUMA nodes, memory and limits of this machine as this process may use them: the affinity
// masks of its threads and the cgroup limits count, not only what the hardware has. Thread rule:
// pure reads of /proc and /sys.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace kt {

/// A NUMA node whose memory this process may use, with the CPUs that are nearest to it.
struct NumaNode {
  int id = 0;                          // the system's number
  std::vector<int> cores;              // one logical CPU per physical core; at least one
  std::uint64_t memory_total = 0;      // bytes
  std::uint64_t memory_available = 0;  // bytes: free, or file cache that can go
};

struct Topology {
  std::vector<int> cores;         // one logical CPU per physical core allowed to this process, in
                                  // NUMA order
  int n_logical = 0;              // logical CPUs allowed
  std::vector<NumaNode> nodes;    // at least one; CPUs of a node whose memory is not allowed belong
                                  // to the nearest one
  double cpu_quota = 0.0;         // cgroup CPU limit in cores; 0: none
  std::uint64_t cache_bytes = 0;  // last-level caches of the allowed CPUs, summed; 0: unknown
  std::uint64_t memory_total = 0;      // bytes
  std::uint64_t memory_available = 0;  // bytes: MemAvailable, not above the cgroup's free part
};

Topology detect_topology();

/// The same from a copy of /proc and /sys below `root` ("" is this machine's own), for a process
/// that may run on `cpus`.
Topology read_topology(const std::string& root, const std::vector<int>& cpus);

/// The machine as if it had n_nodes NUMA nodes: each gets a run of the cores and an even part of
/// the memory (fewer cores than nodes are shared). To try what many nodes do, not how fast.
Topology emulate_nodes(Topology topology, int n_nodes);

/// Threads to use when the user names none: the physical cores, not above the cgroup quota.
int default_threads(const Topology& topology);

/// Threads that work on one NUMA node.
struct WorkerGroup {
  int node = 0;            // the system's number
  int n_workers = 0;       // at least one
  std::vector<int> cores;  // worker i runs on cores[i]; on any of them when there are too few
};

/// n_threads >= 1 threads dealt out to the nodes in proportion to their cores. Nodes that get none
/// are left out; more than kMaxNodes nodes count as one.
std::vector<WorkerGroup> spread_workers(const Topology& topology, int n_threads);
inline constexpr std::size_t kMaxNodes = 64;

}  // namespace kt
