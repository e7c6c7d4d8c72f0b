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

TEST_F(Exchange, AddsWhatTheHostLeavesOnceItSaysSo) {
  constexpr std::int64_t kN = 20001;
  for (const Type type : {Type::kF32, Type::kBF16}) {
    const std::vector<float> before = rounded(gaussian(kN, 3));
    Device<float> floats(before);
    Device<std::uint16_t> halves(as_bf16(before));
    void* pinned = nullptr;
    ASSERT_EQ(cudaHostAlloc(&pinned, 128 << 10, cudaHostAllocMapped), cudaSuccess);
    std::memset(pinned, 0, 128 << 10);
    void* address = nullptr;
    ASSERT_EQ(cudaHostGetDevicePointer(&address, pinned, 0), cudaSuccess);
    AddAwaitedArgs args;
    args.flag = static_cast<std::uint32_t*>(address);
    args.value = 3;
    args.rows = static_cast<const float*>(address) + 64;
    args.sum = type == Type::kF32 ? static_cast<void*>(floats.get()) : halves.get();
    args.type = type;
    args.n = kN;
    for (const float size : {1.0f, 2.0f}) {
      ASSERT_EQ(add_awaited(args, nullptr), Status::kOk);
      EXPECT_EQ(cudaStreamQuery(nullptr), cudaErrorNotReady);
      for (std::int64_t i = 0; i < kN; ++i) static_cast<float*>(pinned)[64 + i] = size;
      __atomic_store_n(static_cast<std::uint32_t*>(pinned), 3u, __ATOMIC_RELEASE);
      ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
      *static_cast<std::uint32_t*>(pinned) = 0;
    }
    const std::vector<float> got = type == Type::kF32 ? floats.host() : as_floats(halves.host());
    Compare compare("awaited rows");
    for (std::size_t i = 0; i < got.size(); ++i)
      compare.value(got[i], before[i] + 3.0f, type == Type::kF32 ? 1e-6 : 0x1p-6,
                    static_cast<std::int64_t>(i));
    cudaFreeHost(pinned);
  }
}

}  // namespace
}  // namespace kt::kernels::cuda
