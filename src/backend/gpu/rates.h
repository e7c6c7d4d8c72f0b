// How fast a GPU reads its memory and exchanges data with pinned host memory, measured in a
// fraction of a second.
//
//   read = bytes of a bf16 matrix larger than the caches / time of its product with one row
// Thread rule: as the Gpu.
#pragma once
#include "backend/gpu/gpu.h"

namespace kt::backend {

/// Bytes per second; 0: not measured.
struct GpuRates {
  double read = 0.0;
  double to_device = 0.0, to_host = 0.0;
};

/// Uses half of the reserved memory that is free, at most 256 MiB, and pinned memory of a quarter
/// of that.
GpuRates measure_gpu(Gpu& gpu);

}  // namespace kt::backend
