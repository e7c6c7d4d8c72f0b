#include "operators/kinds.h"

namespace kt::operators {

Routing Routing::on(GpuStep& gpu, std::int64_t n_rows, std::int64_t n_active) noexcept {
  const std::int64_t n = n_rows * n_active;
  auto* block = static_cast<float*>(gpu.allocate(static_cast<std::size_t>(2 * n) * sizeof(float)));
  Routing routing;
  routing.n_active = n_active;
  routing.gpu = &gpu;
  routing.gpu_ids = reinterpret_cast<std::int32_t*>(block);
  routing.gpu_weights = block == nullptr ? nullptr : block + n;
  return routing;
}

// Ids and weights are moved as rows of four-byte values, in one go.
void Routing::fetch(Step& step, std::int64_t n_rows, Activation* with) noexcept {
  if (ids != nullptr || gpu == nullptr) return;
  const std::int64_t n = n_rows * n_active;
  auto* block = step.arena.allocate<float>(2 * n);
  ids = reinterpret_cast<std::int32_t*>(block);
  weights = block + n;
  GpuStep::Fetch fetches[2] = {{gpu_ids, GpuType::kF32, {block, 2 * n_rows, n_active, n_active}}};
  std::size_t n_fetches = 1;
  if (with != nullptr) {
    if (const auto rows = with->take_fetch(*gpu)) fetches[n_fetches++] = *rows;
  }
  gpu->download({fetches, n_fetches});
}

void Routing::send(Step& step, GpuStep& to, std::int64_t n_rows) noexcept {
  if (gpu == &to) return;
  fetch(step, n_rows);
  const Routing there = on(to, n_rows, n_active);
  gpu = &to;
  gpu_ids = there.gpu_ids;
  gpu_weights = there.gpu_weights;
  const auto rows = [&](const void* data) {
    return ConstMatrixF{static_cast<const float*>(data), n_rows, n_active, n_active};
  };
  to.upload(rows(ids), gpu_ids, GpuType::kF32);
  to.upload(rows(weights), gpu_weights, GpuType::kF32);
}

}  // namespace kt::operators
