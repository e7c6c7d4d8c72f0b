// cuBLASLt, looked up when the program runs, so that a machine without it still loads and runs
// everything else.
//
//   y[m, n] = x[m, k] · w[n, k]ᵀ   x and w bf16, y f32 or bf16, sums in f32
// The algorithm for a shape is asked for once and kept. Thread rule: one object belongs to one
// thread.
#pragma once
#include <memory>

#include "kernels/cuda/status.h"

namespace kt::kernels::cuda {

struct BlasLtArgs {
  const void* x = nullptr;  // [m, k] bf16, x_stride elements apart
  std::int64_t x_stride = 0;
  const void* w = nullptr;  // [n, k] bf16, contiguous
  void* y = nullptr;        // [m, n], y_stride elements apart
  Type y_type = Type::kF32;
  std::int64_t y_stride = 0;
  std::int64_t m = 0, n = 0, k = 0;
  void* workspace = nullptr;  // kBlasWorkspaceBytes, 256-byte aligned
};

inline constexpr std::size_t kBlasWorkspaceBytes = 32 << 20;

class BlasLt {
 public:
  /// Null, and kNoLibrary or kDeviceFailed, when this machine's cuBLASLt cannot be used.
  static std::unique_ptr<BlasLt> open(Status* status);
  ~BlasLt();
  BlasLt(const BlasLt&) = delete;
  BlasLt& operator=(const BlasLt&) = delete;

  Status multiply(const BlasLtArgs& args, Stream stream) noexcept;

 private:
  struct Library;
  explicit BlasLt(std::unique_ptr<Library> library);
  std::unique_ptr<Library> library_;
};

}  // namespace kt::kernels::cuda
