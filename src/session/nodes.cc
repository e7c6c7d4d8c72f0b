#include "session/nodes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/bytes.h"

namespace kt::session {
namespace {

// The first group whose node cannot hold its part and some of the rest, as "node 1 has …"; empty:
// all can.
std::string shortage(const Topology& topology, const backend::CpuPlace& place, int n_threads,
                     std::uint64_t bytes) {
  const std::uint64_t margin = placement::kRamMargin / place.workers.size();
  for (const WorkerGroup& group : place.workers) {
    const auto node = std::find_if(topology.nodes.begin(), topology.nodes.end(),
                                   [&](const NumaNode& n) { return n.id == group.node; });
    const auto part = static_cast<std::uint64_t>(static_cast<double>(bytes) * group.n_workers /
                                                 static_cast<double>(n_threads));
    if (part + margin <= node->memory_available) continue;
    return fmt::format("node {} has {} available, its part with {} of {} threads is {}", node->id,
                       human_bytes(node->memory_available), group.n_workers, n_threads,
                       human_bytes(part));
  }
  return {};
}

// All workers as one group, on the cores that they had.
void interleave(const Topology& topology, backend::CpuPlace& place) {
  WorkerGroup all;
  for (const WorkerGroup& group : place.workers) {
    const std::size_t n = std::min(group.cores.size(), static_cast<std::size_t>(group.n_workers));
    all.n_workers += group.n_workers;
    all.cores.insert(all.cores.end(), group.cores.begin(),
                     group.cores.begin() + static_cast<std::ptrdiff_t>(n));
  }
  for (const NumaNode& node : topology.nodes) place.interleave.push_back(node.id);
  place.workers = {all};
}

}  // namespace

std::uint64_t node_bytes(const placement::Plan& plan) {
  std::uint64_t bytes = 0;
  for (const placement::ModuleCost& m : plan.modules) {
    if (m.part != placement::Part::kEmbedding) bytes += m.bytes;
  }
  return bytes;
}

NodePlan plan_nodes(const Topology& topology, int n_threads, std::uint64_t bytes) {
  NodePlan plan;
  backend::CpuPlace& place = plan.place;
  place.workers = spread_workers(topology, n_threads);
  if (place.workers.size() < 2) return plan;
  const std::string short_of = shortage(topology, place, n_threads, bytes);
  if (!short_of.empty()) {
    interleave(topology, place);
    plan.summary = fmt::format(
        "weights dealt out page by page over {} NUMA nodes, which is slower than a part for each: "
        "{}; free memory there, or take a smaller format",
        place.interleave.size(), short_of);
    return plan;
  }
  std::string threads;
  for (const WorkerGroup& group : place.workers)
    threads += fmt::format("{}{}", threads.empty() ? "" : " + ", group.n_workers);
  plan.summary = fmt::format("weights divided over {} NUMA nodes ({} threads), one copy",
                             place.workers.size(), threads);
  return plan;
}

std::string describe_refusal(const backend::Cpu& cpu) {
  if (cpu.binding_refused == 0) return {};
  return fmt::format(
      "memory was not bound to NUMA nodes ({}): pages lie on the node that wrote them first; in a "
      "container, allow mbind (CAP_SYS_NICE)",
      std::strerror(cpu.binding_refused));
}

}  // namespace kt::session
