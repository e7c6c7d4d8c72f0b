// The CPU as an execution resource: threads, instruction sets and numeric policy, and the weight
// matrices and parallel regions that operators build on.
//
// PackedMatrix is a weight matrix bound to one dot kernel and packed for it at load. gemm() runs
// any number of matrices on the same activations as one parallel region, split over weight rows.
// On several NUMA nodes each node keeps a part of every matrix's rows and computes that part.
// Thread rule: one step at a time uses a Cpu.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/cpu/node_buffer.h"
#include "base/cpu.h"
#include "base/thread_pool.h"
#include "kernels/cpu/attention/attention.h"
#include "kernels/cpu/dot/dot.h"
#include "kernels/cpu/elementwise/elementwise.h"
#include "tensor/arena.h"
#include "tensor/tensor.h"

namespace kt::backend {

/// Activation type of matrix products with quantised weights. kQ8 rounds them to int8 blocks of 32
/// once per layer. kQ16 keeps 15 bits: as int16 blocks of 32, or where the CPU multiplies bytes
/// best as the sum of two int8 roundings (of the value, then of what is left). kF32 keeps them in
/// float (proofs). Where the CPU multiplies bf16, large steps (kBatchRows) do so (unless kF32):
/// with tiles for weights of nearly all formats, with vectors for those in BF16 or FP8. That has
/// less than half the error of kQ8, far more than that of kQ16. With kQ8, tiles take weights with
/// one scale per row times int8, also with one scale per row: the fastest and the least exact.
enum class ActPolicy { kQ8, kQ16, kF32 };

/// When kernels for batches are worth it: steps of that many rows, and that many rows for each
/// matrix on average (experts get only some of a step's): of tile kernels by the activation type of
/// the kernel for few rows, and of vector kernels. Measured: kt bench --kernels.
inline constexpr std::int64_t kBatchRows = 32;
inline constexpr std::int64_t kBatchRowsEachF32 = 2;
inline constexpr std::int64_t kBatchRowsEachQ8 = 5;
inline constexpr std::int64_t kBatchRowsEachVectors = 12;
/// Whether a step of n_rows rows takes a kernel for batches that wants `least` rows for each
/// matrix, when this one gets n_each on average. least = 0: there is no such kernel.
constexpr bool takes_batch(std::int64_t least, std::int64_t n_rows, std::int64_t n_each) {
  return least > 0 && n_rows >= kBatchRows && n_each >= least;
}

/// Whether a kernel for batches computes 16 or 32 rows where it is given fewer; vectors do not.
constexpr bool whole_tiles(const kernels::dot::Kernel& kernel) {
  return kernels::dot::is_tiles(kernel.act) && kernel.m_max >= kernels::dot::kTileRows;
}

/// Rows that a tile kernel computes where a matrix gets n: 16, or a multiple of 32.
constexpr std::int64_t batch_tile_rows(std::int64_t n) {
  constexpr std::int64_t kPair = 2 * kernels::dot::kTileRows;
  return n <= kernels::dot::kTileRows ? kernels::dot::kTileRows : (n + kPair - 1) / kPair * kPair;
}

/// The form of activations that quantised weights are multiplied with, but for large steps by
/// kernels of their own.
constexpr kernels::dot::Act rounded_form(CpuCaps caps, ActPolicy act) {
  using kernels::dot::Act;
  if (act == ActPolicy::kF32) return Act::kF32;
  return act == ActPolicy::kQ16 && (caps & kAvx512Vnni) == 0 ? Act::kQ16 : Act::kQ8;
}

/// Kernels of their own that large steps may have: none, those that this CPU is fast with, or slow
/// twins too, which tests ask for.
enum class BatchKernels { kNone, kFast, kAll };
constexpr BatchKernels batch_kernels(CpuCaps caps, ActPolicy act) {
  const bool any = (caps & (kAmx | kAvx512Bf16)) != 0 && act != ActPolicy::kF32;
  return any ? BatchKernels::kFast : BatchKernels::kNone;
}

/// Whether few rows ask for weights from far ahead (DotArgs::far) even where they are not beside
/// others. Measured: Xeons with AMX decode 1.4 times as fast, a Zen 4 is fastest without.
constexpr bool asks_far_ahead(CpuCaps caps) { return (caps & kAmx) != 0; }

/// Everything operators need of the CPU; passed along, never global.
struct Cpu {
  /// Of one NUMA node.
  Cpu(int n_threads, const std::vector<int>& cores, CpuCaps caps, ActPolicy act);
  Cpu(CpuPlace place, CpuCaps caps, ActPolicy act);
  CpuPlace place;
  ThreadPool pool;
  /// errno of a node's memory that could not be had for weights; 0: none.
  int binding_refused = 0;
  /// Of matrix products with quantised weights.
  kernels::dot::Act rounded_form() const { return backend::rounded_form(caps, act); }
  /// Int8 rows per activation row in the form kQ8.
  std::int64_t act_terms() const {
    return act == ActPolicy::kQ16 && rounded_form() == kernels::dot::Act::kQ8 ? 2 : 1;
  }
  CpuCaps caps;
  ActPolicy act;
  /// What matrices packed from now on may get beside the kernel for few rows.
  BatchKernels batch_kernels;
  /// Whether that allows a kernel that needs these features (none: a slow twin).
  bool allows_batch(CpuCaps needed) const {
    return batch_kernels == BatchKernels::kAll ||
           (batch_kernels == BatchKernels::kFast && needed != 0);
  }
  kernels::dot::QuantizeFn quantize;
  kernels::dot::QuantizeTwiceFn quantize_twice;
  kernels::dot::Quantize16Fn quantize16;
  kernels::dot::ToTilesFn to_tiles;
  kernels::dot::ToI8TilesFn to_i8_tiles;
  const kernels::elementwise::Table* elementwise;
  const kernels::attention::Kernel* attention;
  const kernels::attention::Kernel* batch_attention;
  /// The attention kernel for n_rows tokens of a sequence.
  const kernels::attention::Kernel& attention_for(std::int64_t n_rows) const {
    return n_rows >= kBatchRows && allows_batch(batch_attention->caps) ? *batch_attention
                                                                       : *attention;
  }
};

/// Rows of weight matrices that are never divided between NUMA nodes: whole tiles of every kernel,
/// and whole blocks of what is computed from them.
inline constexpr std::int64_t kRowGrain = 32;

/// Bytes of weights [n, k] packed for the kernel that PackedMatrix would choose; throws
/// kUnsupported as it does.
std::size_t packed_matrix_bytes(CpuCaps caps, ActPolicy act, tensor::Format format, std::int64_t n,
                                std::int64_t k);

/// Whether all blocks of a row of quantised weights are known to have the same scale.
enum class WeightScales { kOfBlocks, kOfRows };

/// Weights [n, k] packed for the kernels that this CPU runs them with: one for few activation rows,
/// and where it has one for batches that too, from the same bytes.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  /// Chooses the kernels; throws kUnsupported when k does not suit the format. place(),
  /// place_part() or own() gives it memory.
  PackedMatrix(const Cpu& cpu, tensor::Format format, std::int64_t n, std::int64_t k,
               WeightScales scales = WeightScales::kOfBlocks);
  /// Keeps all rows at `storage`: bytes() long, 64-byte aligned, somebody else's.
  void place(std::byte* storage) { parts_ = {.first = storage, .others = {}}; }
  /// Keeps rows from `begin` up to the next part's at `storage` (part_bytes), 64-byte aligned,
  /// somebody else's. Parts are placed in ascending order, the first at row 0; calls below must not
  /// cross them.
  void place_part(std::int64_t begin, std::byte* storage);
  std::size_t part_bytes(ThreadPool::Range rows) const;
  /// Keeps all rows in a buffer of its own.
  void own(tensor::Buffer storage);
  /// Owns the memory that its rows were placed in.
  void keep(NodeBuffer storage) { owned_ = std::move(storage); }
  /// Packs rows [row, row + n_rows) from file layout; row must be a multiple of tile_rows().
  void pack_rows(std::int64_t row, std::int64_t n_rows, const std::byte* rows) noexcept;
  /// What pack_rows() learns of the rows for batch kernels, beside the packed bytes: whole tiles,
  /// or empty. With both kept elsewhere, another matrix of the same kind can be placed on them.
  std::span<const std::int8_t> exponents() const { return exponents_; }
  std::span<std::int8_t> exponents() { return exponents_; }
  bool empty() const { return kernel_ == nullptr; }
  std::int64_t n() const { return n_; }
  std::int64_t k() const { return k_; }
  std::int64_t tile_rows() const { return kernel_->n_tile; }
  tensor::Format format() const { return kernel_->weight; }
  const kernels::dot::Kernel& kernel() const { return *kernel_; }
  /// A multiple of 64.
  std::size_t bytes() const { return bytes_; }
  /// The form of activations that steps of n_rows rows are to be given in; this matrix gets n_each
  /// of them on average.
  kernels::dot::Act form(std::int64_t n_rows, std::int64_t n_each) const {
    return kernel_for(n_rows, n_each).act;
  }
  const kernels::dot::Kernel& kernel_for(std::int64_t n_rows, std::int64_t n_each) const {
    return takes_batch(batch_rows_each(), n_rows, n_each) ? *batch_ : *kernel_;
  }
  /// Rows that each matrix must get for the kernel for batches (takes_batch); 0 without one.
  std::int64_t batch_rows_each() const;
  /// The kernel for batches; null: there is none.
  const kernels::dot::Kernel* batch_kernel() const { return batch_; }
  kernels::dot::Act form(std::int64_t n_rows) const { return form(n_rows, n_rows); }
  /// out[m, n_rows] = act · rows [row, row + n_rows)ᵀ; row must be a multiple of tile_rows(). The
  /// form of `act` chooses the kernel. With two-term activations n_rows is at most kMaxSplitRows.
  static constexpr std::int64_t kMaxSplitRows = 128;
  void dot(const kernels::dot::ActRows& act, std::int64_t m, std::int64_t row, std::int64_t n_rows,
           float* out, std::int64_t out_stride) const noexcept;
  /// DotArgs::far of its products.
  bool asks_far() const { return far_; }
  /// Where the packed rows from `row` on lie.
  const std::byte* rows_at(std::int64_t row) const noexcept { return at(row); }

