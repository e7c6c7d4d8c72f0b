#include <algorithm>

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
constexpr std::int64_t kAddBlocks = 32;  // more would only ask the host's memory for the flag

__device__ std::uint32_t flag_of(const AddAwaitedArgs& args) {
  std::uint32_t v;
  asm volatile("ld.acquire.sys.u32 %0, [%1];" : "=r"(v) : "l"(args.flag) : "memory");
  return v;
}

// The next launch is told only then: its blocks would stand about for as long as the host takes.
__global__ void __launch_bounds__(kAddBlock) add_awaited_kernel(AddAwaitedArgs args) {
  await_previous();
  if (threadIdx.x == 0) {
    while (flag_of(args) != args.value) {
    }
  }
  __syncthreads();
  start_next();
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kAddBlock;
  for (std::int64_t i = blockIdx.x * std::int64_t{kAddBlock} + threadIdx.x; i < args.n; i += step) {
    const float row = __ldcv(args.rows + i);  // of this run, not of one before
    store_float(args.sum, args.type, i, load_as_float(args.sum, args.type, i) + row);
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

Status add_awaited(const AddAwaitedArgs& args, Stream stream) {
  if (args.n <= 0 || args.flag == nullptr) return Status::kBadArgument;
  const std::int64_t blocks = std::min(div_up<std::int64_t>(args.n, kAddBlock), kAddBlocks);
  return launch(add_awaited_kernel, static_cast<unsigned>(blocks), kAddBlock, 0, stream, args);
}

}  // namespace kt::kernels::cuda
