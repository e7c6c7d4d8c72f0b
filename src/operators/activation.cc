#include "operators/activation.h"

namespace kt::operators {

Activation::Activation(Step& step, ConstMatrixF x, GpuType on_gpu)
    : host_(x), rounded_(x), gpu_type_(on_gpu) {
  const auto bytes =
      static_cast<std::size_t>(x.n_rows * x.n_cols) * kernels::cuda::type_bytes(on_gpu);
  for (const auto& gpu : step.gpus)
    on_gpus_[static_cast<std::size_t>(gpu->index())] = gpu->allocate(bytes);
}

Activation Activation::on(Step& step, MatrixF x, GpuType on_gpu) {
  Activation rows(step, ConstMatrixF(x), on_gpu);
  rows.writable_ = x.data;
  return rows;
}

Activation::Activation(Step& step, std::int64_t n_rows, std::int64_t n_cols, GpuType on_gpu)
    : Activation(on(step, step.arena.matrix(n_rows, n_cols), on_gpu)) {}

void Activation::fetch() {
  const GpuStep::Fetch fetch = fetch_args();
  gpu_->download({&fetch, 1});
  on_host_ = true;
}

void Activation::send(GpuStep& gpu) {
  gpu.upload(f32(), at(gpu), gpu_type_);
  gpu_ = &gpu;
}

}  // namespace kt::operators
