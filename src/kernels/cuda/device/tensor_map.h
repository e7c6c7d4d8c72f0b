// Tensor maps, by which the copy engine of a Hopper GPU finds boxes of memory. Thread rule: pure
// but for the thread's device.
#pragma once
#include <cuda.h>

#include "kernels/cuda/status.h"

namespace kt::kernels::cuda {

/// A bf16 tensor [rows, heads, columns] of which boxes of [box_rows, one head, 64 columns] are
/// copied, 128 bytes a row in swizzle128() order (hopper.cuh). Strides in elements, multiples of 8;
/// base aligned to 16 bytes.
struct RowsMap {
  const void* base = nullptr;
  std::int64_t rows = 0, heads = 1, columns = 0;
  std::int64_t row_stride = 0, head_stride = 0;
  int box_rows = 64;
};
/// kDeviceFailed: the driver has no such function, or refused.
Status make_map(const RowsMap& rows, CUtensorMap* map);

}  // namespace kt::kernels::cuda
