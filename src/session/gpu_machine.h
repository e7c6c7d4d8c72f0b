// The GPUs of this machine, as planning and sessions see them: how many, and how much memory of
// each may be used, of what is free.
// Thread rule: values.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "backend/gpu/gpu.h"
#include "placement/machine.h"

namespace kt::session {

struct GpuMachine {
  std::shared_ptr<const backend::GpuLibrary> library;  // null: no plug-in
  std::vector<placement::Gpu> gpus;  // bytes: what may be used; rates are not known
  std::string left_out;              // for people, a line for each GPU that has too little
};

/// At most `most` GPUs (kAllGpus: all), at most `bytes` of each (0: what is free but for a margin).
/// One that has too little keeps its number, with 0 bytes, and does not count. None when there is
/// no plug-in or no driver, unless one was asked for: then throws as GpuLibrary::open. Throws
/// kUsage when `bytes` are too few, kIo when a GPU fails, and kNoMemory when none has enough while
/// other models of this process hold memory that would do.
GpuMachine find_gpus(const std::string& plugin, int most, std::uint64_t bytes);

/// Throws kUnsupported for numerics that GPUs do not have.
void check_gpu_options(const std::string& act, const std::string& kv);

}  // namespace kt::session
