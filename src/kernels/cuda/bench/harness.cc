#include "kernels/cuda/bench/harness.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/bench/ceilings.h"
#include "kernels/cuda/gemm/blas_lt.h"

namespace kt::kernels::cuda::bench {
namespace {

void print(const std::string& line) {
  std::fputs((line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

[[noreturn]] void end(const std::string& why) {
  std::fputs(("bench: " + why + "\n").c_str(), stderr);
  std::exit(1);
}

}  // namespace

Buffer::Buffer(std::int64_t bytes, bool bf16) : bytes_((bytes + 15) / 16 * 16) {
  if (cudaMalloc(reinterpret_cast<void**>(&data_), static_cast<std::size_t>(bytes_)) !=
      cudaSuccess) {
    end(fmt::format("no {} MiB of device memory: {}", bytes >> 20, device_error_text()));
  }
  fill_random(data_, bytes_, bf16, 12345, nullptr);
}

int Harness::copies(std::int64_t bytes) const {
  const auto wanted = static_cast<std::int64_t>(4 * info_.l2_bytes);
  return static_cast<int>(std::clamp<std::int64_t>((wanted + bytes - 1) / bytes, 2, 512));
}

double Harness::seconds(int n, const std::function<Status(int, cudaStream_t)>& launch) {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  cudaEvent_t begin = nullptr, done = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaDeviceSynchronize();
  if (launch(0, stream) != Status::kOk)
    end(fmt::format("a launch failed: {}", device_error_text()));
  if (cudaStreamSynchronize(stream) != cudaSuccess) end(device_error_text());
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
  for (int i = 0; i < n; ++i) {
    const Status status = launch(i, stream);
    if (status != Status::kOk)
      end(fmt::format("a launch failed: {}: {}", status_text(status), device_error_text()));
  }
  if (cudaStreamEndCapture(stream, &graph) != cudaSuccess ||
      cudaGraphInstantiate(&exec, graph, 0) != cudaSuccess) {
    end(device_error_text());
  }
  cudaEventCreate(&begin);
  cudaEventCreate(&done);
  std::vector<double> times;
  double total = 0.0;
  // Clocks need some milliseconds to rise from idle.
  constexpr double kWarmUp = 0.03;
  double warm = 0.0;
  for (int i = 0; i < 12 && (i < 4 || total < 0.15);) {
    cudaEventRecord(begin, stream);
    cudaGraphLaunch(exec, stream);
    cudaEventRecord(done, stream);
    if (cudaEventSynchronize(done) != cudaSuccess) end(device_error_text());
    float ms = 0.0f;
    cudaEventElapsedTime(&ms, begin, done);
    if (warm < kWarmUp) {
      warm += ms * 1e-3;
      continue;
    }
    total += ms * 1e-3;
    times.push_back(ms * 1e-3 / n);
    ++i;
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(done);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
  cudaStreamDestroy(stream);
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                   times.end());
  return times[times.size() / 2];
}

void Harness::measure_ceilings() {
  const std::int64_t bytes = std::int64_t{2} << 30;
  const Buffer data(bytes), other(bytes);
  auto* sink = reinterpret_cast<float*>(other.get());
  const double read = seconds(2, [&](int, cudaStream_t stream) {
    return read_all(data.get(), bytes, sink, info_.n_sms, stream);
  });
  const double copy = seconds(2, [&](int, cudaStream_t stream) {
    return cudaMemcpyAsync(other.get(), data.get(), static_cast<std::size_t>(bytes),
                           cudaMemcpyDeviceToDevice, stream) == cudaSuccess
               ? Status::kOk
               : Status::kDeviceFailed;
  });
  ceilings_.read_gbs = static_cast<double>(bytes) / read * 1e-9;
  ceilings_.copy_gbs = 2.0 * static_cast<double>(bytes) / copy * 1e-9;
  Status status = Status::kOk;
  if (const auto blas = BlasLt::open(&status)) {
    const std::int64_t n = 8192;
    const Buffer x(n * n * 2, true), w(n * n * 2, true), y(n * n * 2),
        workspace(static_cast<std::int64_t>(kBlasWorkspaceBytes));
    BlasLtArgs args{x.get(), n, w.get(), y.get(), Type::kBF16, n, n, n, n, workspace.get()};
    const double time =
        seconds(4, [&](int, cudaStream_t stream) { return blas->multiply(args, stream); });
    ceilings_.bf16_tflops =
        2.0 * static_cast<double>(n * n) * static_cast<double>(n) / time * 1e-12;
  } else {
    print(fmt::format("{}: no ceiling of products", status_text(status)));
  }
  print(fmt::format("ceilings: {:.0f} GB/s read, {:.0f} GB/s copy, {:.0f} TFLOPS bf16",
                    ceilings_.read_gbs, ceilings_.copy_gbs, ceilings_.bf16_tflops));
  results_["ceilings"] = {{"read_gbs", ceilings_.read_gbs},
                          {"copy_gbs", ceilings_.copy_gbs},
                          {"bf16_tflops", ceilings_.bf16_tflops}};
}

void Harness::report(const std::string& family, const std::string& what, double seconds,
                     double bytes, double flops) {
  const double gbs = bytes / seconds * 1e-9, tflops = flops / seconds * 1e-12;
  const double read_share = gbs / ceilings_.read_gbs;
  const double flop_share = ceilings_.bf16_tflops > 0.0 ? tflops / ceilings_.bf16_tflops : 0.0;
  print(fmt::format("{:<10} {:<44} {:>9.2f} us {:>7.0f} GB/s {:>4.0f} % {:>7.1f} TFLOPS {:>4.0f} %",
                    family, what, seconds * 1e6, gbs, 100.0 * read_share, tflops,
                    100.0 * flop_share));
  results_["rows"].push_back({{"family", family},
                              {"case", what},
                              {"us", seconds * 1e6},
                              {"gbs", gbs},
                              {"read_share", read_share},
                              {"tflops", tflops},
                              {"tflops_share", flop_share}});
}

}  // namespace kt::kernels::cuda::bench
