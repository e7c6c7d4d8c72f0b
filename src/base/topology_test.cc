// Machines as copies of /sys and /proc, and threads dealt out over their nodes.
#include "base/topology.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <numeric>

namespace kt {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

// A machine with two logical CPUs per core, in a folder that is gone with it.
class FakeMachine {
 public:
  FakeMachine() : root_(testing::TempDir() + "kt-topology-XXXXXX") {
    if (::mkdtemp(root_.data()) == nullptr) throw std::runtime_error("no folder");
    write("/proc/meminfo", "MemTotal: 1048576 kB\nMemAvailable: 524288 kB\n");
    allow_memory("0-7");
  }
  ~FakeMachine() { std::filesystem::remove_all(root_); }
  void write(const std::string& path, const std::string& text) const {
    std::filesystem::create_directories(std::filesystem::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }
  void allow_memory(const std::string& list) const {
    write("/proc/self/status", "Name:\tkt\nMems_allowed_list:\t" + list + "\n");
  }
  void add_cpu(int cpu, int core) const {
    const std::string dir = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    write(dir + "physical_package_id", "0\n");
    write(dir + "core_id", std::to_string(core) + "\n");
  }
  void add_node(int id, const std::string& cpus, int mib, const std::string& distances) const {
    const std::string dir = "/sys/devices/system/node/node" + std::to_string(id) + "/";
    const std::string node = "Node " + std::to_string(id) + " ";
    const std::string part = std::to_string(mib * 1024 / 4) + " kB\n";
    write(dir + "cpulist", cpus + "\n");
    write(dir + "distance", distances + "\n");
    write(dir + "meminfo", node + "MemTotal:  " + std::to_string(mib * 1024) + " kB\n" + node +
                               "MemFree:  " + part + node + "Active(file):   " + part + node +
                               "Inactive(file): 0 kB\n");
  }
  // Four cores of two logical CPUs (c and c + 4), two per node.
  void two_nodes() const {
    for (int cpu = 0; cpu < 8; ++cpu) add_cpu(cpu, cpu % 4);
    write("/sys/devices/system/node/online", "0-1\n");
    add_node(0, "0-1,4-5", 512, "10 21");
    add_node(1, "2-3,6-7", 256, "21 10");
  }
  Topology read(const std::vector<int>& cpus) const { return read_topology(root_, cpus); }

 private:
  std::string root_;
};

const std::vector<int> kAll = {0, 1, 2, 3, 4, 5, 6, 7};

TEST(Topology, ReadsNodes) {
  const FakeMachine machine;
  machine.two_nodes();
  const Topology t = machine.read(kAll);
  EXPECT_EQ(t.n_logical, 8);
  EXPECT_EQ(t.cores, (std::vector<int>{0, 1, 2, 3}));
  ASSERT_EQ(t.nodes.size(), 2u);
  EXPECT_EQ(t.nodes[0].id, 0);
  EXPECT_EQ(t.nodes[0].cores, (std::vector<int>{0, 1}));
  EXPECT_EQ(t.nodes[0].memory_total, 512 * kMiB);
  EXPECT_EQ(t.nodes[0].memory_available, 256 * kMiB);
  EXPECT_EQ(t.nodes[1].cores, (std::vector<int>{2, 3}));
  EXPECT_EQ(t.nodes[1].memory_total, 256 * kMiB);
  EXPECT_EQ(t.nodes[1].memory_available, 128 * kMiB);
}

TEST(Topology, AffinityLeavesNodesOut) {
  const FakeMachine machine;
  machine.two_nodes();
  const Topology t = machine.read({6, 7});
  ASSERT_EQ(t.nodes.size(), 1u);
  EXPECT_EQ(t.nodes[0].id, 1);
  EXPECT_EQ(t.nodes[0].cores, (std::vector<int>{6, 7}));
  EXPECT_EQ(t.nodes[0].memory_available, t.memory_available) << "what does not fit goes elsewhere";
}

TEST(Topology, NodesWhoseMemoryIsNotAllowedServeTheNearest) {
  const FakeMachine machine;
  machine.two_nodes();
  machine.allow_memory("1");
  const Topology t = machine.read(kAll);
  ASSERT_EQ(t.nodes.size(), 1u);
  EXPECT_EQ(t.nodes[0].id, 1);
  EXPECT_EQ(t.nodes[0].cores, (std::vector<int>{0, 1, 2, 3}));
}

TEST(Topology, NodesWithoutMemoryServeTheNearest) {
  const FakeMachine machine;
  for (int cpu = 0; cpu < 6; ++cpu) machine.add_cpu(cpu, cpu);
  machine.write("/sys/devices/system/node/online", "0-3\n");
  machine.add_node(0, "0-1", 512, "10 32 16 40");
  machine.add_node(1, "2-3", 512, "32 10 32 16");
  machine.add_node(2, "4-5", 0, "16 12 10 40");
  machine.add_node(3, "", 1024, "40 16 40 10");
  const Topology t = machine.read({0, 1, 2, 3, 4, 5});
  ASSERT_EQ(t.nodes.size(), 2u) << "a node without CPUs is not listed";
  EXPECT_EQ(t.nodes[0].cores, (std::vector<int>{0, 1}));
  EXPECT_EQ(t.nodes[1].cores, (std::vector<int>{2, 3, 4, 5}));
}

TEST(Topology, WithoutNodesThereIsOne) {
  const FakeMachine machine;
  for (int cpu = 0; cpu < 4; ++cpu) machine.add_cpu(cpu, cpu % 2);
  const Topology t = machine.read({0, 1, 2, 3});
  ASSERT_EQ(t.nodes.size(), 1u);
  EXPECT_EQ(t.nodes[0].cores, (std::vector<int>{0, 1}));
  EXPECT_EQ(t.nodes[0].memory_available, 512 * kMiB);
}

TEST(Topology, CgroupLimitsCapEveryNode) {
  const FakeMachine machine;
  machine.two_nodes();
  machine.write("/sys/fs/cgroup/memory.max", std::to_string(100 * kMiB));
  machine.write("/sys/fs/cgroup/memory.current", std::to_string(40 * kMiB));
  const Topology t = machine.read(kAll);
  EXPECT_EQ(t.memory_available, 60 * kMiB);
  for (const NumaNode& node : t.nodes) EXPECT_EQ(node.memory_available, 60 * kMiB);
}

std::vector<int> workers(const std::vector<WorkerGroup>& groups) {
  std::vector<int> n;
  for (const WorkerGroup& g : groups) n.push_back(g.n_workers);
  return n;
}

TEST(Topology, ThreadsAreSpreadInProportion) {
  const FakeMachine machine;
  machine.two_nodes();
  Topology t = machine.read(kAll);
  EXPECT_EQ(workers(spread_workers(t, 4)), (std::vector<int>{2, 2}));
  EXPECT_EQ(workers(spread_workers(t, 3)), (std::vector<int>{2, 1}));
  EXPECT_EQ(workers(spread_workers(t, 1)), (std::vector<int>{1}));
  EXPECT_EQ(workers(spread_workers(t, 9)), (std::vector<int>{5, 4}));
  t.nodes[0].cores = {0, 1, 4, 5, 8, 9};
  EXPECT_EQ(workers(spread_workers(t, 4)), (std::vector<int>{3, 1}));
  for (int n = 1; n < 40; ++n) {
    const std::vector<int> each = workers(spread_workers(t, n));
    EXPECT_EQ(std::accumulate(each.begin(), each.end(), 0), n);
  }
}

TEST(Topology, OneNodeKeepsItsCores) {
  Topology t;
  t.cores = {0, 2, 4};
  t.nodes = {{0, {0, 2, 4}}};
  const std::vector<WorkerGroup> groups = spread_workers(t, 2);
  ASSERT_EQ(groups.size(), 1u);
  EXPECT_EQ(groups[0].n_workers, 2);
  EXPECT_EQ(groups[0].cores, t.cores);
}

TEST(Topology, NodesCanBeEmulated) {
  Topology t;
  t.cores = {0, 1, 2, 3, 4};
  t.nodes = {{3, t.cores}};
  t.memory_available = 60;
  const Topology four = emulate_nodes(t, 4);
  ASSERT_EQ(four.nodes.size(), 4u);
  EXPECT_EQ(four.nodes[0].cores, (std::vector<int>{0}));
  EXPECT_EQ(four.nodes[3].cores, (std::vector<int>{3, 4}));
  EXPECT_EQ(four.nodes[3].id, 3);
  EXPECT_EQ(four.nodes[3].memory_available, 15u);
  t.cores = {0, 1};
  EXPECT_EQ(emulate_nodes(t, 4).nodes[3].cores, (std::vector<int>{1})) << "cores are shared";
}

}  // namespace
}  // namespace kt
