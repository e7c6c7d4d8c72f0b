// Published rows arrive whole before their flag.
#include "kernels/cuda/exchange/exchange.h"

#include <bit>

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
    const cudaError_t error = cudaStreamQuery(nullptr);
    ASSERT_TRUE(error == cudaSuccess || error == cudaErrorNotReady) << cudaGetErrorString(error);
  }
  const auto* got = static_cast<const char*>(pinned);
  EXPECT_EQ(std::memcmp(got + 256, a.host().data(), a.bytes()), 0);
  EXPECT_EQ(std::memcmp(got + 256 + 12004, b.host().data(), b.bytes()), 0);
  args.parts[0].bytes = kPublishBytes + 1;
  EXPECT_EQ(publish(args, nullptr), Status::kUnsupported);
  cudaFreeHost(pinned);
}

TEST_F(Exchange, AddsWhatTheHostTagsAndNothingElse) {
  constexpr std::int64_t kN = 5002;
  constexpr std::size_t kBytes = 256 + kN * sizeof(TaggedFloat);
  void *pinned = nullptr, *address = nullptr;
  ASSERT_EQ(cudaHostAlloc(&pinned, kBytes, cudaHostAllocMapped), cudaSuccess);
  ASSERT_EQ(cudaHostGetDevicePointer(&address, pinned, 0), cudaSuccess);
  auto* words = reinterpret_cast<std::uint64_t*>(static_cast<char*>(pinned) + 256);
  for (const Type type : {Type::kF32, Type::kBF16}) {
    std::memset(pinned, 0, kBytes);
    const std::vector<float> before = rounded(gaussian(kN, 3));
    Device<float> floats(before);
    Device<std::uint16_t> halves(as_bf16(before));
    AddTaggedArgs args;
    args.rows = reinterpret_cast<const TaggedFloat*>(static_cast<char*>(address) + 256);
    args.waited = static_cast<std::uint32_t*>(address);
    args.sum = type == Type::kF32 ? static_cast<void*>(floats.get()) : halves.get();
    args.type = type;
    args.n = kN;
    for (std::uint32_t run = 1; run <= 3; ++run) {
      const Device<std::uint32_t> tag(std::vector<std::uint32_t>{run});
      args.tag = tag.get();
      ASSERT_EQ(add_tagged(args, nullptr), Status::kOk);
      const std::uint64_t bits = std::bit_cast<std::uint32_t>(static_cast<float>(run));
      for (std::int64_t i = 0; i < kN; ++i) {
        if (i == kN / 2) {
          EXPECT_EQ(cudaStreamQuery(nullptr), cudaErrorNotReady);
        }
        __atomic_store_n(words + i, std::uint64_t{run} << 32 | bits, __ATOMIC_RELAXED);
      }
      ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
      EXPECT_GT(*static_cast<std::uint32_t*>(pinned), 0u);
    }
    const std::vector<float> got = type == Type::kF32 ? floats.host() : as_floats(halves.host());
    Compare compare("tagged rows");
    for (std::size_t i = 0; i < got.size(); ++i)
      compare.value(got[i], before[i] + 6.0f, type == Type::kF32 ? 2e-6 : 0x1p-5,
                    static_cast<std::int64_t>(i));
  }
  AddTaggedArgs odd;
  odd.n = 3;
  EXPECT_EQ(add_tagged(odd, nullptr), Status::kBadArgument);
  cudaFreeHost(pinned);
}

}  // namespace
}  // namespace kt::kernels::cuda
