// Finding and refusing plug-ins; memory, copies, flags and graphs of an opened device. The plug-ins
// are stand-ins on host memory (test_fixtures/fake_gpu.cc).
#include "backend/gpu/gpu.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <thread>

#include "backend/gpu/test_copies.h"
#include "backend/gpu/test_fixtures/fake_gpu.h"

namespace kt::backend {
namespace {

namespace fs = std::filesystem;

std::string fake(const std::string& kind) {
  return std::string(KT_FAKE_GPU_FOLDER) + "/libfake_gpu_" + kind + ".so";
}

void expect_error(ErrorCode code, const std::string& part, const std::function<void()>& f) {
  try {
    f();
    ADD_FAILURE() << "no error; wanted: " << part;
  } catch (const Error& e) {
    EXPECT_EQ(error_code_name(e.code()), error_code_name(code)) << e.what();
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos)
        << e.what() << "\nlacks: " << part;
  }
}

TEST(GpuLibrary, RefusesWhatIsNoPluginOfThisBuild) {
  expect_error(ErrorCode::kNotFound, "there is no such file; a GPU plug-in (libkt_cuda.so)",
               [] { GpuLibrary::open(fake("nowhere")); });
  expect_error(ErrorCode::kNotFound, "no such file", [] { GpuLibrary::open(KT_FAKE_GPU_FOLDER); });
  expect_error(ErrorCode::kBadFile, "it is no ELF file",
               [] { GpuLibrary::open(KT_SOURCE_DIR "/CMakeLists.txt"); });
  expect_error(ErrorCode::kUnsupported, "is the GPU plug-in of another build of kt",
               [] { GpuLibrary::open(fake("other_version")); });
  expect_error(ErrorCode::kBadFile, "lacks the function route",
               [] { GpuLibrary::open(fake("missing_function")); });
  expect_error(ErrorCode::kBadFile, "kt_gpu_api returned no table",
               [] { GpuLibrary::open(fake("no_table")); });
}

TEST(GpuLibrary, LooksWhereItIsToldAndBesideTheProgram) {
  const fs::path root = fs::temp_directory_path() / ("kt-gpu-test-" + std::to_string(::getpid()));
  const fs::path bin = root / "bin", lib = root / "lib/ktransformers";
  fs::create_directories(bin);
  fs::create_directories(lib);
  EXPECT_EQ(GpuLibrary::find("", bin), nullptr);
  fs::create_symlink(fake("good"), lib / GpuLibrary::kFileName);
  EXPECT_EQ(GpuLibrary::find("", bin)->path(), (lib / GpuLibrary::kFileName).string());
  fs::create_symlink(fake("no_gpu"), bin / GpuLibrary::kFileName);
  EXPECT_EQ(GpuLibrary::find("", bin)->path(), (bin / GpuLibrary::kFileName).string());
  ::setenv(GpuLibrary::kVariable, fake("good").c_str(), 1);
  EXPECT_EQ(GpuLibrary::find("", bin)->path(), fake("good"));
  EXPECT_EQ(GpuLibrary::find(fake("no_gpu"), bin)->path(), fake("no_gpu"));
  ::setenv(GpuLibrary::kVariable, fake("nowhere").c_str(), 1);
  expect_error(ErrorCode::kNotFound, "nowhere", [&] { GpuLibrary::find("", bin); });
  ::unsetenv(GpuLibrary::kVariable);
  fs::remove_all(root);
}

TEST(GpuLibrary, ListsGpusOrSaysWhyNot) {
  const GpuList list = GpuLibrary::open(fake("good"))->gpus();
  ASSERT_EQ(list.gpus.size(), 2u);
  EXPECT_STREQ(list.gpus[1].name, "Stand-in GPU");
  EXPECT_STREQ(list.gpus[1].pci_bus, "0000:02:00.0");
  const auto library = GpuLibrary::open(fake("no_gpu"));
  EXPECT_TRUE(library->gpus().gpus.empty());
  EXPECT_EQ(library->gpus().problem, "no NVIDIA driver on this machine");
  expect_error(ErrorCode::kNotFound, "GPU 0: there is no such GPU: no NVIDIA driver",
               [&] { Gpu(library, 0, 1); });
}

class GpuTest : public testing::Test {
 protected:
  GpuTest() {
    std::string problem;
    object_ = SharedObject::open(fake("good"), SharedObject::Unload::kNever, &problem);
    settings_ = static_cast<FakeGpuSettings*>(object_->symbol("fake_gpu_settings"));
    *settings_ = {};
  }
  ~GpuTest() override { EXPECT_EQ(settings_->n_held, 0u) << "not given back"; }

  std::shared_ptr<const GpuLibrary> library_ = GpuLibrary::open(fake("good"));
  std::unique_ptr<SharedObject> object_;
  FakeGpuSettings* settings_;
};

TEST_F(GpuTest, ReservesOnceAndHandsOutAlignedPieces) {
  Gpu gpu(library_, 1, 1 << 20);
  EXPECT_EQ(settings_->device, 1);
  EXPECT_EQ(gpu.reserved(), std::size_t{1} << 20);
  EXPECT_EQ(gpu.blas(), nullptr);
  const std::byte* first = gpu.allocate_bytes(1);
  const auto* second = reinterpret_cast<const std::byte*>(gpu.allocate<float>(3));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(first) % Gpu::kAlignment, 0u);
  EXPECT_EQ(second - first, static_cast<std::ptrdiff_t>(Gpu::kAlignment));
  const std::size_t mark = gpu.mark();
  const std::byte* third = gpu.allocate_bytes((1 << 20) - 2 * Gpu::kAlignment);
  expect_error(ErrorCode::kNoMemory,
               "GPU 1 (Stand-in GPU): 1 B more are wanted, 0 B are left of the 1.0 MiB",
               [&] { gpu.allocate_bytes(1); });
  gpu.release(mark);
  EXPECT_EQ(gpu.allocate_bytes(100), third);
  expect_error(ErrorCode::kNoMemory, "are left of the",
               [&] { gpu.allocate_bytes(~std::size_t{0}); });
}

