#include "session/gpu_machine.h"

#include <algorithm>

#include "base/bytes.h"
#include "operators/step.h"

namespace kt::session {
namespace {

// What the driver takes later; the planner leaves a margin too. Less is not worth it.
constexpr std::size_t kDriver = std::size_t{256} << 20, kLeast = std::size_t{1} << 30;

struct Free {
  std::size_t bytes = 0, held = 0;  // held: by other models of this process
};

// Nothing of a GPU whose memory is so full that it cannot even be asked. Throws kIo when it fails.
Free free_of(const backend::GpuApi& api, int device, const backend::GpuDescription& description) {
  using backend::Status;
  Free free;
  std::size_t total = 0;
  Status status = api.use_device(device);
  if (status == Status::kOk) status = api.device_memory(&free.bytes, &total);
  if (status == Status::kNoMemory) return {};
  if (status != Status::kOk) {
    fail(ErrorCode::kIo, fmt::format("GPU {} ({})", device, description.name),
         "does not work: {}; CUDA_VISIBLE_DEVICES can hide it, --gpus 0 uses none",
         api.error_text());
  }
  free.held = api.device_held();
  return free;
}

// What is to be said where there is no GPU to use. Throws where one was asked for.
std::string refuse_none(const RunOptions& options, const GpuMachine& machine,
                        const std::string& driver, const OnWarning& on_warning) {
  std::string why = machine.left_out.empty() ? driver : machine.left_out;
  if (machine.library == nullptr)
    why = fmt::format("no GPU plug-in ({}) is beside kt", backend::GpuLibrary::kFileName);
  for (std::size_t at = 0; (at = why.find('\n')) != std::string::npos;) why.replace(at, 1, "; ");
  const char* flag = options.gpus > 0 ? "--gpus" : "--gpu-plugin";
  if (options.gpus > 0 || (!options.gpu_plugin.empty() && machine.left_out.empty())) {
    fail(ErrorCode::kUnsupported, flag,
         "there is no GPU to use: {}; without {}, or with --gpus 0, the CPU computes", why, flag);
  }
  if (options.gpu_memory > 0 && on_warning)
    on_warning("warning: --gpu-memory has no effect, there is no GPU to use: " + why + "\n");
  return why;
}

}  // namespace

void check_gpu_limits(const RunOptions& options) {
  constexpr int kMost = static_cast<int>(operators::kMaxGpus);
  if (options.gpus != kAllGpus && (options.gpus < 0 || options.gpus > kMost))
    fail(ErrorCode::kUsage, "--gpus", "{}: 0 to {} are possible", options.gpus, kMost);
  if (options.gpus != 0 && options.gpu_memory > 0 && options.gpu_memory < kLeast) {
    fail(ErrorCode::kUsage, "--gpu-memory", "{} is too little: {} at least, or --gpus 0",
         human_bytes(options.gpu_memory), human_bytes(kLeast));
  }
}

GpuMachine find_gpus(const RunOptions& options, const OnWarning& on_warning) {
  check_gpu_limits(options);
  const int most = options.gpus;
  const std::uint64_t bytes = options.gpu_memory;
  GpuMachine machine;
  if (most == 0) return machine;
  machine.library = backend::GpuLibrary::find(options.gpu_plugin);
  if (machine.library == nullptr) {
    machine.problem = refuse_none(options, machine, {}, on_warning);
    return machine;
  }
  const backend::GpuList list = machine.library->gpus();
  const backend::GpuApi& api = machine.library->api();
  const std::size_t n = std::min(list.gpus.size(), operators::kMaxGpus);
  constexpr double kWanted = static_cast<double>(kLeast + kDriver) / (std::size_t{1} << 30);
  int n_used = 0;
  bool others_hold = false;  // what would do
  for (std::size_t i = 0; i < n && (most < 0 || n_used < most); ++i) {
    const Free memory = free_of(api, static_cast<int>(i), list.gpus[i]);
    const auto usable = [&](std::size_t free) {
      const std::size_t left = free > kDriver ? free - kDriver : 0;
      const std::size_t wanted = bytes > 0 ? std::min<std::size_t>(left, bytes) : left;
      return wanted < kLeast ? 0 : wanted;
    };
    if (usable(memory.bytes) == 0) {
      machine.left_out +=
          fmt::format("{}cuda:{} ({}) is left out: {} are free, {:.2f} GiB are wanted",
                      machine.left_out.empty() ? "" : "\n", i, list.gpus[i].name,
                      human_bytes(memory.bytes), kWanted);
      if (memory.held > 0) {
        machine.left_out += fmt::format(", other models here hold {}", human_bytes(memory.held));
      }
      others_hold |= usable(memory.bytes + memory.held) > 0;
    } else {
      ++n_used;
    }
    machine.gpus.push_back({usable(memory.bytes), 0.0, 0.0});
  }
  if (n_used == 0 && others_hold) {
    fail(ErrorCode::kNoMemory, "GPU memory",
         "{}; close one, give each less (--gpu-memory), or --gpus 0", machine.left_out);
  }
  while (!machine.gpus.empty() && machine.gpus.back().bytes == 0) machine.gpus.pop_back();
  if (machine.gpus.empty())
    machine.problem = refuse_none(options, machine, list.problem, on_warning);
  return machine;
}

}  // namespace kt::session
