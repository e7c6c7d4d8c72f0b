#include "operators/head_matrices.h"

#include <algorithm>

namespace kt::operators {

void HeadMatrices::add(backend::Cpu& cpu, std::int64_t n_heads, tensor::Format format,
                       std::int64_t n, std::int64_t k, const std::byte* rows) {
  backend::PackedMatrix matrix(cpu, format, n, k);
  if (heads.empty()) {
    std::vector<std::size_t> bytes;
    for (int node = 0; node < cpu.pool.n_nodes(); ++node) {
      bytes.push_back(static_cast<std::size_t>(cpu.pool.part(node, n_heads).size()) *
                      matrix.bytes());
    }
    storage = backend::NodeBuffer(cpu.place, bytes, cpu.binding_refused);
  }
  const auto head = static_cast<std::int64_t>(heads.size());
  int owner = 0;
  while (cpu.pool.part(owner, n_heads).end <= head) ++owner;
  const std::int64_t before = head - cpu.pool.part(owner, n_heads).begin;
  matrix.place(storage.part(static_cast<std::size_t>(owner)) +
               static_cast<std::size_t>(before) * matrix.bytes());
  cpu.pool.run_nodes([&](int node) { return node == owner ? 1 : 0; },
                     [&](int, std::int64_t, int) { matrix.pack_rows(0, n, rows); });
  heads.push_back(std::move(matrix));
}

void HeadMatrices::run_head(std::size_t head, const kernels::dot::ActRows& act, std::int64_t m,
                            float* out, std::int64_t out_stride) const noexcept {
  using backend::PackedMatrix;
  const PackedMatrix& matrix = heads[head];
  for (std::int64_t row = 0; row < matrix.n(); row += PackedMatrix::kMaxSplitRows) {
    matrix.dot(act, m, row, std::min(PackedMatrix::kMaxSplitRows, matrix.n() - row), out + row,
               out_stride);
  }
}

void HeadMatrices::run(Step& step, std::int64_t n_rows, const float* x, Strides in, float* out,
                       Strides to) const noexcept {
  constexpr std::int64_t kChunk = 64;
  const std::int64_t chunks = (n_rows + kChunk - 1) / kChunk;
  const auto n_heads = static_cast<std::int64_t>(heads.size());
  const std::int64_t k = heads.front().k();
  const kernels::dot::Act form = heads.front().form(n_rows);
  const std::size_t mark = step.arena.mark();
  backend::ActMatrix rows;
  if (form != kernels::dot::Act::kF32) {
    rows = backend::ActMatrix(step.cpu, step.arena, form, n_heads * chunks * kChunk, k);
  }
  const ThreadPool& pool = step.cpu.pool;
  const auto count = [&](int node) { return pool.part(node, n_heads).size() * chunks; };
  step.cpu.pool.run_nodes(count, [&](int node, std::int64_t task, int) {
    const std::int64_t h = pool.part(node, n_heads).begin + task / chunks;
    const std::int64_t first = task % chunks * kChunk;
    const std::int64_t m = std::min(kChunk, n_rows - first);
    const float* from = x + first * in.row + h * in.head;
    kernels::dot::ActRows act;
    act.f32 = from;
    act.f32_stride = in.row;
    if (!rows.empty()) {
      const std::int64_t row = h * chunks * kChunk + first;
      for (std::int64_t i = 0; i < m; ++i) {
        rows.write(step.cpu, row + i, 0, k, from + i * in.row);
      }
      act = rows.view(row);
    }
    run_head(static_cast<std::size_t>(h), act, m, out + first * to.row + h * to.head, to.row);
  });
  step.arena.release(mark);
}

}  // namespace kt::operators
