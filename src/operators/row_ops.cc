#include "operators/row_ops.h"

#include <algorithm>

#include "operators/parallel.h"

namespace kt::operators {

Activation pick_logit_rows(Step& step, Activation& x) noexcept {
  const std::span<const std::int32_t> wanted = step.batch.logit_rows;
  const auto n = static_cast<std::int64_t>(wanted.size());
  Activation picked(step, n, x.n_cols(), x.gpu_type());
  if (n == 0) return picked;
  if (GpuStep* gpu = x.gpu()) {
    const void* from = x.read_on(*gpu);
    void* to = picked.write_on(*gpu);
    gpu->run("the rows that want logits", [&](auto& k, auto stream) {
      return k.gather_rows({from, x.gpu_type(), gpu->logit_rows(), to, x.gpu_type(), n, x.n_cols()},
                           stream);
    });
    return picked;
  }
  const MatrixF rows = picked.write();
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const float* row = x.f32().row(wanted[i]);
    std::copy(row, row + x.n_cols(), rows.row(static_cast<std::int64_t>(i)));
  }
  return picked;
}

bool list_logits(Step& step, Activation& logits) noexcept {
  GpuStep* gpu = logits.gpu();
  if (step.lists == nullptr || gpu == nullptr) return false;
  kernels::cuda::ListArgs args;
  args.m = logits.n_rows();
  args.n = args.stride = logits.n_cols();
  args.workspace_bytes = gpu->gpu().api().list_rows_workspace(args);
  if (args.workspace_bytes == 0) return false;  // rows that are too long
  args.logits = static_cast<const float*>(logits.read_on(*gpu));
  args.scales = gpu->list_scales();
  args.workspace = gpu->allocate(args.workspace_bytes);
  try {
    step.lists->lists.resize(static_cast<std::size_t>(args.m));
  } catch (const std::exception&) {
    return false;
  }
  gpu->list(args, step.lists->lists);
  step.lists->gpu = gpu;
  step.lists->rows = args.logits;
  return true;
}

const void* read_bf16(GpuStep& gpu, Activation& x) noexcept {
  const void* from = x.read_on(gpu);
  if (x.gpu_type() == GpuType::kBF16) return from;
  void* to = gpu.allocate(static_cast<std::size_t>(x.n_rows() * x.n_cols()) * 2);
  gpu.run("rounding to bf16", [&](auto& k, auto stream) {
    return k.gather_rows(
        {from, x.gpu_type(), gpu.row_numbers(), to, GpuType::kBF16, x.n_rows(), x.n_cols()},
        stream);
  });
  return to;
}

void add_rows(Step& step, Activation& x, Activation& rows) noexcept {
  if (GpuStep* gpu = rows.gpu()) {
    void* to = rows.update_on(*gpu);
    if (x.gpu() == nullptr) {
      gpu->add(x.f32(), to, rows.gpu_type());
      return;
    }
    const void* from = x.read_on(*gpu);
    gpu->run("a sum of rows", [&](auto& k, auto stream) {
      return k.add({to, rows.gpu_type(), from, x.gpu_type(), x.n_cols(), x.n_rows(), x.n_cols()},
                   stream);
    });
    return;
  }
  for_summed_rows(step, rows, &x, [](std::int64_t) {});
}

void add_deferred(Step& step, Activation& rows) noexcept {
  if (!step.deferral.pending) return;
  add_rows(step, *step.deferral.rows, rows);
  step.deferral.pending = false;
}

void clear_rows(Step& step, Activation& rows, std::optional<int> gpu) noexcept {
  if (gpu) {
    GpuStep& there = step.gpu(*gpu);
    void* to = rows.write_on(there);
    const auto bytes = static_cast<std::size_t>(rows.n_rows() * rows.n_cols()) *
                       kernels::cuda::type_bytes(rows.gpu_type());
    there.run("zeros", [&](auto& k, auto stream) { return k.fill(to, 0, bytes, stream); });
    return;
  }
  const MatrixF zero = rows.write();
  for (std::int64_t r = 0; r < zero.n_rows; ++r)
    std::fill(zero.row(r), zero.row(r) + zero.n_cols, 0.0f);
}

}  // namespace kt::operators
