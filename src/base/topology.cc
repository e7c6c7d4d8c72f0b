#include "base/topology.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <tuple>

namespace kt {
namespace {

constexpr const char* kNodes = "/sys/devices/system/node/node";

// First number in a small /sys or /proc file, or `fallback`.
long long read_number(const std::string& path, long long fallback) {
  std::ifstream in(path);
  long long value = fallback;
  return in >> value ? value : fallback;
}

// The numbers of a list as the kernel writes them: "0-3,8".
std::vector<int> parse_list(const std::string& text) {
  std::vector<int> numbers;
  std::istringstream parts(text);
  std::string part;
  while (std::getline(parts, part, ',')) {
    int first = 0, last = 0;
    const int n = std::sscanf(part.c_str(), "%d-%d", &first, &last);
    if (n == 1) last = first;
    constexpr int kLargest = 1 << 16;
    for (int i = first; n >= 1 && i <= last && i < kLargest; ++i) numbers.push_back(i);
  }
  return numbers;
}

std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

// Bytes of a field of a file like /proc/meminfo, whose lines may begin with "Node 0".
std::uint64_t meminfo(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  std::string line;
  while (std::getline(in, line)) {
    const std::size_t at = line.find(key + ":");
    if (at == std::string::npos || (at != 0 && line[at - 1] != ' ')) continue;
    return std::strtoull(line.c_str() + at + key.size() + 1, nullptr, 10) << 10;
  }
  return 0;
}

// A list among the fields of /proc/…/status.
std::vector<int> status_list(const std::string& path, const std::string& key) {
  std::ifstream in(path);
  std::string line;
  while (std::getline(in, line)) {
    if (line.rfind(key + ":", 0) == 0) return parse_list(line.substr(key.size() + 1));
  }
  return {};
}

// CPUs that some thread of this process may use: pinned workers narrow only their own mask.
std::vector<int> allowed_cpus() {
  cpu_set_t all;
  CPU_ZERO(&all);
  std::error_code ignored;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task", ignored)) {
    cpu_set_t some;
    CPU_ZERO(&some);
    if (sched_getaffinity(std::atoi(task.path().filename().c_str()), sizeof some, &some) == 0) {
      CPU_OR(&all, &all, &some);
    }
  }
  if (CPU_COUNT(&all) == 0) sched_getaffinity(0, sizeof all, &all);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(static_cast<std::size_t>(cpu), &all)) cpus.push_back(cpu);
  }
  return cpus;
}

// This process's cgroup v2 folder, or the root.
std::string cgroup_dir(const std::string& root) {
  std::ifstream in(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(in, line)) {
    if (line.rfind("0::", 0) == 0) return root + "/sys/fs/cgroup" + line.substr(3);
  }
  return root + "/sys/fs/cgroup";
}

// Node of every CPU; a CPU whose node's memory this process may not use, or that has none, goes to
// the nearest node with memory. Empty: the system knows no nodes.
std::map<int, int> node_of_cpus(const std::string& root) {
  const std::vector<int> mems = status_list(root + "/proc/self/status", "Mems_allowed_list");
  std::vector<int> online = parse_list(first_line(root + "/sys/devices/system/node/online"));
  std::vector<int> usable;
  for (const int node : online) {
    const std::string dir = root + kNodes + std::to_string(node);
    const bool allowed = mems.empty() || std::find(mems.begin(), mems.end(), node) != mems.end();
    if (allowed && meminfo(dir + "/meminfo", "MemTotal") > 0) usable.push_back(node);
  }
  std::map<int, int> nodes;
  for (const int node : usable.empty() ? std::vector<int>{} : online) {
    const std::string dir = root + kNodes + std::to_string(node);
    std::istringstream line(first_line(dir + "/distance"));  // one number per online node
    std::map<int, long> distance;
    for (const int other : online) {
      long d = other == node ? 10 : 20;
      line >> d;
      distance[other] = other == node ? 0 : d;
    }
    const int nearest = *std::min_element(usable.begin(), usable.end(),
                                          [&](int a, int b) { return distance[a] < distance[b]; });
    for (const int cpu : parse_list(first_line(dir + "/cpulist"))) nodes[cpu] = nearest;
  }
  return nodes;
}

