#include "backend/cpu/cpu.h"

#include <algorithm>
#include <cstring>

namespace kt::backend {

namespace dot = kernels::dot;

Cpu::Cpu(int n_threads, const std::vector<int>& cores, CpuCaps caps_in, ActPolicy act_in)
    : pool(n_threads, cores),
      caps(caps_in),
      act(act_in),
      quantize(dot::select_quantize(caps_in)),
      elementwise(&kernels::elementwise::select(caps_in)),
      attention(&kernels::attention::select(caps_in)) {}

PackedMatrix::PackedMatrix(const Cpu& cpu, tensor::Format format, std::int64_t n, std::int64_t k)
    : n_(n), k_(k) {
  if (cpu.act == ActPolicy::kQ8) kernel_ = dot::select(format, dot::Act::kQ8, k, cpu.caps);
  if (kernel_ == nullptr) kernel_ = dot::select(format, dot::Act::kF32, k, cpu.caps);
  if (kernel_ == nullptr) {
    fail(ErrorCode::kUnsupported, {}, "rows of {} values do not divide into the blocks of {} that {} uses",
         k, formats::traits(format).block_len, formats::traits(format).name);
  }
  tile_bytes_ = dot::packed_bytes(*kernel_, kernel_->n_tile, k);
  data_ = tensor::Buffer(dot::packed_bytes(*kernel_, n, k));
}

void PackedMatrix::pack_rows(std::int64_t row, std::int64_t n_rows, const std::byte* rows) noexcept {
  KT_CHECK(row % tile_rows() == 0 && row + n_rows <= n_);
  dot::pack(*kernel_, rows, n_rows, k_,
            data_.data() + static_cast<std::size_t>(row / tile_rows()) * tile_bytes_);
}

void PackedMatrix::dot(const dot::ActRows& act, std::int64_t m, std::int64_t row, std::int64_t n_rows,
                       float* out, std::int64_t out_stride) const noexcept {
  dot::DotArgs args;
  args.act = act;
  args.m = m;
  args.k = k_;
  args.weights = data_.data() + static_cast<std::size_t>(row / tile_rows()) * tile_bytes_;
  args.n = n_rows;
  args.out = out;
  args.out_stride = out_stride;
  kernel_->run(args);
}

dot::ActRows offset_rows(const dot::ActRows& act, std::int64_t row) {
  dot::ActRows r = act;
  if (r.f32 != nullptr) r.f32 += row * r.f32_stride;
  if (r.q != nullptr) {
    r.q += row * r.q_stride;
    r.scale += row * r.block_stride;
    r.sum += row * r.block_stride;
  }
  return r;
}

Q8Rows::Q8Rows(tensor::Arena& arena, std::int64_t m, std::int64_t k_in)
    : q(arena.allocate<std::int8_t>(m * k_in)),
      scale(arena.allocate<float>(m * k_in / dot::kQ8Block)),
      sum(arena.allocate<float>(m * k_in / dot::kQ8Block)),
      k(k_in) {}

dot::ActRows Q8Rows::view() const {
  dot::ActRows r;
  r.q = q;
  r.q_stride = k;
  r.scale = scale;
  r.sum = sum;
  r.block_stride = k / dot::kQ8Block;
  return r;
}

dot::ActRows Activation::rows_for(const PackedMatrix& matrix, Cpu& cpu, tensor::Arena& arena) {
  if (!matrix.wants_q8()) {
    dot::ActRows r;
    r.f32 = x_.data;
    r.f32_stride = x_.stride;
    return r;
  }
  if (!quantized_) {
    const std::int64_t k = x_.n_cols;
    const Q8Rows rows(arena, x_.n_rows, k);
    const auto quantize_row = [&](std::int64_t r, int) {
      const std::int64_t blocks = k / dot::kQ8Block;
      cpu.quantize(x_.row(r), k, rows.q + r * k, rows.scale + r * blocks, rows.sum + r * blocks);
    };
    if (x_.n_rows < 4) {  // a parallel region costs more than this work
      for (std::int64_t r = 0; r < x_.n_rows; ++r) quantize_row(r, 0);
    } else {
      cpu.pool.run(x_.n_rows, quantize_row);
    }
    q8_ = rows.view();
    quantized_ = true;
  }
  return q8_;
}

namespace {

struct GemmTasks {
  std::int64_t rows_per_task = 0;
  std::int64_t n_tasks = 0;
};

// Whole tiles per task: small enough that every thread gets several, large enough to amortise the call.
GemmTasks split(const PackedMatrix& matrix, std::int64_t n_total, int n_threads) {
  const std::int64_t tile = matrix.tile_rows();
  const std::int64_t wanted = std::clamp<std::int64_t>(n_total / (4 * n_threads), 16, 128);
  GemmTasks t;
  t.rows_per_task = std::max<std::int64_t>(1, wanted / tile) * tile;
  t.n_tasks = (matrix.n() + t.rows_per_task - 1) / t.rows_per_task;
  return t;
}

void run_task(const GemmCall& call, std::int64_t row, std::int64_t n_rows) noexcept {
  constexpr std::int64_t kPanel = 128;  // activation rows that stay in L2 while weight tiles pass
  for (std::int64_t m0 = 0; m0 < call.m; m0 += kPanel) {
    const std::int64_t m = std::min(kPanel, call.m - m0);
    float* out = call.out.row(m0) + row;
    call.matrix->dot(offset_rows(call.act, m0), m, row, n_rows, out, call.out.stride);
    if (call.bias == nullptr) continue;
    for (std::int64_t i = 0; i < m; ++i) {
      for (std::int64_t j = 0; j < n_rows; ++j) out[i * call.out.stride + j] += call.bias[row + j];
    }
  }
}

}  // namespace

void gemm(Cpu& cpu, std::span<const GemmCall> calls) noexcept {
  constexpr std::size_t kMaxCalls = 8;
  KT_CHECK(calls.size() <= kMaxCalls);
  std::int64_t n_total = 0;
  for (const GemmCall& c : calls) n_total += c.matrix->n();
  GemmTasks tasks[kMaxCalls];
  std::int64_t n_tasks = 0;
  for (std::size_t i = 0; i < calls.size(); ++i) {
    tasks[i] = split(*calls[i].matrix, n_total, cpu.pool.size());
    n_tasks += tasks[i].n_tasks;
  }
  cpu.pool.run(n_tasks, [&](std::int64_t task, int) {
    std::size_t i = 0;
    while (task >= tasks[i].n_tasks) task -= tasks[i++].n_tasks;
    const std::int64_t row = task * tasks[i].rows_per_task;
    run_task(calls[i], row, std::min(tasks[i].rows_per_task, calls[i].matrix->n() - row));
  });
}

}  // namespace kt::backend