 private:
  const kernels::dot::Kernel* kernel_ = nullptr;
  const kernels::dot::Kernel* batch_ = nullptr;
  std::int64_t n_ = 0;
  std::int64_t k_ = 0;
  bool far_ = false;
  std::size_t tile_bytes_ = 0;
  std::size_t bytes_ = 0;
  struct Parts {
    struct Part {
      std::int64_t begin;
      std::byte* data;
    };
    std::byte* first = nullptr;
    std::vector<Part> others;  // of other nodes, ascending
  };
  std::byte* at(std::int64_t row) const noexcept;
  Parts parts_;
  NodeBuffer owned_;
  std::vector<std::int8_t> exponents_;  // of the rows, whole tiles; for batch_
};

/// Activation rows up to which products with `matrix` are best made several at once (dot_beside);
/// 0: it makes no difference.
inline std::int64_t beside_rows(const Cpu& cpu, const PackedMatrix& matrix) {
  return matrix.kernel().joins() ? kernels::dot::kStreamedRows / cpu.act_terms() : 0;
}

/// One of several products with rows [row, row + n_rows) of a matrix each.
struct BesideProduct {
  const PackedMatrix* matrix = nullptr;
  kernels::dot::ActRows act;        // m rows
  float* out = nullptr;             // [m, n_rows]
  const std::byte* next = nullptr;  // weights that come after these, to be asked for; or null
};

