// The plug-in on a real GPU, through backend/gpu: memory, copies, graphs, the hand-off between GPU
// and CPU by flags, and the self-check. The plug-in is looked for as `kt` does.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <utility>

#include "backend/gpu/gpu.h"
#include "backend/gpu/self_check.h"
#include "backend/gpu/test_copies.h"

namespace kt::backend {
namespace {

class CudaPlugin : public testing::Test {
 protected:
  void SetUp() override {
    library_ = GpuLibrary::find("");
    ASSERT_NE(library_, nullptr) << "no " << GpuLibrary::kFileName;
    ASSERT_EQ(library_->gpus().problem, "");
  }
  std::shared_ptr<const GpuLibrary> library_;
};

TEST_F(CudaPlugin, DescribesTheDevice) {
  const GpuDescription d = library_->gpus().gpus.at(0);
  EXPECT_STRNE(d.name, "");
  EXPECT_STRNE(d.pci_bus, "");
  EXPECT_GE(d.major, 7);
  EXPECT_GE(d.driver, 13000);
  EXPECT_GT(d.total_bytes, std::size_t{1} << 30);
  EXPECT_GT(d.info.n_sms, 0);
  EXPECT_GT(d.info.l2_bytes, 0u);
}

TEST_F(CudaPlugin, MemoryThatIsNotThereIsAnErrorAndLeavesNoTrace) {
  const std::size_t total = library_->gpus().gpus.at(0).total_bytes;
  try {
    Gpu(library_, 0, total + 1);
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kNoMemory) << e.what();
    EXPECT_NE(std::string(e.what()).find("of its memory are wanted"), std::string::npos);
  }
  Gpu gpu(library_, 0, 1 << 20);
  void* data = nullptr;
  EXPECT_EQ(gpu.api().device_malloc(total, &data), Status::kNoMemory);
  EXPECT_STREQ(gpu.api().error_text(), "out of memory");
  // A kernel's launch does not take that error for its own.
  float row[8] = {};
  auto* x = gpu.allocate<float>(8);
  gpu.upload(x, row, sizeof row);
  kernels::cuda::AddArgs sum;
  sum.y = x;
  sum.x = x;
  sum.m = 1;
  sum.n = sum.x_stride = 8;
  EXPECT_EQ(gpu.api().add(sum, gpu.stream()), Status::kOk);
  gpu.synchronize();
}

TEST_F(CudaPlugin, CopiesMoreThanTheStagingHolds) {
  Gpu gpu(library_, 0, std::size_t{48} << 20);
  expect_copies(gpu);
}

TEST_F(CudaPlugin, GoesOnAfterARecordingThatFailed) {
  Gpu gpu(library_, 0, std::size_t{48} << 20);
  try {
    gpu.record([&] { gpu.synchronize(); });  // not allowed, breaks the recording
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("stream_synchronize: the device failed: "),
              std::string::npos)
        << e.what();
  }
  expect_copies(gpu);
}

// As of steps on several GPUs; here of one, or of two where there are two.
TEST_F(CudaPlugin, InstantiatesAGraphWhileAnotherStreamRecords) {
  Gpu gpu(library_, 0, 1 << 20);
  Gpu other(library_, library_->gpus().gpus.size() > 1 ? 1 : 0, 1 << 20);
  const PinnedMemory memory = gpu.pinned(8);
  auto* words = static_cast<std::uint32_t*>(memory.get());
  words[0] = words[1] = 0;
  const auto write = [&](Gpu& to, std::uint32_t* word, std::uint32_t value) {
    to.use();
    void* address = nullptr;
    to.check(to.api().device_address(word, &address), "device_address");
    to.check(to.api().write_flag(address, value, to.stream()), "write_flag");
  };
  GpuGraph inner;
  const GpuGraph outer = gpu.record([&] {
    other.use();
    inner = other.record([&] { write(other, words, 7); });
    write(gpu, words + 1, 8);
  });
  for (const auto& [on, graph] :
       {std::pair{&gpu, &outer}, std::pair{&other, &std::as_const(inner)}}) {
    on->use();
    on->check(on->api().graph_launch(graph->get(), on->stream()), "graph_launch");
    on->synchronize();
  }
  EXPECT_EQ(words[0], 7u);
  EXPECT_EQ(words[1], 8u);
}

TEST_F(CudaPlugin, RegisteredMemoryIsSeenByTheDevice) {
  Gpu gpu(library_, 0, 1 << 20);
  std::vector<std::uint32_t> host(1 << 16, 3u);
  gpu.check(gpu.api().host_register(host.data(), host.size() * 4), "host_register");
  void* address = nullptr;
  gpu.check(gpu.api().device_address(host.data(), &address), "device_address");
  gpu.check(gpu.api().fill(address, 0x22, 8, gpu.stream()), "fill");
  gpu.synchronize();
  EXPECT_EQ(host[1], 0x22222222u);
  EXPECT_EQ(host[2], 3u);
  gpu.api().host_unregister(host.data());
}

