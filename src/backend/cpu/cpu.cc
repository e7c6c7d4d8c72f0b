#include "backend/cpu/cpu.h"

#include <algorithm>
#include <cstring>

namespace kt::backend {

namespace dot = kernels::dot;

Cpu::Cpu(int n_threads, const std::vector<int>& cores, CpuCaps caps_in, ActPolicy act_in)
    : Cpu(CpuPlace{.workers = {{0, n_threads, cores}}, .interleave = {}}, caps_in, act_in) {}

Cpu::Cpu(CpuPlace place_in, CpuCaps caps_in, ActPolicy act_in)
    : place(std::move(place_in)),
      pool(place.workers),
      caps(caps_in),
      act(act_in),
      batch_kernels(backend::batch_kernels(caps_in, act_in)),
      quantize(dot::select_quantize(caps_in)),
      quantize_twice(dot::select_quantize_twice(caps_in)),
      quantize16(dot::select_quantize16(caps_in)),
      to_tiles(dot::select_to_tiles(caps_in)),
      to_i8_tiles(dot::select_to_i8_tiles(caps_in)),
      elementwise(&kernels::elementwise::select(caps_in)),
      attention(&kernels::attention::select(caps_in)),
      batch_attention(&kernels::attention::select(caps_in, true)) {}

namespace {

// The kernel for batches that reads what `kernel` reads, or null.
const dot::Kernel* choose_batch_kernel(const dot::Kernel& kernel, const Cpu& cpu, std::int64_t k,
                                       WeightScales scales) {
  const auto choose = [&](dot::Act act) -> const dot::Kernel* {
    const dot::Kernel* batch = dot::select(kernel.weight, act, k, cpu.caps);
    const bool fits = batch != nullptr && batch->pack == kernel.pack;
    return fits && cpu.allows_batch(batch->caps) ? batch : nullptr;
  };
  const dot::Kernel* batch = nullptr;
  if (scales == WeightScales::kOfRows && cpu.act == ActPolicy::kQ8) batch = choose(dot::Act::kI8);
  return batch != nullptr ? batch : choose(dot::Act::kBf16);
}

const dot::Kernel& choose_kernel(CpuCaps caps, ActPolicy act, tensor::Format format,
                                 std::int64_t k) {
  const dot::Kernel* kernel = dot::select(format, rounded_form(caps, act), k, caps);
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
  return (dot::packed_bytes(choose_kernel(caps, act, format, k), n, k) + 63) / 64 * 64;
}

PackedMatrix::PackedMatrix(const Cpu& cpu, tensor::Format format, std::int64_t n, std::int64_t k,
                           WeightScales scales)
    : kernel_(&choose_kernel(cpu.caps, cpu.act, format, k)),
      batch_(choose_batch_kernel(*kernel_, cpu, k, scales)),
      n_(n),
      k_(k),
      far_(asks_far_ahead(cpu.caps)) {
  tile_bytes_ = dot::packed_bytes(*kernel_, kernel_->n_tile, k);
  if (batch_ != nullptr && batch_->act == dot::Act::kBf16) {
    exponents_.resize(
        static_cast<std::size_t>((n + kernel_->n_tile - 1) / kernel_->n_tile * kernel_->n_tile));
  }
  bytes_ = packed_matrix_bytes(cpu.caps, cpu.act, format, n, k);
}

std::int64_t PackedMatrix::batch_rows_each() const {
  if (batch_ == nullptr) return 0;
  if (!whole_tiles(*batch_)) return kBatchRowsEachVectors;
  return kernel_->act == dot::Act::kF32 ? kBatchRowsEachF32 : kBatchRowsEachQ8;
}

void PackedMatrix::own(tensor::Buffer storage) {
  place(storage.data());
  owned_ = std::move(storage);
}

void PackedMatrix::place_part(std::int64_t begin, std::byte* storage) {
  KT_CHECK(begin % tile_rows() == 0);
  if (begin == 0) {
    place(storage);
  } else {
    parts_.others.push_back({begin, storage});
  }
}

std::size_t PackedMatrix::part_bytes(ThreadPool::Range rows) const {
  return (dot::packed_bytes(*kernel_, rows.size(), k_) + 63) / 64 * 64;
}

std::byte* PackedMatrix::at(std::int64_t row) const noexcept {
  std::int64_t begin = 0;
  std::byte* data = parts_.first;
  for (const Parts::Part& part : parts_.others) {
    if (row < part.begin) break;
    begin = part.begin;
    data = part.data;
  }
  return data + static_cast<std::size_t>((row - begin) / tile_rows()) * tile_bytes_;
}

void PackedMatrix::pack_rows(std::int64_t row, std::int64_t n_rows,
                             const std::byte* rows) noexcept {
  KT_CHECK(row % tile_rows() == 0 && row + n_rows <= n_);
  dot::pack(*kernel_, rows, n_rows, k_, at(row));
  if (!exponents_.empty()) dot::row_exponents(*batch_, rows, n_rows, k_, exponents_.data() + row);
}

// out[m, n] = the sums of two terms each, [2 m, n].
static void add_terms(const float* terms, std::int64_t m, std::int64_t n, float* out,
                      std::int64_t out_stride) noexcept {
  for (std::int64_t i = 0; i < m; ++i, terms += 2 * n, out += out_stride) {
    for (std::int64_t j = 0; j < n; ++j) out[j] = terms[j] + terms[n + j];
  }
}

void PackedMatrix::dot(const dot::ActRows& act, std::int64_t m, std::int64_t row,
                       std::int64_t n_rows, float* out, std::int64_t out_stride) const noexcept {
  dot::DotArgs args;
  args.k = k_;
  args.weights = at(row);
  args.n = n_rows;
  args.far = far_;
  if (row + n_rows < n_) args.next = at(row + n_rows);
  if (!exponents_.empty()) args.exponents = exponents_.data() + row;
  if (act.q == nullptr || act.terms == 1) {
    args.act = act;
    args.m = m;
    args.out = out;
    args.out_stride = out_stride;
    (act.tiles() ? batch_ : kernel_)->run(args);
    return;
  }
  constexpr std::int64_t kBlock = 32;  // activation rows whose two results wait on the stack
  float parts[2 * kBlock * kMaxSplitRows];
  KT_CHECK(n_rows <= kMaxSplitRows && act.terms == 2);
  args.out = parts;
  args.out_stride = n_rows;
  for (std::int64_t first = 0; first < m; first += kBlock) {
    const std::int64_t count = std::min(kBlock, m - first);
    args.act = offset_rows(act, first, k_);
    args.m = 2 * count;
    kernel_->run(args);
    add_terms(parts, count, n_rows, out + first * out_stride, out_stride);
  }
}

void dot_beside(std::span<const BesideProduct> products, std::int64_t m, std::int64_t row,
                std::int64_t n_rows, std::int64_t out_stride) noexcept {
  const dot::Kernel& kernel = products.front().matrix->kernel();
  const std::int64_t terms = products.front().act.terms, k = products.front().matrix->k();
  const bool joined =
      kernel.joins() && m * terms <= dot::kStreamedRows &&
      std::all_of(products.begin(), products.end(), [&](const BesideProduct& p) {
        return p.act.q != nullptr && &p.matrix->kernel() == &kernel && p.matrix->k() == k;
      });
  if (!joined) {
    for (const BesideProduct& p : products) p.matrix->dot(p.act, m, row, n_rows, p.out, out_stride);
    return;
  }
  KT_CHECK(n_rows <= PackedMatrix::kMaxSplitRows && products.size() <= dot::kSideBySide);
  constexpr std::int64_t kPart = dot::kStreamedRows * PackedMatrix::kMaxSplitRows;
  float parts[dot::kSideBySide * kPart];
  dot::DotArgs args[dot::kSideBySide];
  for (std::size_t i = 0; i < products.size(); ++i) {
    args[i].act = products[i].act;
    args[i].m = m * terms;
    args[i].k = k;
    args[i].weights = products[i].matrix->rows_at(row);
    args[i].n = n_rows;
    args[i].out = terms == 1 ? products[i].out : parts + static_cast<std::int64_t>(i) * kPart;
    args[i].out_stride = terms == 1 ? out_stride : n_rows;
    args[i].beside = i + 1 < products.size() ? &args[i + 1] : nullptr;
    args[i].next = products[i].next;
    args[i].far = products[i].matrix->asks_far();
  }
  kernel.run(args[0]);
  if (terms == 1) return;
  for (std::size_t i = 0; i < products.size(); ++i)
    add_terms(args[i].out, m, n_rows, products[i].out, out_stride);
}

dot::ActRows offset_rows(const dot::ActRows& act, std::int64_t row, std::int64_t k) {
  dot::ActRows r = act;
  if (r.f32 != nullptr) r.f32 += row * r.f32_stride;
  if (r.scale != nullptr) {
    if (r.q != nullptr) r.q += row * r.terms * r.q_stride;
    if (r.q16 != nullptr) r.q16 += row * r.q_stride;
    r.scale += row * r.terms * r.block_stride;
    r.sum += row * r.terms * r.block_stride;
  }
  if (r.bf16 != nullptr) r.bf16 += row * k;  // whole panels of 16 rows
  if (r.i8 != nullptr) {
    r.i8 += row * k;  // whole panels too
    r.i8_scale += row;
  }
  return r;
}

ActMatrix::ActMatrix(const Cpu& cpu, tensor::Arena& arena, dot::Act form, std::int64_t m,
                     std::int64_t k)
    : form_(form), k_(k) {
  switch (form) {
    case dot::Act::kF32:
      rows_.f32 = f32_ = arena.allocate<float>(m * k);
      rows_.f32_stride = k;
      return;
    case dot::Act::kQ8:
    case dot::Act::kQ16:
      if (form == dot::Act::kQ8) {
        rows_.terms = cpu.act_terms();
        rows_.q = q_ = arena.allocate<std::int8_t>(m * rows_.terms * k);
      } else {
        rows_.q16 = q16_ = arena.allocate<std::int16_t>(m * k);
      }
      rows_.scale = scale_ = arena.allocate<float>(m * rows_.terms * k / dot::kQ8Block);
      rows_.sum = sum_ = arena.allocate<float>(m * rows_.terms * k / dot::kQ8Block);
      rows_.q_stride = k;
      rows_.block_stride = k / dot::kQ8Block;
      return;
    case dot::Act::kBf16: {
      const std::int64_t panels = (m + dot::kTileRows - 1) / dot::kTileRows;
      rows_.bf16 = bf16_ = arena.allocate<std::uint16_t>(panels * dot::kTileRows * k);
      return;
    }
    case dot::Act::kI8: {
      const std::int64_t panels = (m + dot::kTileRows - 1) / dot::kTileRows;
      rows_.i8 = i8_ = arena.allocate<std::int8_t>(panels * dot::kTileRows * k);
      rows_.i8_scale = i8_scale_ = arena.allocate<float>(m);
      return;
    }
  }
}

// Where a row's first 32 values lie in the tiles of rows of k values.
static std::int64_t tile_row(std::int64_t row, std::int64_t k) {
  return row / dot::kTileRows * dot::kTileRows * k + row % dot::kTileRows * dot::kTileCols;
}

static std::int64_t i8_tile_row(std::int64_t row, std::int64_t k) {
  return row / dot::kTileRows * dot::kTileRows * k + row % dot::kTileRows * dot::kI8TileCols;
}

void ActMatrix::write(const Cpu& cpu, std::int64_t row, std::int64_t col, std::int64_t n,
                      const float* x) const noexcept {
  switch (form_) {
    case dot::Act::kF32:
      std::memcpy(f32_ + row * k_ + col, x, static_cast<std::size_t>(n) * sizeof(float));
      return;
    case dot::Act::kQ8: write_q8(cpu, row, col, n, x); return;
    case dot::Act::kQ16: {
      const std::int64_t block = (row * k_ + col) / dot::kQ8Block;
      cpu.quantize16(x, n, q16_ + row * k_ + col, scale_ + block, sum_ + block);
      return;
    }
    case dot::Act::kBf16:
      cpu.to_tiles(x, n, bf16_ + tile_row(row, k_) + col / dot::kTileCols * dot::kTileValues);
      return;
    case dot::Act::kI8:
      KT_CHECK(col == 0 && n == k_);
      cpu.to_i8_tiles(x, n, i8_ + i8_tile_row(row, k_), i8_scale_ + row);
      return;
  }
}

void ActMatrix::write_q8(const Cpu& cpu, std::int64_t row, std::int64_t col, std::int64_t n,
                         const float* x) const noexcept {
  const std::int64_t blocks = k_ / dot::kQ8Block;
  const auto term = [&](std::int64_t t) {
    const std::int64_t r = row * rows_.terms + t, block = r * blocks + col / dot::kQ8Block;
    return dot::QuantizedTerm{q_ + r * k_ + col, scale_ + block, sum_ + block};
  };
  const dot::QuantizedTerm first = term(0);
  if (rows_.terms == 1) {
    cpu.quantize(x, n, first.q, first.scale, first.sum);
  } else {
    cpu.quantize_twice(x, n, first, term(1));
  }
}

void ActMatrix::copy(std::int64_t row, const dot::ActRows& other,
                     std::int64_t from) const noexcept {
  switch (form_) {
    case dot::Act::kF32:
      std::memcpy(f32_ + row * k_, other.f32 + from * other.f32_stride,
                  static_cast<std::size_t>(k_) * sizeof(float));
      return;
    case dot::Act::kQ8:
    case dot::Act::kQ16: {
      const dot::ActRows source = offset_rows(other, from, k_);
      const std::int64_t blocks = k_ / dot::kQ8Block;
      const std::int64_t first = row * rows_.terms;
      const auto n = static_cast<std::size_t>(rows_.terms);
      const std::size_t floats = n * static_cast<std::size_t>(blocks) * sizeof(float);
      const std::size_t values = n * static_cast<std::size_t>(k_);
      if (form_ == dot::Act::kQ8) {
        std::memcpy(q_ + first * k_, source.q, values);
      } else {
        std::memcpy(q16_ + first * k_, source.q16, values * sizeof(std::int16_t));
      }
      std::memcpy(scale_ + first * blocks, source.scale, floats);
      std::memcpy(sum_ + first * blocks, source.sum, floats);
      return;
    }
    case dot::Act::kBf16: {
      const std::uint16_t* source = other.bf16 + tile_row(from, k_);
      std::uint16_t* to = bf16_ + tile_row(row, k_);
      for (std::int64_t c = 0; c < k_; c += dot::kTileCols) {
        std::memcpy(to, source, dot::kTileCols * sizeof(std::uint16_t));
        source += dot::kTileValues;
        to += dot::kTileValues;
      }
      return;
    }
    case dot::Act::kI8: {
      const std::int8_t* source = other.i8 + i8_tile_row(from, k_);
      std::int8_t* to = i8_ + i8_tile_row(row, k_);
      for (std::int64_t c = 0; c < k_; c += dot::kI8TileCols) {
        std::memcpy(to, source, dot::kI8TileCols);
        source += dot::kI8TileBytes;
        to += dot::kI8TileBytes;
      }
      i8_scale_[row] = other.i8_scale[from];
      return;
    }
  }
}

dot::ActRows Activation::rows_in(dot::Act form, Cpu& cpu, tensor::Arena& arena) {
  if (form == dot::Act::kF32) {
    dot::ActRows r;
    r.f32 = x_.data;
    r.f32_stride = x_.stride;
    return r;
  }
  ActMatrix& rows = form == dot::Act::kBf16 ? bf16_ : form == dot::Act::kI8 ? i8_ : rounded_;
  if (rows.empty()) {
    rows = ActMatrix(cpu, arena, form, x_.n_rows, x_.n_cols);
    const auto write_row = [&](std::int64_t r, int) {
      rows.write(cpu, r, 0, x_.n_cols, x_.row(r));
    };
    if (x_.n_rows < 4) {  // a parallel region costs more than this work
      for (std::int64_t r = 0; r < x_.n_rows; ++r) write_row(r, 0);
    } else {
      cpu.pool.run(x_.n_rows, write_row);
    }
  }
  return rows.view();
}

namespace {

// Weight rows per task, a multiple of `step`, with which the threads are done first, when a task
// costs as much as `extra` more rows.
std::int64_t best_width(std::span<const GemmCall> calls, std::int64_t n_threads, std::int64_t most,
                        std::int64_t step, std::int64_t extra) {
  std::int64_t best = 0, least = 0;
  for (std::int64_t width = most; width >= step; width -= step) {
    std::int64_t n_tasks = 0;
    for (const GemmCall& c : calls) n_tasks += (c.matrix->n() + width - 1) / width;
    const std::int64_t cost = (n_tasks + n_threads - 1) / n_threads * (width + extra);
    if (best == 0 || cost < least) best = width, least = cost;
  }
  return best;
}

// Whole tiles, about `wanted` rows.
std::int64_t rows_per_task(const PackedMatrix& matrix, std::int64_t wanted) {
  const std::int64_t tile = matrix.tile_rows();
  return std::max<std::int64_t>(1, wanted / tile) * tile;
}

void run_task(const GemmCall& call, std::int64_t row, std::int64_t n_rows) noexcept {
  // Activation rows that stay in L2 while weight tiles pass; tile kernels expand the weights once
  // for all.
  const std::int64_t panel = equal_part(call.m, call.act.tiles() ? 512 : 128);
  for (std::int64_t m0 = 0; m0 < call.m; m0 += panel) {
    const std::int64_t m = std::min(panel, call.m - m0);
    float* out = call.out.row(m0) + row;
    call.matrix->dot(offset_rows(call.act, m0, call.matrix->k()), m, row, n_rows, out,
                     call.out.stride);
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
  const std::int64_t n_threads = cpu.pool.size();
  // Small enough that every thread gets several tasks, large enough to amortise the call. Tile
  // kernels pass all activations for each task.
  const std::int64_t most = std::clamp<std::int64_t>(n_total / (3 * n_threads) / 16 * 16, 16, 128);
  const std::int64_t width = best_width(calls, n_threads, most, 16, 8);
  const std::int64_t wide = best_width(calls, n_threads, 128, 32, 16);
  std::int64_t step[kMaxCalls];
  for (std::size_t i = 0; i < calls.size(); ++i)
    step[i] = rows_per_task(*calls[i].matrix, calls[i].act.tiles() ? wide : width);
  const auto rows_of = [&](int node, std::size_t i) {
    return cpu.pool.part(node, calls[i].matrix->n(), kRowGrain);
  };
  const auto tasks_of = [&](int node, std::size_t i) {
    return (rows_of(node, i).size() + step[i] - 1) / step[i];
  };
  const auto count = [&](int node) {
    std::int64_t n = 0;
    for (std::size_t i = 0; i < calls.size(); ++i) n += tasks_of(node, i);
    return n;
  };
  cpu.pool.run_nodes(count, [&](int node, std::int64_t task, int) {
    std::size_t i = 0;
    while (task >= tasks_of(node, i)) task -= tasks_of(node, i++);
    const ThreadPool::Range rows = rows_of(node, i);
    const std::int64_t row = rows.begin + task * step[i];
    run_task(calls[i], row, std::min(step[i], rows.end - row));
  });
}

}  // namespace kt::backend