/// As PackedMatrix::dot() for each of at most kernels::dot::kSideBySide products, but at once where
/// their kernel can do that.
void dot_beside(std::span<const BesideProduct> products, std::int64_t m, std::int64_t row,
                std::int64_t n_rows, std::int64_t out_stride) noexcept;

/// Rows per kernel call where m rows are cut into as few equal parts of at most `most` (a multiple
/// of 32) as there can be: tile kernels expand the weights for each part. A multiple of 32.
constexpr std::int64_t equal_part(std::int64_t m, std::int64_t most) {
  const std::int64_t parts = (m + most - 1) / most;
  return parts == 0 ? most : ((m + parts - 1) / parts + 31) / 32 * 32;
}

/// Rows [row, row + …) of `act`, which has k columns; of tiles, row must be a multiple of 16.
kernels::dot::ActRows offset_rows(const kernels::dot::ActRows& act, std::int64_t row,
                                  std::int64_t k);

/// Arena space for m activation rows of k values in the form a kernel reads (int8 in as many terms
/// as the CPU's policy wants). Different rows may be written at the same time.
class ActMatrix {
 public:
  ActMatrix() = default;
  ActMatrix(const Cpu& cpu, tensor::Arena& arena, kernels::dot::Act form, std::int64_t m,
            std::int64_t k);
  bool empty() const { return k_ == 0; }
  kernels::dot::Act form() const { return form_; }
  const kernels::dot::ActRows& view() const { return rows_; }
  kernels::dot::ActRows view(std::int64_t row) const { return offset_rows(rows_, row, k_); }
  /// Rounds n floats (a multiple of 32 unless the form is float) into columns [col, col + n) of a
  /// row; those of the whole row when the form has one scale for it (Act::kI8).
  void write(const Cpu& cpu, std::int64_t row, std::int64_t col, std::int64_t n,
             const float* x) const noexcept;
  /// Copies row `from` of other rows of the same form and width.
  void copy(std::int64_t row, const kernels::dot::ActRows& other, std::int64_t from) const noexcept;

 private:
  void write_q8(const Cpu& cpu, std::int64_t row, std::int64_t col, std::int64_t n,
                const float* x) const noexcept;

  kernels::dot::Act form_ = kernels::dot::Act::kF32;
  std::int64_t k_ = 0;
  kernels::dot::ActRows rows_;
  float* f32_ = nullptr;  // what rows_ points to, to write
  std::int8_t* q_ = nullptr;
  std::int16_t* q16_ = nullptr;
  float* scale_ = nullptr;
  float* sum_ = nullptr;
  std::uint16_t* bf16_ = nullptr;
  std::int8_t* i8_ = nullptr;
  float* i8_scale_ = nullptr;
};

/// Input rows of one or more matrix products: floats, and their rounded twins made at first use.
class Activation {
 public:
  explicit Activation(tensor::ConstMatrixF x) : x_(x) {}
  const tensor::ConstMatrixF& f32() const { return x_; }
  std::int64_t n_rows() const { return x_.n_rows; }
  /// Rows in the form `matrix` reads for as many; rounds into `arena` on first need. Not
  /// concurrent.
  kernels::dot::ActRows rows_for(const PackedMatrix& matrix, Cpu& cpu, tensor::Arena& arena) {
    return rows_in(matrix.form(x_.n_rows), cpu, arena);
  }
  kernels::dot::ActRows rows_in(kernels::dot::Act form, Cpu& cpu, tensor::Arena& arena);

 private:
  tensor::ConstMatrixF x_;
  ActMatrix rounded_, bf16_, i8_;
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
