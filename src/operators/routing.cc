#include "operators/kinds.h"

namespace kt::operators {

// Ids and weights are moved as rows of four-byte values.
void Routing::fetch(Step& step, std::int64_t n_rows) noexcept {
  if (ids != nullptr || gpu == nullptr) return;
  ids = step.arena.allocate<std::int32_t>(n_rows * n_active);
  weights = step.arena.allocate<float>(n_rows * n_active);
  const auto rows = [&](void* data) {
    return MatrixF{static_cast<float*>(data), n_rows, n_active, n_active};
  };
  gpu->download(gpu_ids, GpuType::kF32, rows(ids));
  gpu->download(gpu_weights, GpuType::kF32, rows(weights));
}

void Routing::send(Step& step, GpuStep& to, std::int64_t n_rows) noexcept {
  if (gpu == &to) return;
  fetch(step, n_rows);
  const auto bytes = static_cast<std::size_t>(n_rows * n_active) * sizeof(float);
  gpu = &to;
  gpu_ids = static_cast<std::int32_t*>(to.allocate(bytes));
  gpu_weights = static_cast<float*>(to.allocate(bytes));
  const auto rows = [&](const void* data) {
    return ConstMatrixF{static_cast<const float*>(data), n_rows, n_active, n_active};
  };
  to.upload(rows(ids), gpu_ids, GpuType::kF32);
  to.upload(rows(weights), gpu_weights, GpuType::kF32);
}

}  // namespace kt::operators
