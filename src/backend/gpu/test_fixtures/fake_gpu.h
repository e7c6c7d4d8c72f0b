// What a test tells the stand-in of a GPU plug-in (fake_gpu.cc): it exports fake_gpu_settings.
// Thread rule: one thread.
#pragma once
#include "backend/gpu/gpu_api.h"

namespace kt::backend {

struct FakeGpuSettings {
  std::size_t total_bytes = std::size_t{64} << 20;
  std::size_t taken_bytes = 0;    // by other programs
  int taken_on = -1;              // of which device; -1: of each
  std::size_t workspace = 0;      // that experts say they want
  const char* failing = nullptr;  // the call that fails, by its name in gpu_api.inc; or "all"
  Status failure = Status::kDeviceFailed;
  std::int32_t listed = kernels::cuda::kListed;  // of a row of logits at most; 0: lists of no rows
  bool late = false;             // streams but the first of a device run when they are waited for
  std::size_t most_outputs = 0;  // values that a product gave at most
  std::int64_t nan_row = -1;     // of products, which gets a NaN
  int device = -1;               // that use_device was last called for
  std::size_t n_held = 0;        // of everything that must be given back
};

}  // namespace kt::backend
