// Published rows arrive whole before their flag.
#include "kernels/cuda/exchange/exchange.h"

#include "base/test_random.h"
#include "kernels/cuda/test_device.h"

namespace kt::kernels::cuda {
namespace {

using Exchange = OnDevice;

TEST_F(Exchange, PublishesPartsAndThenTheFlag) {
  const Device<float> a(gaussian(3000, 1)), b(gaussian(17, 2));
  void* pinned = nullptr;
  ASSERT_EQ(cudaHostAlloc(&pinned, 32 << 10, cudaHostAllocMapped), cudaSuccess);
  std::memset(pinned, 0, 32 << 10);
  void* address = nullptr;
  ASSERT_EQ(cudaHostGetDevicePointer(&address, pinned, 0), cudaSuccess);
  auto* to = static_cast<char*>(address);
  auto* flag = static_cast<std::uint32_t*>(pinned);
  PublishArgs args;
  args.parts[0] = {a.get(), to + 256, a.bytes()};
  args.parts[1] = {b.get(), to + 256 + 12004, b.bytes()};  // not aligned
  args.n_parts = 2;
  args.flag = reinterpret_cast<std::uint32_t*>(to);
  args.value = 7;
  ASSERT_EQ(publish(args, nullptr), Status::kOk);
  while (__atomic_load_n(flag, __ATOMIC_ACQUIRE) != 7) {
    ASSERT_NE(cudaStreamQuery(nullptr), cudaErrorLaunchFailure);
  }
  const auto* got = static_cast<const char*>(pinned);
  EXPECT_EQ(std::memcmp(got + 256, a.host().data(), a.bytes()), 0);
  EXPECT_EQ(std::memcmp(got + 256 + 12004, b.host().data(), b.bytes()), 0);
  args.parts[0].bytes = kPublishBytes + 1;
  EXPECT_EQ(publish(args, nullptr), Status::kUnsupported);
  cudaFreeHost(pinned);
}

}  // namespace
}  // namespace kt::kernels::cuda
