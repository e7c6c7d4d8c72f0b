#include "base/topology.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <set>
#include <sstream>
#include <tuple>

namespace kt {
namespace {

// First number in a small /sys or /proc file, or `fallback`.
long long read_number(const std::string& path, long long fallback) {
  std::ifstream in(path);
  long long value = fallback;
  return in >> value ? value : fallback;
}

std::uint64_t meminfo(const std::string& key) {
  std::ifstream in("/proc/meminfo");
  std::string name;
  std::uint64_t kib = 0;
  std::string line;
  while (std::getline(in, line)) {
    std::istringstream fields(line);
    if (fields >> name >> kib && name == key + ":") return kib << 10;
  }
  return 0;
}

// This process's cgroup v2 folder, or the root.
std::string cgroup_dir() {
  std::ifstream in("/proc/self/cgroup");
  std::string line;
  while (std::getline(in, line)) {
    if (line.rfind("0::", 0) == 0) return "/sys/fs/cgroup" + line.substr(3);
  }
  return "/sys/fs/cgroup";
}

int node_of(int cpu) {
  for (int node = 0; node < 64; ++node) {
    const std::string dir = "/sys/devices/system/node/node" + std::to_string(node);
    if (std::ifstream(dir + "/cpu" + std::to_string(cpu) + "/online") ||
        std::ifstream(dir + "/cpu" + std::to_string(cpu) + "/topology/core_id")) {
      return node;
    }
  }
  return 0;
}

// Size and sharers of the last cache level of a CPU, as sysfs writes them: {"32768K", "0-7"}.
std::pair<std::uint64_t, std::string> last_cache(int cpu) {
  const std::string dir = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cache/index";
  for (int index = 3; index >= 2; --index) {
    std::ifstream size(dir + std::to_string(index) + "/size");
    std::ifstream sharers(dir + std::to_string(index) + "/shared_cpu_list");
    std::uint64_t kib = 0;
    std::string list;
    if (size >> kib && sharers >> list) return {kib << 10, list};
  }
  return {};
}

}  // namespace

Topology detect_topology() {
  Topology t;
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof allowed, &allowed);
  std::set<std::pair<long long, long long>> seen_cores;
  std::set<int> nodes;
  std::set<std::string> seen_caches;
  std::vector<std::pair<int, int>> cores;  // (node, cpu)
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(static_cast<std::size_t>(cpu), &allowed)) continue;
    ++t.n_logical;
    const auto [cache_bytes, sharers] = last_cache(cpu);
    if (cache_bytes != 0 && seen_caches.insert(sharers).second) t.cache_bytes += cache_bytes;
    const std::string dir = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    const long long package = read_number(dir + "physical_package_id", 0);
    const long long core = read_number(dir + "core_id", cpu);
    if (!seen_cores.insert({package, core}).second) continue;
    const int node = node_of(cpu);
    nodes.insert(node);
    cores.emplace_back(node, cpu);
  }
  std::sort(cores.begin(), cores.end());
  for (const auto& [node, cpu] : cores) t.cores.push_back(cpu);
  t.n_nodes = std::max<int>(1, static_cast<int>(nodes.size()));

  t.memory_total = meminfo("MemTotal");
  t.memory_available = meminfo("MemAvailable");
  const std::string cgroup = cgroup_dir();
  std::ifstream cpu_max(cgroup + "/cpu.max");
  double quota = 0, period = 0;
  if (cpu_max >> quota >> period && period > 0) t.cpu_quota = quota / period;
  const long long limit = read_number(cgroup + "/memory.max", -1);
  const long long used = read_number(cgroup + "/memory.current", 0);
  if (limit > 0) {
    const auto room = static_cast<std::uint64_t>(std::max(0LL, limit - used));
    t.memory_available = std::min(t.memory_available, room);
    t.memory_total = std::min(t.memory_total, static_cast<std::uint64_t>(limit));
  }
  return t;
}

int default_threads(const Topology& topology) {
  int n = std::max<int>(1, static_cast<int>(topology.cores.size()));
  if (topology.cpu_quota > 0) {
    n = std::min(n, std::max(1, static_cast<int>(std::floor(topology.cpu_quota))));
  }
  return n;
}

}  // namespace kt