// Size and sharers of the last cache level of a CPU, as sysfs writes them: {"32768K", "0-7"}.
std::pair<std::uint64_t, std::string> last_cache(const std::string& cpu_dir) {
  for (int index = 3; index >= 2; --index) {
    const std::string dir = cpu_dir + "/cache/index" + std::to_string(index);
    std::ifstream size(dir + "/size");
    std::ifstream sharers(dir + "/shared_cpu_list");
    std::uint64_t kib = 0;
    std::string list;
    if (size >> kib && sharers >> list) return {kib << 10, list};
  }
  return {};
}

void read_memory(const std::string& root, Topology& t) {
  const std::string all = root + "/proc/meminfo";
  t.memory_total = meminfo(all, "MemTotal");
  t.memory_available = meminfo(all, "MemAvailable");
  const std::string cgroup = cgroup_dir(root);
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
  for (NumaNode& node : t.nodes) {
    const std::string path = root + kNodes + std::to_string(node.id) + "/meminfo";
    node.memory_total = meminfo(path, "MemTotal");
    node.memory_available =
        meminfo(path, "MemFree") + meminfo(path, "Active(file)") + meminfo(path, "Inactive(file)");
    if (node.memory_total == 0 || t.nodes.size() == 1) node.memory_total = t.memory_total;
    if (node.memory_available == 0 || t.nodes.size() == 1) {
      node.memory_available = t.memory_available;
    }
    node.memory_available = std::min(node.memory_available, t.memory_available);
  }
}

}  // namespace

Topology detect_topology() { return read_topology("", allowed_cpus()); }

Topology read_topology(const std::string& root, const std::vector<int>& cpus) {
  Topology t;
  std::set<std::pair<long long, long long>> seen_cores;
  std::set<std::string> seen_caches;
  std::map<int, int> nodes = node_of_cpus(root);
  std::map<int, std::vector<int>> cores;  // by node
  for (const int cpu : cpus) {
    ++t.n_logical;
    const std::string dir = root + "/sys/devices/system/cpu/cpu" + std::to_string(cpu);
    const auto [cache_bytes, sharers] = last_cache(dir);
    if (cache_bytes != 0 && seen_caches.insert(sharers).second) t.cache_bytes += cache_bytes;
    const long long package = read_number(dir + "/topology/physical_package_id", 0);
    const long long core = read_number(dir + "/topology/core_id", cpu);
    if (seen_cores.insert({package, core}).second) cores[nodes[cpu]].push_back(cpu);
  }
  for (auto& [node, list] : cores) {
    t.cores.insert(t.cores.end(), list.begin(), list.end());
    t.nodes.push_back({node, std::move(list)});
  }
  if (t.nodes.empty()) t.nodes.push_back({});
  read_memory(root, t);
  return t;
}

Topology emulate_nodes(Topology t, int n_nodes) {
  const auto n = static_cast<std::size_t>(n_nodes);
  const std::size_t n_cores = t.cores.size();
  std::vector<NumaNode> nodes(n);
  for (std::size_t i = 0; i < n; ++i) {
    nodes[i].id = t.nodes.front().id;
    const std::size_t begin = n_cores * i / n;
    const std::size_t end = std::max(n_cores * (i + 1) / n, std::min(begin + 1, n_cores));
    for (std::size_t c = begin; c < end; ++c) nodes[i].cores.push_back(t.cores[c]);
    nodes[i].memory_total = t.memory_total / n;
    nodes[i].memory_available = t.memory_available / n;
  }
  t.nodes = std::move(nodes);
  return t;
}

int default_threads(const Topology& topology) {
  int n = std::max<int>(1, static_cast<int>(topology.cores.size()));
  if (topology.cpu_quota > 0) {
    n = std::min(n, std::max(1, static_cast<int>(std::floor(topology.cpu_quota))));
  }
  return n;
}

std::vector<WorkerGroup> spread_workers(const Topology& topology, int n_threads) {
  const auto& nodes = topology.nodes;
  if (nodes.size() < 2 || nodes.size() > kMaxNodes) {
    return {{nodes.empty() ? 0 : nodes.front().id, n_threads, topology.cores}};
  }
  std::int64_t n_cores = 0, cores_before = 0;
  for (const NumaNode& node : nodes) n_cores += static_cast<std::int64_t>(node.cores.size());
  std::vector<WorkerGroup> groups;
  int given = 0;
  for (const NumaNode& node : nodes) {
    cores_before += static_cast<std::int64_t>(node.cores.size());
    const auto until =
        static_cast<int>((2 * n_threads * cores_before + n_cores) / (2 * n_cores));  // rounded
    if (until > given) groups.push_back({node.id, until - given, node.cores});
    given = until;
  }
  return groups;
}

}  // namespace kt
