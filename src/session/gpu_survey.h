// The GPUs of this machine for `kt doctor`: what the plug-in shows, whether its fast kernels agree
// with their slow twins, and how fast memory and link are.
// Thread rule: one thread.
#pragma once
#include <string>
#include <vector>

#include "backend/gpu/rates.h"
#include "backend/gpu/self_check.h"

namespace kt::session {

struct SurveyedGpu {
  backend::GpuDescription description;
  std::size_t free_bytes = 0;  // before the survey took any
  std::vector<backend::GpuCheck> checks;
  backend::GpuRates rates;
  std::string problem;  // why checks or rates are missing
};

struct GpuSurvey {
  std::string plugin;   // path; empty: there is none
  std::string problem;  // why there are no GPUs
  std::vector<SurveyedGpu> gpus;
};

/// Rates of a GPU, measured in a part of what is free of its memory; zeros where that is too
/// little.
backend::GpuRates gpu_rates(const std::shared_ptr<const backend::GpuLibrary>& library, int device);

/// Opens the plug-in as GpuLibrary::find does and tries every GPU. A plug-in that was asked for and
/// cannot be used throws; one that was found is a problem.
GpuSurvey survey_gpus(const std::string& plugin);

}  // namespace kt::session
