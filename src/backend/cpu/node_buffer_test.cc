#include "backend/cpu/node_buffer.h"

#include <gtest/gtest.h>
#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace kt::backend {
namespace {

constexpr std::size_t kPage = 4096, kHuge = std::size_t{2} << 20;

struct Bound {
  std::span<std::byte> pages;
  std::vector<int> nodes;
};

// Records what is asked, and answers `answer`.
CpuPlace recording(std::vector<Bound>& bound, int answer = 0) {
  CpuPlace place;
  place.workers = {{4, 1, {}}, {7, 2, {}}};
  place.bind = [&bound, answer](std::span<std::byte> pages, std::span<const int> nodes) {
    bound.push_back({pages, {nodes.begin(), nodes.end()}});
    return answer;
  };
  return place;
}

TEST(NodeBuffer, OneNodeIsOneBufferOfTheseBytes) {
  CpuPlace place;
  place.workers = {{0, 2, {}}};
  place.bind = [](std::span<std::byte>, std::span<const int>) {
    ADD_FAILURE() << "nothing is to be bound";
    return 0;
  };
  int refusal = 0;
  const std::size_t bytes[] = {1000};
  const NodeBuffer buffer(place, bytes, refusal);
  ASSERT_EQ(buffer.spans().size(), 1u);
  EXPECT_EQ(buffer.spans()[0].size(), 1000u);
  EXPECT_EQ(buffer.part(0), buffer.spans()[0].data());
}

TEST(NodeBuffer, SmallWeightsShareHugePages) {
  CpuPlace place;
  place.workers = {{0, 1, {}}};
  int refusal = 0;
  std::vector<NodeBuffer> buffers;
  {
    SmallWeights small;
    for (const std::size_t bytes : {std::size_t{1000}, std::size_t{100}, kHuge, std::size_t{100}}) {
      buffers.emplace_back(place, std::span(&bytes, 1), refusal, small);
      EXPECT_EQ(buffers.back().spans()[0].size(), bytes);
    }
  }
  EXPECT_EQ(reinterpret_cast<std::size_t>(buffers[0].part(0)) % kHuge, 0u);
  EXPECT_EQ(buffers[1].part(0), buffers[0].part(0) + 1024);
  EXPECT_EQ(buffers[3].part(0), buffers[1].part(0) + 128) << "the large one is elsewhere";
  buffers.erase(buffers.begin(), buffers.begin() + 3);
  std::memset(buffers[0].part(0), 1, 100);
}

TEST(SmallWeights, FullStretchesAreFollowedByOthers) {
  SmallWeights small;
  std::vector<SmallWeights::Piece> pieces;
  for (int i = 0; i < 70; ++i) {
    pieces.push_back(small.take(SmallWeights::kMost - 1));
    pieces.back().bytes[0] = static_cast<std::byte>(i);
    pieces.back().bytes.back() = static_cast<std::byte>(i);
  }
  for (int i = 0; i < 70; ++i) {
    EXPECT_EQ(pieces[static_cast<std::size_t>(i)].bytes[0], static_cast<std::byte>(i));
    EXPECT_EQ(pieces[static_cast<std::size_t>(i)].bytes.back(), static_cast<std::byte>(i));
  }
}

TEST(NodeBuffer, EachPartIsBoundToItsNodeInWholePages) {
  std::vector<Bound> bound;
  const CpuPlace place = recording(bound);
  int refusal = 0;
  const std::size_t bytes[] = {1000, kHuge + 1};
  const NodeBuffer buffer(place, bytes, refusal);
  EXPECT_EQ(refusal, 0);
  ASSERT_EQ(bound.size(), 2u);
  EXPECT_EQ(bound[0].nodes, std::vector<int>{4});
  EXPECT_EQ(bound[0].pages.size(), kPage);
  EXPECT_EQ(bound[1].nodes, std::vector<int>{7});
  EXPECT_EQ(bound[1].pages.size(), 2 * kHuge);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(buffer.part(i), bound[i].pages.data());
    const std::size_t align = i == 0 ? kPage : kHuge;
    EXPECT_EQ(reinterpret_cast<std::size_t>(buffer.part(i)) % align, 0u);
    std::memset(buffer.part(i), 1, bytes[i]);
  }
}

TEST(NodeBuffer, RefusalIsToldAndTheMemoryServes) {
  std::vector<Bound> bound;
  const CpuPlace place = recording(bound, EPERM);
  int refusal = 0;
  const std::size_t bytes[] = {100, 100};
  const NodeBuffer buffer(place, bytes, refusal);
  EXPECT_EQ(refusal, EPERM);
  std::memset(buffer.part(1), 1, 100);
}

TEST(NodeBuffer, EmptyPartsTakeNothing) {
  std::vector<Bound> bound;
  const CpuPlace place = recording(bound);
  int refusal = 0;
  const std::size_t bytes[] = {0, 100};
  const NodeBuffer buffer(place, bytes, refusal);
  ASSERT_EQ(bound.size(), 1u);
  EXPECT_EQ(bound[0].nodes, std::vector<int>{7});
  EXPECT_EQ(buffer.spans().size(), 1u);
}

TEST(NodeBuffer, InterleavedMemoryNamesAllNodes) {
  std::vector<Bound> bound;
  CpuPlace place = recording(bound);
  place.workers = {{0, 3, {}}};
  place.interleave = {4, 7};
  int refusal = 0;
  const std::size_t bytes[] = {100};
  const NodeBuffer buffer(place, bytes, refusal);
  ASSERT_EQ(bound.size(), 1u);
  EXPECT_EQ(bound[0].nodes, (std::vector<int>{4, 7}));
}

TEST(NodeBuffer, SharedMemoryIsDealtOut) {
  std::vector<Bound> bound;
  int refusal = 0;
  const NodeBuffer buffer = NodeBuffer::shared(recording(bound), 100, refusal);
  ASSERT_EQ(bound.size(), 1u);
  EXPECT_EQ(bound[0].nodes, (std::vector<int>{4, 7}));
  CpuPlace one;
  one.workers = {{4, 3, {}}};
  EXPECT_EQ(NodeBuffer::shared(one, 100, refusal).spans()[0].size(), 100u);
}

TEST(BindPages, BindsOrSaysWhy) {
  const Topology topology = detect_topology();
  const Pages pages(kPage);
  const int node[] = {topology.nodes.front().id};
  const int error = bind_pages(pages.bytes(), node);
  EXPECT_TRUE(error == 0 || error == EPERM || error == ENOSYS) << std::strerror(error);
  int mode = -1;
  if (error == 0 &&
      ::syscall(SYS_get_mempolicy, &mode, nullptr, 0, pages.bytes().data(), MPOL_F_ADDR) == 0) {
    EXPECT_EQ(mode, MPOL_BIND);
  }
  const int none[] = {1023};
  EXPECT_NE(bind_pages(pages.bytes(), none), 0);
  const int beyond[] = {5000};
  EXPECT_EQ(bind_pages(pages.bytes(), beyond), EINVAL);
}

}  // namespace
}  // namespace kt::backend
