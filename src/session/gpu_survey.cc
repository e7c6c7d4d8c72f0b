#include "session/gpu_survey.h"

#include <algorithm>

#include "base/bytes.h"

namespace kt::session {
namespace {

// Opened without memory: what is free is known once the device is in use.
std::size_t free_bytes(const std::shared_ptr<const backend::GpuLibrary>& library, int device) {
  const backend::Gpu opened(library, device, 0);
  std::size_t free = 0, total = 0;
  opened.check(opened.api().device_memory(&free, &total), "device_memory");
  return free;
}

// How much of it to try.
std::size_t part_of(std::size_t free) {
  constexpr std::size_t kMost = std::size_t{640} << 20;
  return std::min(free - free / 8, kMost);
}

SurveyedGpu survey(const std::shared_ptr<const backend::GpuLibrary>& library, int device,
                   const backend::GpuDescription& description) {
  SurveyedGpu result;
  result.description = description;
  try {
    result.free_bytes = free_bytes(library, device);
    const std::size_t bytes = part_of(result.free_bytes);
    if (bytes < backend::kGpuCheckBytes) {
      result.problem = "not tested: less than " + human_bytes(backend::kGpuCheckBytes) + " free";
      return result;
    }
    backend::Gpu gpu(library, device, bytes);
    result.checks = backend::check_gpu(gpu, backend::common_gpu_kernels());
    result.rates = backend::measure_gpu(gpu);
  } catch (const Error& error) {
    result.problem = error.what();
  }
  return result;
}

}  // namespace

backend::GpuRates gpu_rates(const std::shared_ptr<const backend::GpuLibrary>& library, int device) {
  constexpr std::size_t kLeast = std::size_t{128} << 20;  // half of which no cache holds
  const std::size_t bytes = std::min(part_of(free_bytes(library, device)), 2 * kLeast);
  if (bytes < kLeast) return {};
  backend::Gpu gpu(library, device, bytes);
  return backend::measure_gpu(gpu);
}

GpuSurvey survey_gpus(const std::string& plugin) {
  GpuSurvey result;
  try {
    const auto library = backend::GpuLibrary::find(plugin);
    if (library == nullptr) return result;
    result.plugin = library->path();
    const backend::GpuList list = library->gpus();
    result.problem = list.problem;
    for (std::size_t i = 0; i < list.gpus.size(); ++i)
      result.gpus.push_back(survey(library, static_cast<int>(i), list.gpus[i]));
  } catch (const Error& error) {
    if (!plugin.empty()) throw;
    result.problem = error.what();
  }
  return result;
}

}  // namespace kt::session
