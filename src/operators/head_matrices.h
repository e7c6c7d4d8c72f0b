// One small weight matrix per attention head, as latent attention has them (K_b, V_b). On several
// NUMA nodes each node keeps and computes a run of heads.
// Thread rule: filled at load, then read only; run() by the thread that walks the tree.
#pragma once
#include <vector>

#include "operators/step.h"

namespace kt::operators {

struct HeadMatrices {
  std::vector<backend::PackedMatrix> heads;  // equal shapes and formats
  backend::NodeBuffer storage;               // of them all

  /// Packs [n, k] rows in file layout as the next of n_heads matrices.
  void add(backend::Cpu& cpu, std::int64_t n_heads, tensor::Format format, std::int64_t n,
           std::int64_t k, const std::byte* rows);

  std::uint64_t bytes() const {
    std::uint64_t n = 0;
    for (const backend::PackedMatrix& m : heads) n += m.bytes();
    return n;
  }

  bool batches_differ() const { return !heads.empty() && heads.front().batch_rows_each() > 0; }

  struct Strides {
    std::int64_t row, head;  // in floats
  };
  /// out[row, h, :n] = heads[h] · x[row, h, :k].
  void run(Step& step, std::int64_t n_rows, const float* x, Strides in, float* out,
           Strides to) const noexcept;
  /// out[m, n] = heads[head] · act, called inside a parallel region.
  void run_head(std::size_t head, const kernels::dot::ActRows& act, std::int64_t m, float* out,
                std::int64_t out_stride) const noexcept;
};

}  // namespace kt::operators
