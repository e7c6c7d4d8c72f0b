// The GPUs of this machine, as planning and sessions see them: how many, and how much memory of
// each may be used, of what is free.
// Thread rule: values.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "backend/gpu/gpu.h"
#include "placement/machine.h"
#include "session/placing.h"

namespace kt::session {

struct GpuMachine {
  std::shared_ptr<const backend::GpuLibrary> library;  // null: no plug-in
  std::vector<placement::Gpu> gpus;  // bytes: what may be used; rates are not known
  std::string left_out;              // for people, a line for each GPU that has too little
  std::string problem;               // for people, why there is none; empty: none is wanted
};

/// Throws kUsage for a number of GPUs that cannot be, and for memory that is too little.
void check_gpu_limits(const RunOptions& options);

/// The GPUs that `gpus`, `gpu_memory` and `gpu_plugin` of the options allow. One that has too
/// little memory keeps its number, with 0 bytes, and does not count. Where there is none, that is
/// an error (kUnsupported) if a number of them was asked for, or a plug-in that shows none, and a
/// warning if so much of their memory was. Throws as check_gpu_limits and GpuLibrary::find, kIo
/// when a GPU fails, kNoMemory when none has enough while other models of this process hold memory
/// that would do.
GpuMachine find_gpus(const RunOptions& options, const OnWarning& on_warning);

}  // namespace kt::session
