#include <cuda_runtime.h>

#include "kernels/cuda/device/errors.h"
#include "kernels/cuda/device/tensor_map.h"

namespace kt::kernels::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

/// The driver's function, which no library is linked for.
Encode find_encode() {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult result{};
  const Status asked = status_of(cudaGetDriverEntryPointByVersion(
      "cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &result));
  const bool found = asked == Status::kOk && result == cudaDriverEntryPointSuccess;
  return found ? reinterpret_cast<Encode>(entry) : nullptr;
}

}  // namespace

Status make_map(const RowsMap& rows, CUtensorMap* map) {
  static const Encode encode = find_encode();
  if (encode == nullptr) {
    remember_error("the driver has no cuTensorMapEncodeTiled");
    return Status::kDeviceFailed;
  }
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(rows.columns),
                              static_cast<cuuint64_t>(rows.heads),
                              static_cast<cuuint64_t>(rows.rows)};
  const std::int64_t head_stride = rows.heads > 1 ? rows.head_stride : rows.row_stride;
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(head_stride) * 2,
                                static_cast<cuuint64_t>(rows.row_stride) * 2};
  const cuuint32_t box[] = {64, 1, static_cast<cuuint32_t>(rows.box_rows)}, steps[] = {1, 1, 1};
  const CUresult result =
      encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(rows.base), sizes, strides,
             box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return Status::kOk;
  remember_error("cuTensorMapEncodeTiled: error %d", static_cast<int>(result));
  return Status::kDeviceFailed;
}

}  // namespace kt::kernels::cuda
