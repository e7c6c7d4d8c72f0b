// Where threads and weights go on a machine of several NUMA nodes: weights are divided over the
// nodes in proportion to their threads, one copy in all; page by page over all nodes when some
// node's memory cannot hold its part. One node: nothing of this. Thread rule: pure.
#pragma once
#include <cstdint>
#include <string>

#include "backend/cpu/cpu.h"
#include "base/topology.h"
#include "placement/planner.h"

namespace kt::session {

/// Bytes of the plan that lie on the nodes: packed weights, not the embedding, which stays in the
/// mapped file.
std::uint64_t node_bytes(const placement::Plan& plan);

struct NodePlan {
  backend::CpuPlace place;
  std::string summary;  // a line for people; empty on one node
};
/// For weights of `bytes` in all and n_threads threads.
NodePlan plan_nodes(const Topology& topology, int n_threads, std::uint64_t bytes);

/// A line for people when the system refused what `cpu` asked for its weights, else empty.
std::string describe_refusal(const backend::Cpu& cpu);

}  // namespace kt::session
