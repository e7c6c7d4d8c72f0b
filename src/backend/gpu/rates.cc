#include "backend/gpu/rates.h"

#include <algorithm>
#include <limits>

namespace kt::backend {
namespace {

constexpr int kRuns = 5;
constexpr int kLaunches = 8;  // one after the other, so that their start is hidden

/// Least seconds of one launch.
template <class F>
double seconds(Gpu& gpu, F&& launch) {
  const GpuApi& api = gpu.api();
  const GpuEvent from = gpu.event(true), to = gpu.event(true);
  float least = std::numeric_limits<float>::infinity();
  for (int run = 0; run < kRuns; ++run) {
    gpu.check(api.event_record(from.get(), gpu.stream()), "event_record");
    for (int i = 0; i < kLaunches; ++i) launch();
    gpu.check(api.event_record(to.get(), gpu.stream()), "event_record");
    gpu.check(api.event_synchronize(to.get()), "event_synchronize");
    float milliseconds = 0.0f;
    gpu.check(api.event_elapsed(from.get(), to.get(), &milliseconds), "event_elapsed");
    least = std::min(least, milliseconds);
  }
  return double{least} * 1e-3 / kLaunches;
}

double read_rate(Gpu& gpu, std::size_t bytes) {
  const GpuApi& api = gpu.api();
  if (!api.has_gemm(formats::Format::kBF16)) return 0.0;
  kernels::cuda::GemmArgs args;
  args.w = {formats::Format::kBF16, nullptr, 0, 8192};
  args.w.n = static_cast<std::int64_t>(bytes) / (2 * args.w.k);
  args.m = 1;
  args.x_stride = args.w.k;
  args.y_stride = args.w.n;
  const std::size_t packed = api.packed_bytes(args.w.format, args.w.n, args.w.k);
  auto* tiles = gpu.allocate_bytes(packed);
  auto* x = gpu.allocate<std::uint16_t>(args.w.k);
  args.y = gpu.allocate<float>(args.w.n);
  args.workspace_bytes = api.gemm_workspace(args.w, args.m, gpu.info());
  args.workspace = gpu.allocate_bytes(args.workspace_bytes);
  gpu.check(api.fill(tiles, 0, packed, gpu.stream()), "fill");
  gpu.check(api.fill(x, 0, static_cast<std::size_t>(args.w.k) * 2, gpu.stream()), "fill");
  args.w.tiles = tiles;
  args.x = x;
  const double time = seconds(
      gpu, [&] { gpu.check(api.gemm(args, gpu.info(), gpu.blas(), gpu.stream()), "gemm"); });
  return static_cast<double>(packed) / time;
}

double copy_rate(Gpu& gpu, void* to, const void* from, std::size_t bytes, CopyKind kind) {
  const double time =
      seconds(gpu, [&] { gpu.check(gpu.api().copy(to, from, bytes, kind, gpu.stream()), "copy"); });
  return static_cast<double>(bytes) / time;
}

}  // namespace

GpuRates measure_gpu(Gpu& gpu) {
  constexpr std::size_t kMost = std::size_t{256} << 20;
  constexpr std::size_t kLeast = std::size_t{4} << 20;
  const std::size_t bytes = std::min((gpu.reserved() - gpu.used()) / 2, kMost);
  GpuRates rates;
  if (bytes < kLeast) return rates;
  const std::size_t mark = gpu.mark();
  rates.read = read_rate(gpu, bytes);
  gpu.release(mark);
  const PinnedMemory host = gpu.pinned(bytes / 4);
  std::byte* device = gpu.allocate_bytes(bytes / 4);
  rates.to_device = copy_rate(gpu, device, host.get(), bytes / 4, CopyKind::kToDevice);
  rates.to_host = copy_rate(gpu, host.get(), device, bytes / 4, CopyKind::kToHost);
  gpu.release(mark);
  return rates;
}

}  // namespace kt::backend
