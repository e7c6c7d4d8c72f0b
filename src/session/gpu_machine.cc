#include "session/gpu_machine.h"

#include <algorithm>

#include "base/bytes.h"
#include "operators/step.h"

namespace kt::session {

GpuMachine find_gpus(const std::string& plugin, int most, std::uint64_t bytes) {
  // What the driver takes later; the planner leaves a margin too. Less is not worth it.
  constexpr std::size_t kDriver = std::size_t{256} << 20, kLeast = std::size_t{1} << 30;
  GpuMachine machine;
  if (most == 0) return machine;
  if (bytes > 0 && bytes < kLeast) {
    fail(ErrorCode::kUsage, "--gpu-memory", "{} is too little: {} at least, or --gpus 0",
         human_bytes(bytes), human_bytes(kLeast));
  }
  machine.library = backend::GpuLibrary::find(plugin);
  if (machine.library == nullptr) return machine;
  const backend::GpuList list = machine.library->gpus();
  const backend::GpuApi& api = machine.library->api();
  const std::size_t n = std::min(list.gpus.size(), operators::kMaxGpus);
  int n_used = 0;
  for (std::size_t i = 0; i < n && (most < 0 || n_used < most); ++i) {
    std::size_t free = 0, total = 0;
    using kernels::cuda::Status;
    const bool works = api.use_device(static_cast<int>(i)) == Status::kOk &&
                       api.device_memory(&free, &total) == Status::kOk;
    const std::string problem = works ? human_bytes(free) + " are free" : api.error_text();
    std::size_t usable = free > kDriver ? free - kDriver : 0;
    if (bytes > 0) usable = std::min<std::size_t>(usable, bytes);
    if (!works || usable < kLeast) {
      usable = 0;
      machine.left_out +=
          fmt::format("{}cuda:{} ({}) is left out: {}", machine.left_out.empty() ? "" : "\n", i,
                      list.gpus[i].name, problem);
    } else {
      ++n_used;
    }
    machine.gpus.push_back({usable, 0.0, 0.0});
  }
  while (!machine.gpus.empty() && machine.gpus.back().bytes == 0) machine.gpus.pop_back();
  return machine;
}

void check_gpu_options(const std::string& act, const std::string& kv) {
  if (act == "f32") {
    fail(ErrorCode::kUnsupported, "--act",
         "f32: GPUs compute with bf16 activations; --gpus 0 uses none");
  }
  if (kv == "f16" || kv == "bf16" || kv == "f8_e4m3") return;
  fail(ErrorCode::kUnsupported, "--kv",
       "{}: GPUs keep keys and values in bf16 or f8_e4m3; --gpus 0 uses none", kv);
}

}  // namespace kt::session
