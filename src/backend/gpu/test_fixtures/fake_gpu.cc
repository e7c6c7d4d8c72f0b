// A GPU plug-in without a GPU: two devices of host memory, streams that run at once or late, and
// graphs on a thread of their own; products as loops over decoded rows; other kernels only in the
// whole one, which has much memory. FAKE_… (CMakeLists.txt) says which, and what is wrong with it.
#include "backend/gpu/test_fixtures/fake_gpu.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "backend/gpu/test_fixtures/host_kernels.h"

using Clock = std::chrono::steady_clock;
using Work = std::vector<std::function<void()>>;
struct CUstream_st {
  int device = 0;
  bool recording = false;
  Work work;
  std::thread graph;  // that runs
  std::atomic<bool> runs{false}, died{false};
  bool late = false;  // what it is given waits in work until somebody waits for it
  std::size_t n_done = 0;

  explicit CUstream_st(int of) : device(of) {}
  ~CUstream_st() { join(); }
  // Those before the n-th, which is counted from the stream's first.
  void run_late(std::size_t n) {
    for (; n_done < n; ++n_done) std::exchange(work[n_done], {})();
  }
  void join() {
    if (graph.joinable()) graph.join();
  }
};
struct CUevent_st {
  Clock::time_point when;
  CUstream_st* late = nullptr;  // where it is recorded, and has not come yet
  std::size_t n_before = 0;     // work of that stream, itself among it

  bool done() const { return late == nullptr || late->n_done >= n_before; }
  void wait() {
    if (late != nullptr) late->run_late(n_before);
    late = nullptr;
  }
};
struct CUgraphExec_st {
  Work work;
};

extern "C" __attribute__((visibility("default"))) kt::backend::FakeGpuSettings fake_gpu_settings;
extern "C" __attribute__((visibility("default"))) const kt::backend::GpuApi* kt_gpu_api();
kt::backend::FakeGpuSettings fake_gpu_settings;