// What a layer with experts on the CPU does, thirty times in one graph: the GPU counts a flag up,
// the CPU answers, the GPU goes on. Timed as the CPU sees it: from its answer to the next count.
TEST_F(CudaPlugin, HandsOverToTheCpuAndBackInsideAGraph) {
  using Clock = std::chrono::steady_clock;
  constexpr std::uint32_t kLayers = 30, kReplays = 1000, kWarmUp = 20;
  Gpu gpu(library_, 0, 1 << 20);
  const PinnedMemory memory = gpu.pinned(256);
  auto* flags = static_cast<std::uint32_t*>(memory.get());
  void* address = nullptr;
  gpu.check(gpu.api().device_address(flags, &address), "device_address");
  auto* to_cpu = static_cast<std::uint32_t*>(address);
  auto* to_gpu = to_cpu + 32;
  const GpuGraph graph = gpu.record([&] {
    for (std::uint32_t layer = 1; layer <= kLayers; ++layer) {
      gpu.check(gpu.api().write_flag(to_cpu, layer, gpu.stream()), "write_flag");
      gpu.check(gpu.api().wait_flag(to_gpu, layer, gpu.stream()), "wait_flag");
    }
  });
  std::vector<double> micros;  // of one hand-over and back
  for (std::uint32_t replay = 0; replay < kWarmUp + kReplays; ++replay) {
    flags[0] = flags[32] = 0;
    gpu.check(gpu.api().graph_launch(graph.get(), gpu.stream()), "graph_launch");
    Clock::time_point answered;
    for (std::uint32_t layer = 1; layer <= kLayers; ++layer) {
      while (__atomic_load_n(&flags[0], __ATOMIC_ACQUIRE) < layer) {
      }
      const auto now = Clock::now();
      if (layer > 1 && replay >= kWarmUp)
        micros.push_back(std::chrono::duration<double, std::micro>(now - answered).count());
      answered = now;
      __atomic_store_n(&flags[32], layer, __ATOMIC_RELEASE);
    }
    gpu.synchronize();
  }
  std::sort(micros.begin(), micros.end());
  const auto at = [&](double share) {
    return micros[static_cast<std::size_t>(share * static_cast<double>(micros.size() - 1))];
  };
  std::printf("one hand-over and back, of %zu: p50 %.2f us, p99 %.2f us, largest %.2f us\n",
              micros.size(), at(0.5), at(0.99), micros.back());
  const bool hopper = gpu.description().major >= 9;
  EXPECT_LT(at(0.5), hopper ? 8.0 : 50.0);
  if (hopper) {
    EXPECT_LT(at(0.99), 30.0);  // 15 where nobody else is on the machine
  }
}

// All that a model may use: where the check at its start fails, it is not opened.
GpuKernels all_kernels() {
  using formats::Format;
  GpuKernels kernels;
#define TILE(name) kernels.products.insert(Format::name);
#include "kernels/cuda/gemm/kernels.inc"
#undef TILE
#define EXPERTS(name)                                   \
  kernels.experts.insert({Format::name, Format::name}); \
  kernels.streamed.insert(Format::name);
#include "kernels/cuda/moe/kernels.inc"
#undef EXPERTS
  kernels.experts.insert({Format::kQ4_K, Format::kQ6_K});
  kernels.lists = true;
#define ATTENTION(qk, v, launch)                  \
  kernels.attention.insert({qk, v, (qk) == 576}); \
  kernels.attention.insert({qk, v, (qk) == 576, kernels::cuda::CacheType::kE4M3});
#include "kernels/cuda/attention/kernels.inc"
#undef ATTENTION
  return kernels;
}

TEST_F(CudaPlugin, FastKernelsAgreeWithTheirSlowTwins) {
  Gpu gpu(library_, 0, kGpuCheckBytes);
  for (const GpuCheck& c : check_gpu(gpu, all_kernels())) {
    const bool no_blas = gpu.blas() == nullptr && c.what.ends_with("128 rows");
    EXPECT_EQ(c.outcome, no_blas ? GpuCheck::Outcome::kAbsent : GpuCheck::Outcome::kAgrees)
        << c.family << " " << c.what << ": " << c.error << " " << c.problem;
    std::printf("%s %s: %.1e\n", c.family.c_str(), c.what.c_str(), c.error);
  }
}

}  // namespace
}  // namespace kt::backend
