#include "session/gpu_survey.h"

#include <algorithm>

#include "base/bytes.h"

namespace kt::session {
namespace {

SurveyedGpu survey(const std::shared_ptr<const backend::GpuLibrary>& library, int device,
                   const backend::GpuDescription& description) {
  constexpr std::size_t kMost = std::size_t{640} << 20;
  SurveyedGpu result;
  result.description = description;
  try {
    // Opened without memory first: what is free is known once the device is in use.
    const backend::Gpu opened(library, device, 0);
    std::size_t total = 0;
    opened.check(opened.api().device_memory(&result.free_bytes, &total), "device_memory");
    const std::size_t bytes = std::min(result.free_bytes - result.free_bytes / 8, kMost);
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
