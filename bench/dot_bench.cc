// Speed of the dot kernels on one thread, weights cold (a rotation over more memory than the caches
// hold).
//
//   dot_bench [FILTER [K [N]]]    rows whose name contains FILTER; weights [N, K], default [1024,
//   2048]
// Prints for each row its packing rate, and for each m the GB/s of packed weights and GMAC/s.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/dot/dot.h"
#include "tensor/tensor.h"

namespace {

namespace dot = kt::kernels::dot;

constexpr std::size_t kColdBytes = std::size_t{256} << 20;
constexpr double kSeconds = 0.3;
constexpr std::int64_t kPanel = 128;  // activation rows per call, as the CPU backend does

struct Activations {
  std::vector<float> f32, scale, sum;
  std::vector<std::int8_t> q;
  dot::ActRows rows;
};

Activations make_activations(std::int64_t m, std::int64_t k) {
  Activations a;
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  const std::size_t count = static_cast<std::size_t>(m * k);
  a.f32.resize(count);
  for (float& v : a.f32) v = normal(rng);
  a.q.resize(count);
  a.scale.resize(count / dot::kQ8Block + 1);
  a.sum.resize(a.scale.size());
  const std::int64_t blocks = k / dot::kQ8Block;
  for (std::int64_t i = 0; i < m; ++i) {
    dot::select_quantize(0)(a.f32.data() + i * k, k, a.q.data() + i * k,
                            a.scale.data() + i * blocks, a.sum.data() + i * blocks);
  }
  a.rows = {a.f32.data(), k, a.q.data(), k, a.scale.data(), a.sum.data(), blocks};
  return a;
}

/// CPU time of this thread: other processes on a shared machine count for less than in wall time.
double now() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// One packed matrix repeated over kColdBytes.
kt::tensor::Buffer make_weights(const dot::Kernel& kernel, std::int64_t n, std::int64_t k) {
  const kt::formats::FormatTraits& traits = kt::formats::traits(kernel.weight);
  const std::size_t row_bytes = kt::formats::row_bytes(kernel.weight, k);
  std::vector<std::byte> rows(static_cast<std::size_t>(n) * row_bytes);
  std::mt19937 rng(2);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(k));
  for (float& v : x) v = normal(rng);
  traits.encode(x.data(), nullptr, rows.data(), k);
  for (std::int64_t r = 1; r < n; ++r) {
    std::copy_n(rows.data(), row_bytes, rows.data() + static_cast<std::size_t>(r) * row_bytes);
  }
  const std::size_t bytes = dot::packed_bytes(kernel, n, k);
  kt::tensor::Buffer all(bytes * (kColdBytes / bytes + 1));
  dot::pack(kernel, rows.data(), n, k, all.data());
  const double begin = now();  // the second time, when the pages are there
  dot::pack(kernel, rows.data(), n, k, all.data());
  std::printf("  packing %6.2f GB/s\n", static_cast<double>(bytes) * 1e-9 / (now() - begin));
  for (std::size_t at = bytes; at < all.size(); at += bytes) {
    std::copy_n(all.data(), bytes, all.data() + at);
  }
  return all;
}

void measure(const dot::Kernel& kernel, const kt::tensor::Buffer& weights, std::int64_t n,
             std::int64_t k, std::int64_t m) {
  const Activations a = make_activations(m, k);
  std::vector<float> out(static_cast<std::size_t>(m * n));
  const std::size_t bytes = dot::packed_bytes(kernel, n, k);
  std::size_t at = 0;
  std::int64_t rounds = 0;
  const double begin = now();
  double seconds = 0;
  do {
    for (std::int64_t row = 0; row < m; row += kPanel) {
      dot::DotArgs args;
      args.act = a.rows;
      args.act.f32 += row * args.act.f32_stride;
      args.act.q += row * args.act.q_stride;
      args.act.scale += row * args.act.block_stride;
      args.act.sum += row * args.act.block_stride;
      args.m = std::min(kPanel, m - row);
      args.k = k;
      args.weights = weights.data() + at;
      args.n = n;
      args.out = out.data() + row * n;
      args.out_stride = n;
      kernel.run(args);
    }
    at = at + 2 * bytes <= weights.size() ? at + bytes : 0;
    ++rounds;
    seconds = now() - begin;
  } while (seconds < kSeconds);
  const double per_second = static_cast<double>(rounds) / seconds;
  std::printf("  m %-4lld %7.2f GB/s %8.2f GMAC/s\n", static_cast<long long>(m),
              per_second * static_cast<double>(bytes) * 1e-9,
              per_second * static_cast<double>(m * n * k) * 1e-9);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string filter = argc > 1 ? argv[1] : "";
  const std::int64_t k = argc > 2 ? std::atoll(argv[2]) : 2048;
  const std::int64_t n = argc > 3 ? std::atoll(argv[3]) : 1024;
  const kt::CpuCaps caps = kt::detect_caps();
  for (const dot::Kernel& kernel : dot::kernels()) {
    const bool wanted = std::string(kernel.name).find(filter) != std::string::npos;
    if (!wanted || (caps & kernel.caps) != kernel.caps || k % kernel.k_step != 0) continue;
    std::printf("%s  n %lld k %lld\n", kernel.name, static_cast<long long>(n),
                static_cast<long long>(k));
    const kt::tensor::Buffer weights = make_weights(kernel, n, k);
    for (const std::int64_t m : {1, 4, 16, 64, 512}) measure(kernel, weights, n, k, m);
    std::fflush(stdout);
  }
}
