#include "compute.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "base/error.h"
#include "base/topology.h"
#include "module.h"
#include "session/nodes.h"

namespace kt::python {

namespace nb = nanobind;

namespace {

constexpr std::size_t kKeptArena = std::size_t{256} << 20;

backend::CpuPlace place_for(int n_threads, const std::vector<int>& nodes) {
  Topology topology = detect_topology();
  if (!nodes.empty()) {
    std::vector<NumaNode> chosen;
    topology.cores.clear();
    for (const int id : nodes) {
      const auto node = std::find_if(topology.nodes.begin(), topology.nodes.end(),
                                     [&](const NumaNode& n) { return n.id == id; });
      if (node == topology.nodes.end()) {
        fail(ErrorCode::kUsage, "nodes", "NUMA node {} is not one of the {} of this machine", id,
             topology.nodes.size());
      }
      chosen.push_back(*node);
      topology.cores.insert(topology.cores.end(), node->cores.begin(), node->cores.end());
    }
    topology.nodes = std::move(chosen);
  }
  constexpr int kMaxThreads = 1024;
  if (n_threads < 0 || n_threads > kMaxThreads) {
    fail(ErrorCode::kUsage, "threads", "{} threads: 1 to {} are possible", n_threads, kMaxThreads);
  }
  const int n = n_threads > 0 ? n_threads : default_threads(topology);
  return session::plan_nodes(topology, n, 0).place;
}

}  // namespace

Compute::Compute(int n_threads, const std::vector<int>& nodes)
    : cpu_(place_for(n_threads, nodes), detect_caps(), backend::ActPolicy::kQ16) {}

Compute::Lock::Lock(Compute& compute, backend::ActPolicy act)
    : compute_(compute), guard_(compute.mutex_) {
  compute.cpu_.act = act;
  compute.cpu_.batch_kernels = backend::batch_kernels(compute.cpu_.caps, act);
  compute.arena_.reset();
}

Compute::Lock::~Lock() {
  if (compute_.arena_.capacity() > kKeptArena) compute_.arena_ = {};
}

void add_compute(nb::module_& m) {
  nb::class_<Compute>(m, "Compute", nb::is_weak_referenceable(),
                      "Threads of one process for the ops; see ktransformers.ops.")
      .def(nb::init<int, const std::vector<int>&>(), nb::arg("threads"), nb::arg("nodes"))
      .def_prop_ro("threads", &Compute::n_threads)
      .def_prop_ro("nodes", &Compute::n_nodes)
      .def_prop_ro("isa", [](const Compute& c) { return describe_caps(c.caps()); });
  m.def("numa_nodes", [] {
    std::vector<int> ids;
    for (const NumaNode& node : detect_topology().nodes) ids.push_back(node.id);
    return ids;
  });
}

}  // namespace kt::python
