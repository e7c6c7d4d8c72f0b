#include <cstdint>

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/numbers.cuh"
#include "kernels/cuda/exchange/exchange.h"

namespace kt::kernels::cuda {
namespace {

constexpr int kBlock = 512;

__device__ void copy_part(const PublishPart& part) {
  const auto addresses =
      reinterpret_cast<std::uintptr_t>(part.from) | reinterpret_cast<std::uintptr_t>(part.to);
  std::size_t done = 0;
  if (addresses % sizeof(uint4) == 0) {
    const auto* from = static_cast<const uint4*>(part.from);
    auto* to = static_cast<uint4*>(part.to);
    const std::size_t n = part.bytes / sizeof(uint4);
    for (std::size_t i = threadIdx.x; i < n; i += kBlock) to[i] = from[i];
    done = n * sizeof(uint4);
  }
  for (std::size_t i = done + threadIdx.x; i < part.bytes; i += kBlock)
    static_cast<char*>(part.to)[i] = static_cast<const char*>(part.from)[i];
}

__global__ void publish_kernel(PublishArgs args) {
  start_next();
  await_previous();
  for (int i = 0; i < args.n_parts; ++i) copy_part(args.parts[i]);
  __threadfence_system();
  __syncthreads();
  if (threadIdx.x == 0)
    asm volatile("st.release.sys.u32 [%0], %1;" ::"l"(args.flag), "r"(args.value) : "memory");
}

constexpr int kAddBlock = 256;

__device__ std::uint64_t nanoseconds() {
  std::uint64_t now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  return now;
}

/// Values 2 i and 2 i + 1 with their tags, as they are now.
__device__ uint4 read_pair(const AddTaggedArgs& args, std::int64_t i) {
  uint4 v;
  asm volatile("ld.volatile.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(reinterpret_cast<const uint4*>(args.rows) + i)
               : "memory");
  return v;
}

__device__ bool carries(const uint4& pair, std::uint32_t tag) {
  return pair.y == tag && pair.w == tag;
}

/// Until the block's first values are there or will be soon, by one thread.
__device__ void await_soon(const AddTaggedArgs& args, std::int64_t first, std::uint32_t tag) {
  const std::uint64_t begin = nanoseconds();
  const std::uint32_t waited = *static_cast<volatile std::uint32_t*>(args.waited);
  const std::uint32_t most = waited - waited / 16;
  while (!carries(read_pair(args, first), tag) && nanoseconds() - begin < most) {
  }
}

// The next launch is told only then: its blocks would stand about for as long as the host takes.
__global__ void __launch_bounds__(kAddBlock) add_tagged_kernel(AddTaggedArgs args) {
  await_previous();
  const std::uint32_t tag = *args.tag;
  const std::int64_t i = blockIdx.x * std::int64_t{kAddBlock} + threadIdx.x;
  const std::uint64_t begin = nanoseconds();
  if (threadIdx.x == 0) await_soon(args, i, tag);
  __syncthreads();
  start_next();
  if (2 * i >= args.n) return;
  uint4 pair;
  do {
    pair = read_pair(args, i);
  } while (!carries(pair, tag));
  if (i == 0) {
    const std::uint64_t waited = nanoseconds() - begin;
    *args.waited = waited < UINT32_MAX ? static_cast<std::uint32_t>(waited) : UINT32_MAX;
  }
  const std::uint32_t bits[] = {pair.x, pair.z};
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const std::int64_t at = 2 * i + j;
    const float sum = load_as_float(args.sum, args.type, at) + __uint_as_float(bits[j]);
    store_float(args.sum, args.type, at, sum);
  }
}

}  // namespace

Status publish(const PublishArgs& args, Stream stream) {
  if (args.n_parts < 0 || args.n_parts > kPublishParts || args.flag == nullptr)
    return Status::kBadArgument;
  std::size_t bytes = 0;
  for (int i = 0; i < args.n_parts; ++i) bytes += args.parts[i].bytes;
  if (bytes > kPublishBytes) return Status::kUnsupported;
  return launch(publish_kernel, 1, kBlock, 0, stream, args);
}

Status add_tagged(const AddTaggedArgs& args, Stream stream) {
  if (args.n <= 0 || args.n % 2 != 0 || args.tag == nullptr || args.waited == nullptr)
    return Status::kBadArgument;
  const auto blocks = static_cast<unsigned>(div_up<std::int64_t>(args.n / 2, kAddBlock));
  return launch(add_tagged_kernel, blocks, kAddBlock, 0, stream, args);
}

}  // namespace kt::kernels::cuda