TEST_F(GpuTest, SaysWhatIsFreeWhenItDoesNotFit) {
  settings_->taken_bytes = std::size_t{24} << 20;
  expect_error(ErrorCode::kNoMemory,
               "GPU 0 (Stand-in GPU): 41.0 MiB of its memory are wanted, 40.0 MiB of 64.0 MiB are "
               "free; lower what kt may use",
               [&] { Gpu(library_, 0, std::size_t{41} << 20); });
  // The driver may refuse what it called free.
  settings_->failing = "device_malloc";
  settings_->failure = Status::kNoMemory;
  expect_error(ErrorCode::kNoMemory, "40.0 MiB of its memory are wanted, 40.0 MiB of 64.0 MiB are",
               [&] { Gpu(library_, 0, std::size_t{40} << 20); });
  expect_error(ErrorCode::kNotFound, "GPU 2: there is no such GPU: the driver shows 2, counted",
               [&] { Gpu(library_, 2, 1); });
}

TEST_F(GpuTest, FailuresNameDeviceAndCall) {
  for (const char* call : {"use_device", "stream_create", "event_create", "device_malloc"}) {
    settings_->failing = call;
    expect_error(ErrorCode::kIo,
                 std::string("GPU 0 (Stand-in GPU): ") + call +
                     ": the device failed: the stand-in was told to fail",
                 [&] { Gpu(library_, 0, 1); });
  }
  settings_->failing = "host_malloc";
  settings_->failure = Status::kNoMemory;
  expect_error(ErrorCode::kNoMemory, "host_malloc: out of memory: the stand-in",
               [&] { Gpu(library_, 0, 1); });
  settings_->failing = nullptr;
  Gpu gpu(library_, 0, 1);
  expect_error(ErrorCode::kUnsupported,
               "route: ", [&] { gpu.check(gpu.api().route({}, gpu.stream()), "route"); });
  expect_error(ErrorCode::kInternal, "gemm: ", [&] { gpu.check(Status::kBadArgument, "gemm"); });
}

TEST_F(GpuTest, CopiesMoreThanTheStagingHolds) {
  Gpu gpu(library_, 0, std::size_t{48} << 20);
  expect_copies(gpu);
  settings_->failing = "copy";
  std::uint32_t value = 0;
  expect_error(ErrorCode::kIo, "copy: the device failed",
               [&] { gpu.download(&value, gpu.allocate<std::uint32_t>(1), 4); });
}

// The hand-off of a step: the GPU tells the CPU, which answers, on every replay of a graph.
TEST_F(GpuTest, FlagsInsideAGraph) {
  Gpu gpu(library_, 0, 1024);
  const PinnedMemory memory = gpu.pinned(8);
  auto* flags = static_cast<std::uint32_t*>(memory.get());
  flags[0] = flags[1] = 0;
  void* address = nullptr;
  gpu.check(gpu.api().device_address(flags, &address), "device_address");
  auto* on_device = static_cast<std::uint32_t*>(address);
  auto* data = gpu.allocate<std::uint32_t>(1);
  const GpuGraph graph = gpu.record([&] {
    gpu.check(gpu.api().write_flag(on_device, 5, gpu.stream()), "write_flag");
    gpu.check(gpu.api().wait_flag(on_device + 1, 6, gpu.stream()), "wait_flag");
    gpu.check(gpu.api().fill(data, 0x11, 4, gpu.stream()), "fill");
  });
  EXPECT_EQ(flags[0], 0u) << "recorded, not run";
  std::thread cpu([&] {
    while (__atomic_load_n(&flags[0], __ATOMIC_ACQUIRE) != 5) std::this_thread::yield();
    __atomic_store_n(&flags[1], 6, __ATOMIC_RELEASE);
  });
  gpu.check(gpu.api().graph_launch(graph.get(), gpu.stream()), "graph_launch");
  cpu.join();
  std::uint32_t got = 0;
  gpu.download(&got, data, 4);
  EXPECT_EQ(got, 0x11111111u);
  expect_error(ErrorCode::kUsage, "stop",
               [&] { gpu.record([] { throw Error(ErrorCode::kUsage, "stop"); }); });
  gpu.check(gpu.api().write_flag(on_device, 9, gpu.stream()), "write_flag");
  EXPECT_EQ(flags[0], 9u) << "the stream records no longer";
}

TEST_F(GpuTest, EventsMeasureTime) {
  Gpu gpu(library_, 0, 1024);
  const GpuEvent from = gpu.event(true), to = gpu.event(true);
  gpu.check(gpu.api().event_record(from.get(), gpu.stream()), "event_record");
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  gpu.check(gpu.api().event_record(to.get(), gpu.stream()), "event_record");
  gpu.synchronize();
  bool done = false;
  gpu.check(gpu.api().event_done(to.get(), &done), "event_done");
  EXPECT_TRUE(done);
  float milliseconds = 0.0f;
  gpu.check(gpu.api().event_elapsed(from.get(), to.get(), &milliseconds), "event_elapsed");
  EXPECT_GE(milliseconds, 4.0f);
}

}  // namespace
}  // namespace kt::backend