namespace kt::backend {
namespace {

using namespace kernels::cuda;

constexpr int kDevices = 2;
FakeGpuSettings& settings = fake_gpu_settings;
struct Block {
  int device;
  std::size_t bytes;
};
std::map<void*, Block> device_blocks;
std::map<int, int> n_streams;      // of each device
thread_local int n_recording = 0;  // streams

Status outcome(const char* call) {
  const auto failing = [](const char* what) { return std::strcmp(settings.failing, what) == 0; };
  const bool fails = settings.failing != nullptr && (failing(call) || failing("all"));
  return fails ? settings.failure : Status::kOk;
}

// CUDA refuses these to a thread while any of its streams records, on whichever device.
Status outside_recordings(const char* call) {
  return n_recording > 0 ? Status::kDeviceFailed : outcome(call);
}

// Runs at once, or later when the stream records. Null: the default stream.
template <class F>
Status enqueue(const char* call, Stream stream, F&& f) {
  const Status status = outcome(call);
  if (status != Status::kOk) return status;
  if (stream == nullptr) {
    f();
    return Status::kOk;
  }
  if (stream->recording || stream->late) {
    stream->work.emplace_back(std::forward<F>(f));
  } else {
    stream->join();
    f();
  }
  return Status::kOk;
}

// A kernel or a flag, which only go to streams of the thread's device.
template <class F>
Status launch(const char* call, Stream stream, F&& f) {
  if (stream != nullptr && stream->device != settings.device) return Status::kDeviceFailed;
  return enqueue(call, stream, std::forward<F>(f));
}

template <class T>
Status make(const char* call, T value, T** out) {
  const Status status = outcome(call);
  if (status != Status::kOk) return status;
  *out = new T(std::move(value));
  ++settings.n_held;
  return status;
}

std::size_t device_held() {
  std::size_t sum = 0;
  for (const auto& [data, block] : device_blocks) {
    if (block.device == settings.device) sum += block.bytes;
  }
  return sum;
}

std::size_t device_bytes() {
  const bool taken = settings.taken_on < 0 || settings.taken_on == settings.device;
  return (taken ? settings.taken_bytes : 0) + device_held();
}

Status allocate(const char* call, std::size_t bytes, void** out) {
  const Status status = outside_recordings(call);
  if (status != Status::kOk) return status;
  *out = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  ++settings.n_held;
  return *out == nullptr ? Status::kNoMemory : Status::kOk;
}

void give_back(void* data) {
  std::free(data);
  --settings.n_held;
}

void set_devices(GpuApi& api) {
  api.error_text = [] { return "the stand-in was told to fail"; };
  api.device_count = [](const char**) { return kDevices; };
  api.describe = [](int device, GpuDescription* out) {
    std::strcpy(out->name, "Stand-in GPU");
    std::strcpy(out->pci_bus, device == 0 ? "0000:01:00.0" : "0000:02:00.0");
    out->major = 9;
    out->driver = 13000;
    out->total_bytes = settings.total_bytes;
    out->info = {4, 1 << 20};
    const bool lost = settings.failing != nullptr && std::strcmp(settings.failing, "all") == 0;
    return lost ? Status::kOk : outcome("describe");  // the driver knows it all the same
  };
  api.use_device = [](int device) {
    settings.device = device;
    return outcome("use_device");
  };
  api.device_memory = [](std::size_t* free, std::size_t* total) {
    *total = settings.total_bytes;
    *free = settings.total_bytes - device_bytes();
    return outcome("device_memory");
  };
  api.device_malloc = [](std::size_t bytes, void** out) {
    if (device_bytes() + bytes > settings.total_bytes) return Status::kNoMemory;
    const Status status = allocate("device_malloc", bytes, out);
    if (status == Status::kOk) device_blocks[*out] = {settings.device, bytes};
    return status;
  };
  api.device_free = [](void* data) {
    device_blocks.erase(data);
    give_back(data);
  };
  api.device_held = device_held;
  api.host_malloc = [](std::size_t bytes, void** out) {
    return allocate("host_malloc", bytes, out);
  };
  api.host_free = give_back;
  api.host_register = [](void*, std::size_t) {
    const Status status = outside_recordings("host_register");
    settings.n_held += status == Status::kOk ? 1 : 0;
    return status;
  };
  api.host_unregister = [](void*) { --settings.n_held; };
  api.device_address = [](void* host, void** out) {
    *out = host;
    return outcome("device_address");
  };
}

void set_streams(GpuApi& api) {
  api.stream_create = [](Stream* out) {
    const Status status = outcome("stream_create");
    if (status != Status::kOk) return status;
    *out = new CUstream_st(settings.device);
    (*out)->late = n_streams[settings.device]++ > 0 && settings.late;
    ++settings.n_held;
    return status;
  };
  api.stream_destroy = [](Stream stream) {
    if (stream->late) stream->run_late(stream->work.size());
    n_recording -= stream->recording ? 1 : 0;
    --n_streams[stream->device];
    delete stream;
    --settings.n_held;
  };
  api.stream_synchronize = [](Stream stream) {
    stream->join();
    if (stream->late) stream->run_late(stream->work.size());
    return stream->died ? Status::kDeviceFailed : outside_recordings("stream_synchronize");
  };
  api.stream_idle = [](Stream stream, bool* idle) {
    *idle = !stream->runs;
    return stream->died ? Status::kDeviceFailed : outside_recordings("stream_idle");
  };
  api.stream_wait_event = [](Stream, GpuEventHandle event) {
    const Status status = outcome("stream_wait_event");
    if (status == Status::kOk) event->wait();
    return status;
  };
  api.event_create = [](bool, GpuEventHandle* out) {
    return make("event_create", CUevent_st(), out);
  };
  api.event_destroy = [](GpuEventHandle event) {
    event->wait();
    delete event;
    --settings.n_held;
  };
  api.event_record = [](GpuEventHandle event, Stream stream) {
    if (event->late != stream) event->wait();
    const Status status = enqueue("event_record", stream, [event] { event->when = Clock::now(); });
    event->late = status == Status::kOk && stream->late ? stream : nullptr;
    event->n_before = stream->work.size();
    return status;
  };
  api.event_synchronize = [](GpuEventHandle event) {
    const Status status = outside_recordings("event_synchronize");
    if (status == Status::kOk) event->wait();
    return status;
  };
  api.event_done = [](GpuEventHandle event, bool* done) {
    *done = event->done();
    event->wait();  // it comes soon after
    return outside_recordings("event_done");
  };
  api.event_elapsed = [](GpuEventHandle from, GpuEventHandle to, float* milliseconds) {
    from->wait();
    to->wait();
    *milliseconds = std::chrono::duration<float, std::milli>(to->when - from->when).count();
    return outcome("event_elapsed");
  };
}

void set_work(GpuApi& api) {
  api.copy = [](void* to, const void* from, std::size_t bytes, CopyKind, Stream stream) {
    return enqueue("copy", stream, [=] { std::memcpy(to, from, bytes); });
  };
  api.copy_2d = [](const Copy2d& copy, Stream stream) {
    return enqueue("copy_2d", stream, [copy] {
      for (std::size_t i = 0; i < copy.n_rows; ++i) {
        std::memcpy(static_cast<std::byte*>(copy.to) + i * copy.to_stride,
                    static_cast<const std::byte*>(copy.from) + i * copy.from_stride,
                    copy.row_bytes);
      }
    });
  };
  api.fill = [](void* data, int byte, std::size_t bytes, Stream stream) {
    return enqueue("fill", stream, [=] { std::memset(data, byte, bytes); });
  };
  api.write_flag = [](void* flag, std::uint32_t value, Stream stream) {
    return launch("write_flag", stream, [=] {
      __atomic_store_n(static_cast<std::uint32_t*>(flag), value, __ATOMIC_RELEASE);
    });
  };
  api.wait_flag = [](void* flag, std::uint32_t value, Stream stream) {
    return launch("wait_flag", stream, [=] {
      const auto* word = static_cast<std::uint32_t*>(flag);
      while (static_cast<std::int32_t>(__atomic_load_n(word, __ATOMIC_ACQUIRE) - value) < 0)
        std::this_thread::yield();
    });
  };
  api.graph_begin = [](Stream stream) {
    const Status status = outcome("graph_begin");
    if (status != Status::kOk) return status;
    n_recording += stream->recording ? 0 : 1;
    stream->recording = true;
    return status;
  };
  api.graph_end = [](Stream stream, GpuGraphHandle* out) {
    n_recording -= stream->recording ? 1 : 0;
    stream->recording = false;
    return make("graph_end", CUgraphExec_st{std::exchange(stream->work, {})}, out);
  };
  api.graph_launch = [](GpuGraphHandle graph, Stream stream) {
    stream->join();
    const Status status = outcome("graph_launch");
    if (status != Status::kOk) return status;
    const bool dies = outcome("graph") != Status::kOk;  // in the middle
    stream->runs = true;
    stream->graph = std::thread([graph, stream, dies] {
      const std::size_t n = graph->work.size() / (dies ? 2 : 1);
      for (std::size_t i = 0; i < n; ++i) graph->work[i]();
      stream->died = dies;
      stream->runs = false;
    });
    return status;
  };
  api.graph_destroy = [](GpuGraphHandle graph) {
    delete graph;
    --settings.n_held;
  };
}

template <class Args>
std::int64_t rows_of(const Args& args) {
  if constexpr (requires { args.m; }) return args.m;
  if constexpr (requires { args.n_tokens; }) return args.n_tokens;
  if constexpr (requires { args.n_items; }) return args.n_items;
}

// A kernel, which wants at least one row.
#define LOOPS(name, Args)                                               \
  api.name = [](const Args& args, Stream stream) {                      \
    if (rows_of(args) <= 0) return Status::kBadArgument;                \
    return launch(#name, stream, [args] { host_kernels::name(args); }); \
  }

[[maybe_unused]] void set_lists(GpuApi& api) {
  api.list_rows_workspace = [](const ListArgs&) -> std::size_t {
    return settings.listed > 0 ? 256 : 0;
  };
  api.list_rows = [](const ListArgs& args, Stream stream) {
    return launch("list_rows", stream, [args] { host_kernels::list_rows(args, settings.listed); });
  };
  api.list_rows_reference = [](const ListArgs& args, Stream stream) {
    return launch("list_rows_reference", stream,
                  [args] { host_kernels::list_rows(args, kListed); });
  };
}

// What only the whole stand-in has.
[[maybe_unused]] void set_whole(GpuApi& api) {
  settings.total_bytes = std::size_t{4} << 30;
  api.has_moe = [](formats::Format) { return true; };
  api.moe_workspace = [](const MoeArgs&) { return settings.workspace; };
  api.attention_split_keys = [](const AttentionArgs&, const DeviceInfo&) -> std::int64_t {
    return kPageLen;
  };
  LOOPS(moe, MoeArgs);
  api.moe_reference = [](const MoeArgs& args, Stream stream) {
    return launch("moe_reference", stream, [args] { host_kernels::moe(args); });
  };
  LOOPS(widen_cache, WidenArgs);
  LOOPS(store_latents, StoreLatentsArgs);
  LOOPS(head_products, HeadProductsArgs);
  LOOPS(prepare_heads, HeadsArgs);
  LOOPS(add_rms_norm, NormArgs);
  LOOPS(rope, RopeArgs);
  LOOPS(silu_mul, SiluArgs);
  LOOPS(add, AddArgs);
  LOOPS(scale_rows, ScaleArgs);
  LOOPS(route, RouteArgs);
  api.score_and_route = [](const RouterArgs& args, const DeviceInfo&, BlasLt*, Stream stream) {
    return launch("score_and_route", stream, [args] { host_kernels::score_and_route(args); });
  };
  LOOPS(gather_rows, RowsArgs);
  LOOPS(scatter_add, ScatterAddArgs);
  api.pack_n16 = [](const PackN16Args& args, Stream stream) {
    return launch("pack_n16", stream, [args] { host_kernels::pack_n16(args); });
  };
  set_lists(api);
  api.attention_reference_workspace = [](const AttentionArgs& args) {
    return static_cast<std::size_t>(args.n_rows * args.n_heads * args.max_keys) * sizeof(float);
  };
  api.attention_reference = [](const AttentionArgs& args, Stream stream) {
    if (args.workspace_bytes < kt_gpu_api()->attention_reference_workspace(args))
      return Status::kNoWorkspace;
    return launch("attention", stream, [args] { host_kernels::attention(args); });
  };
}

void set_kernels(GpuApi& api) {
  api.status_text = [](Status status) {
    return status == Status::kNoMemory ? "out of memory" : "the device failed";
  };
  api.blas_open = [](BlasLt**) { return Status::kNoLibrary; };
  api.has_gemm = [](formats::Format) { return true; };
  api.packed_bytes = [](formats::Format format, std::int64_t n, std::int64_t k) {
    return static_cast<std::size_t>(n) * formats::row_bytes(format, k);
  };
  api.pack = [](formats::Format format, const void* rows, std::int64_t n, std::int64_t k,
                void* tiles, Stream stream) {
    const std::size_t bytes = static_cast<std::size_t>(n) * formats::row_bytes(format, k);
    return launch("pack", stream, [=] { std::memcpy(tiles, rows, bytes); });
  };
  api.unpack = [](const UnpackArgs& args, Stream stream) {
    return launch("unpack", stream, [args] { host_kernels::unpack(args); });
  };
#ifdef FAKE_WRONG_RESULTS
  static constexpr float kFactor = 1.1f;
#else
  static constexpr float kFactor = 1.0f;
#endif
  api.gemm = [](const GemmArgs& args, const DeviceInfo&, BlasLt*, Stream stream) {
    const auto n_outputs = static_cast<std::size_t>(args.m * args.w.n);
    settings.most_outputs = std::max(settings.most_outputs, n_outputs);
    return launch("gemm", stream, [args] { host_kernels::gemm(args, kFactor); });
  };
  api.gemm_siblings = [](const SiblingsArgs& args, const DeviceInfo&, BlasLt*, Stream stream) {
    return launch("gemm", stream, [args] {
      for (int i = 0; i < args.count; ++i) {
        GemmArgs product = args.products[i];
        product.x = args.products[0].x;
        product.x_type = args.products[0].x_type;
        product.x_stride = args.products[0].x_stride;
        product.m = args.products[0].m;
        host_kernels::gemm(product, kFactor);
        const std::int64_t row = settings.nan_row;
        if (row >= 0 && row < product.m)
          host_kernels::store(product.y, product.y_type, row * product.y_stride, NAN);
      }
    });
  };
  api.gemm_reference = [](const GemmArgs& args, Stream stream) {
    return launch("gemm_reference", stream, [args] { host_kernels::gemm(args, 1.0f); });
  };
  api.publish = [](const PublishArgs& args, Stream stream) {
    return launch("publish", stream, [args] {
      for (int i = 0; i < args.n_parts; ++i)
        std::memcpy(args.parts[i].to, args.parts[i].from, args.parts[i].bytes);
      __atomic_store_n(args.flag, args.value, __ATOMIC_RELEASE);
    });
  };
  api.add_tagged = [](const AddTaggedArgs& args, Stream stream) {
    return launch("add_tagged", stream, [args] {
      for (std::int64_t i = 0; i < args.n; ++i) {
        const auto* word = reinterpret_cast<const std::uint64_t*>(args.rows + i);
        std::uint64_t now = 0;
        while ((now = __atomic_load_n(word, __ATOMIC_RELAXED)) >> 32 != *args.tag)
          std::this_thread::yield();
        const auto row = std::bit_cast<float>(static_cast<std::uint32_t>(now));
        host_kernels::store(args.sum, args.type, i,
                            host_kernels::load(args.sum, args.type, i) + row);
      }
    });
  };
#ifdef FAKE_WHOLE
  set_whole(api);
#endif
}

// Every other function: not supported, nothing, 0.
template <class Result, class... Args>
void stub(Result (*&function)(Args...)) {
  function = [](Args...) -> Result {
    if constexpr (std::is_same_v<Result, Status>) return Status::kUnsupported;
    if constexpr (!std::is_same_v<Result, Status>) return Result();
  };
}

}  // namespace
}  // namespace kt::backend

extern "C" __attribute__((visibility("default"))) const kt::backend::GpuApi* kt_gpu_api() {
  using namespace kt::backend;
  static GpuApi api;
  api.version = KT_GPU_API_VERSION;
#define GPU_CALL(result, name, parameters) stub(api.name);
#define GPU_KERNEL(name) stub(api.name);
#include "backend/gpu/gpu_api.inc"
  set_devices(api);
  set_streams(api);
  set_work(api);
  set_kernels(api);
#if defined FAKE_NO_GPU
  api.device_count = [](const char** problem) {
    *problem = "no NVIDIA driver on this machine";
    return 0;
  };
#elif defined FAKE_OTHER_VERSION
  ++api.version;
#elif defined FAKE_MISSING_FUNCTION
  api.route = nullptr;
#elif defined FAKE_NO_TABLE
  return nullptr;
#endif
  return &api;
}

// For tests that do not know the settings: all fails from now on, or nothing any more.
extern "C" __attribute__((visibility("default"))) void fake_gpu_lose(bool lost) {
  fake_gpu_settings.failing = lost ? "all" : nullptr;
}
