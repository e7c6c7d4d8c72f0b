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

namespace {

const dot::Kernel& choose_kernel(CpuCaps caps, ActPolicy act, tensor::Format format,
                                 std::int64_t k) {
  const dot::Kernel* kernel = nullptr;
  if (act != ActPolicy::kF32) kernel = dot::select(format, dot::Act::kQ8, k, caps);
  if (kernel == nullptr) kernel = dot::select(format, dot::Act::kF32, k, caps);
  if (kernel == nullptr) {
    fail(ErrorCode::kUnsupported, {},
         "rows of {} values do not divide into the blocks of {} that {} uses", k,
         formats::traits(format).block_len, formats::traits(format).name);
  }
  return *kernel;
}

}  // namespace

std::size_t packed_matrix_bytes(CpuCaps caps, ActPolicy act, tensor::Format format, std::int64_t n,
                                std::int64_t k) {
  return dot::packed_bytes(choose_kernel(caps, act, format, k), n, k);
}

PackedMatrix::PackedMatrix(const Cpu& cpu, tensor::Format format, std::int64_t n, std::int64_t k)
    : kernel_(&choose_kernel(cpu.caps, cpu.act, format, k)), n_(n), k_(k) {
  tile_bytes_ = dot::packed_bytes(*kernel_, kernel_->n_tile, k);
  data_ = tensor::Buffer(dot::packed_bytes(*kernel_, n, k));
}

void PackedMatrix::pack_rows(std::int64_t row, std::int64_t n_rows,
                             const std::byte* rows) noexcept {
  KT_CHECK(row % tile_rows() == 0 && row + n_rows <= n_);
  dot::pack(*kernel_, rows, n_rows, k_,
            data_.data() + static_cast<std::size_t>(row / tile_rows()) * tile_bytes_);
}

void PackedMatrix::dot(const dot::ActRows& act, std::int64_t m, std::int64_t row,
                       std::int64_t n_rows, float* out, std::int64_t out_stride) const noexcept {
  dot::DotArgs args;
  args.k = k_;
  args.weights = data_.data() + static_cast<std::size_t>(row / tile_rows()) * tile_bytes_;
  args.n = n_rows;
  if (act.q == nullptr || act.terms == 1) {
    args.act = act;
    args.m = m;
    args.out = out;
    args.out_stride = out_stride;
    kernel_->run(args);
    return;
  }
  constexpr std::int64_t kBlock = 32;  // activation rows whose two results wait on the stack
  float parts[2 * kBlock * kMaxSplitRows];
  KT_CHECK(n_rows <= kMaxSplitRows && act.terms == 2);
  args.out = parts;
  args.out_stride = n_rows;
  for (std::int64_t first = 0; first < m; first += kBlock) {
    const std::int64_t count = std::min(kBlock, m - first);
    args.act = offset_rows(act, first);
    args.m = 2 * count;
    kernel_->run(args);
    for (std::int64_t i = 0; i < count; ++i) {
      const float* high = parts + 2 * i * n_rows;
      const float* low = high + n_rows;
      float* to = out + (first + i) * out_stride;
      for (std::int64_t j = 0; j < n_rows; ++j) to[j] = high[j] + low[j];
    }
  }
}

dot::ActRows offset_rows(const dot::ActRows& act, std::int64_t row) {
  dot::ActRows r = act;
  if (r.f32 != nullptr) r.f32 += row * r.f32_stride;
  if (r.q != nullptr) {
    r.q += row * r.terms * r.q_stride;
    r.scale += row * r.terms * r.block_stride;
    r.sum += row * r.terms * r.block_stride;
  }
  return r;
}

Q8Rows::Q8Rows(const Cpu& cpu, tensor::Arena& arena, std::int64_t m, std::int64_t k)
    : k_(k), terms_(cpu.act_terms()) {
  q_ = arena.allocate<std::int8_t>(m * terms_ * k);
  scale_ = arena.allocate<float>(m * terms_ * k / dot::kQ8Block);
  sum_ = arena.allocate<float>(m * terms_ * k / dot::kQ8Block);
}

dot::ActRows Q8Rows::view() const {
  dot::ActRows r;
  r.q = q_;
  r.q_stride = k_;
  r.scale = scale_;
  r.sum = sum_;
  r.block_stride = k_ / dot::kQ8Block;
  r.terms = terms_;
  return r;
}

void Q8Rows::quantize(const Cpu& cpu, std::int64_t row, std::int64_t col, std::int64_t n,
                      const float* x) const noexcept {
  const std::int64_t blocks = k_ / dot::kQ8Block;
  const auto term = [&](std::int64_t t, std::int64_t at, std::int64_t count, const float* values) {
    const std::int64_t r = row * terms_ + t;
    const std::int64_t block = r * blocks + at / dot::kQ8Block;
    cpu.quantize(values, count, q_ + r * k_ + at, scale_ + block, sum_ + block);
  };
  term(0, col, n, x);
  if (terms_ == 1) return;
  constexpr std::int64_t kPart = 256;
  float left[kPart];
  const std::int64_t high = row * terms_;
  for (std::int64_t first = 0; first < n; first += kPart) {
    const std::int64_t count = std::min(kPart, n - first);
    const std::int8_t* q = q_ + high * k_ + col + first;
    const float* scale = scale_ + high * blocks + (col + first) / dot::kQ8Block;
    for (std::int64_t i = 0; i < count; ++i) {
      left[i] = x[first + i] - scale[i / dot::kQ8Block] * static_cast<float>(q[i]);
    }
    term(1, col + first, count, left);
  }
}

void Q8Rows::copy(std::int64_t row, const dot::ActRows& other, std::int64_t from) const noexcept {
  const dot::ActRows source = offset_rows(other, from);
  const std::int64_t blocks = k_ / dot::kQ8Block;
  const auto n = static_cast<std::size_t>(terms_);
  std::memcpy(q_ + row * terms_ * k_, source.q, n * static_cast<std::size_t>(k_));
  std::memcpy(scale_ + row * terms_ * blocks, source.scale,
              n * static_cast<std::size_t>(blocks) * sizeof(float));
  std::memcpy(sum_ + row * terms_ * blocks, source.sum,
              n * static_cast<std::size_t>(blocks) * sizeof(float));
}

dot::ActRows Activation::rows_for(const PackedMatrix& matrix, Cpu& cpu, tensor::Arena& arena) {
  if (!matrix.wants_q8()) {
    dot::ActRows r;
    r.f32 = x_.data;
    r.f32_stride = x_.stride;
    return r;
  }
  if (!quantized_) {
    const Q8Rows rows(cpu, arena, x_.n_rows, x_.n_cols);
    const auto quantize_row = [&](std::int64_t r, int) {
      rows.quantize(cpu, r, 0, x_.n_cols, x_.row(r));
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

// Whole tiles per task: small enough that every thread gets several, large enough to amortise the
// call.
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
