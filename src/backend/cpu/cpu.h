// The CPU as an execution resource: threads, instruction sets and numeric policy, and the weight
// matrices and parallel regions that operators build on.
//
// PackedMatrix is a weight matrix bound to one dot kernel and packed for it at load. gemm() runs
// any number of matrices on the same activations as one parallel region, split over weight rows.
// Thread rule: one step at a time uses a Cpu.
#pragma once
#include <memory>
#include <span>
#include <string>

#include "base/cpu.h"
#include "base/thread_pool.h"
#include "kernels/cpu/attention/attention.h"
#include "kernels/cpu/dot/dot.h"
#include "kernels/cpu/elementwise/elementwise.h"
#include "tensor/arena.h"
#include "tensor/tensor.h"

namespace kt::backend {

/// Activation type of matrix products with quantised weights. kQ8 rounds them to int8 blocks of 32
/// once per layer. kQ16 keeps 15 bits as the sum of two such roundings (of the value, then of what
/// is left): twice the multiplications, the same weight reads. kF32 keeps them in float (proofs).
enum class ActPolicy { kQ8, kQ16, kF32 };

/// Everything operators need of the CPU; passed along, never global.
struct Cpu {
  Cpu(int n_threads, const std::vector<int>& cores, CpuCaps caps, ActPolicy act);
  ThreadPool pool;
  /// Int8 rows per quantised activation row.
  std::int64_t act_terms() const { return act == ActPolicy::kQ16 ? 2 : 1; }
  CpuCaps caps;
  ActPolicy act;
  kernels::dot::QuantizeFn quantize;
  const kernels::elementwise::Table* elementwise;
  const kernels::attention::Kernel* attention;
};

/// Bytes of weights [n, k] packed for the kernel that PackedMatrix would choose; throws
/// kUnsupported as it does.
std::size_t packed_matrix_bytes(CpuCaps caps, ActPolicy act, tensor::Format format, std::int64_t n,
                                std::int64_t k);

/// Weights [n, k] packed for the kernel that this CPU runs them with.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  /// Chooses the kernel and allocates; throws kUnsupported when k does not suit the format.
  PackedMatrix(const Cpu& cpu, tensor::Format format, std::int64_t n, std::int64_t k);
  /// Packs rows [row, row + n_rows) from file layout; row must be a multiple of tile_rows().
  void pack_rows(std::int64_t row, std::int64_t n_rows, const std::byte* rows) noexcept;
  bool empty() const { return kernel_ == nullptr; }
  std::int64_t n() const { return n_; }
  std::int64_t k() const { return k_; }
  std::int64_t tile_rows() const { return kernel_->n_tile; }
  tensor::Format format() const { return kernel_->weight; }
  const kernels::dot::Kernel& kernel() const { return *kernel_; }
  std::size_t bytes() const { return data_.size(); }
  bool wants_q8() const { return kernel_->act == kernels::dot::Act::kQ8; }
  /// out[m, n_rows] = act · rows [row, row + n_rows)ᵀ; row must be a multiple of tile_rows(). With
  /// two-term activations n_rows is at most kMaxSplitRows.
  static constexpr std::int64_t kMaxSplitRows = 128;
  void dot(const kernels::dot::ActRows& act, std::int64_t m, std::int64_t row, std::int64_t n_rows,
           float* out, std::int64_t out_stride) const noexcept;

 private:
  const kernels::dot::Kernel* kernel_ = nullptr;
  std::int64_t n_ = 0;
  std::int64_t k_ = 0;
  std::size_t tile_bytes_ = 0;
  tensor::Buffer data_;
};

/// Input rows of one or more matrix products: floats, and their int8 twin made at first use.
class Activation {
 public:
  explicit Activation(tensor::ConstMatrixF x) : x_(x) {}
  const tensor::ConstMatrixF& f32() const { return x_; }
  std::int64_t n_rows() const { return x_.n_rows; }
  /// Rows in the form `matrix` reads; quantises into `arena` on first need. Not concurrent.
  kernels::dot::ActRows rows_for(const PackedMatrix& matrix, Cpu& cpu, tensor::Arena& arena);

 private:
  tensor::ConstMatrixF x_;
  bool quantized_ = false;
  kernels::dot::ActRows q8_;
};

/// Rows [row, row + …) of `act`.
kernels::dot::ActRows offset_rows(const kernels::dot::ActRows& act, std::int64_t row);

/// Arena space for m quantised rows of k values, in as many terms as the CPU's policy wants.
class Q8Rows {
 public:
  Q8Rows() = default;
  Q8Rows(const Cpu& cpu, tensor::Arena& arena, std::int64_t m, std::int64_t k);
  bool empty() const { return q_ == nullptr; }
  kernels::dot::ActRows view() const;
  /// Quantises n values (a multiple of 32) into columns [col, col + n) of a row.
  void quantize(const Cpu& cpu, std::int64_t row, std::int64_t col, std::int64_t n,
                const float* x) const noexcept;
  /// Copies row `from` of other rows of the same width.
  void copy(std::int64_t row, const kernels::dot::ActRows& other, std::int64_t from) const noexcept;

 private:
  std::int8_t* q_ = nullptr;
  float* scale_ = nullptr;
  float* sum_ = nullptr;
  std::int64_t k_ = 0;
  std::int64_t terms_ = 1;
};

struct GemmCall {
  const PackedMatrix* matrix = nullptr;
  kernels::dot::ActRows act;
  std::int64_t m = 0;
  const float* bias = nullptr;  // [n] or null
  tensor::MatrixF out;          // [m, n]
};

/// All products in one parallel region.
void gemm(Cpu& cpu, std::span<const GemmCall> calls) noexcept;

}  // namespace kt::backend
