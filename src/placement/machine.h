// A machine to plan for: memory and rates of the CPU, of GPUs and of the links between them, given
// by hand ("--gpu 24GiB@1000GB/s") or found. And how fast its CPU multiplies, as measured points or
// as a roofline:
//
//   seconds(m rows, w weights) = w · max(bits / 8 / bandwidth, 2m / flops)          roofline
//                              = w · (line through the measured points at m) + jumps · time of one
//
// Points are measured for each width of rows that the model has: wide activations and a weight tile
// leave a core's first cache. A jump goes on reading elsewhere in memory, as experts do. Where a
// CPU has kernels for batches there are two lines: the step decides (backend::takes_batch).
//
// Rates given by hand are data-sheet numbers, of which kUsable is counted on; measured rates count
// in full. Thread rule: values.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "formats/format.h"
#include "operators/kept.h"

namespace kt::placement {

/// Part of a data-sheet rate that kernels reach.
inline constexpr double kUsable = 0.8;

struct Gpu {
  std::uint64_t bytes = 0;
  double bandwidth = 0.0;  // bytes per second
  double flops = 0.0;      // operations per second (a multiply-add is two)
};

/// Time per weight of a product with m rows.
struct KernelPoint {
  double m = 1.0;
  double seconds = 0.0;
};

/// Measured times of the kernels that multiply with weights of one format and width, ascending m.
struct ProductRates {
  std::vector<KernelPoint> few;      // the kernel for few rows
  std::vector<KernelPoint> batch;    // the kernel for batches; empty: there is none
  std::int64_t batch_rows_each = 0;  // as PackedMatrix::batch_rows_each
  bool whole_tiles = false;          // the kernel for batches computes whole tiles of rows
  double jump = 0.0;  // seconds more that a thread takes to go on with rows elsewhere, at m = 1
};

/// What chooses the kernels: weights with one scale per row may have faster ones than their format.
struct WeightKind {
  formats::Format format{};
  backend::WeightScales scales = backend::WeightScales::kOfBlocks;
  auto operator<=>(const WeightKind&) const = default;
};

/// Weights to multiply with.
struct ProductWeights {
  WeightKind kind;
  std::int64_t k = 0;     // width of the rows
  double n = 0.0;         // weights, of all rows
  double n_pieces = 0.0;  // of rows that lie apart, beyond one for each thread
};

/// Rows of a product: what a matrix gets, and what its step has, which chooses the kernel.
struct ProductRows {
  double m = 1.0;
  std::int64_t step = 1;
  std::int64_t each = 1;  // of the step's rows, for each matrix on average, touched or not
  double tiled = 1.0;     // what tile kernels make of m: whole tiles
};

/// backend::batch_tile_rows of an expert that a step of many rows chose: its rows come by chance,
/// `mean` on average (a Poisson distribution, without the experts that get none).
double tile_rows_of_expert(double mean);

/// How fast the CPU computes; times include reading cold weights from memory.
struct CpuRates {
  /// Measured, by width. Other formats follow the roofline of `read` and `flops`.
  std::map<WeightKind, std::map<std::int64_t, ProductRates>> multiply;
  double read = 0.0;         // bytes per second from memory; 0: nothing is known
  double flops = 0.0;        // operations per second of products
  double attend_one = 0.0;   // seconds per multiply-add of attention with one query token, a thread
  double attend_many = 0.0;  // the same with a block of query tokens
  double value = 0.0;        // seconds per value of element-wise work, one thread
  double region = 0.0;       // seconds to start and end a parallel region
  double pack = 0.0;         // bytes per second read, rearranged and written at load
  int n_threads = 1;
  bool measured = false;
  /// A width that was not measured counts as the next above, or the widest.
  double seconds(const ProductWeights& weights, const ProductRows& rows) const;
  bool known() const { return read > 0.0; }
};

/// Rates from a bandwidth and an operation rate alone.
CpuRates roofline_rates(double ram_bandwidth, double flops, int n_threads);

struct Machine {
  std::uint64_t ram = 0;  // bytes this program may use
  bool ram_given = false;
  CpuRates cpu;
  std::vector<Gpu> gpus;
  double link = 25e9;  // bytes per second between a GPU and memory
  double disk = 2e9;   // bytes per second
};

/// "24GiB", "512 MB", "1e9" → bytes. Throws kUsage naming `flag`.
std::uint64_t parse_bytes(std::string_view text, const std::string& flag);
/// "1000GB/s", "25e9" → per second. Throws kUsage.
double parse_rate(std::string_view text, const std::string& flag);
/// "2T", "80TFLOPS", "2e12" → operations per second. Throws kUsage.
double parse_flops(std::string_view text, const std::string& flag);
/// "24GiB@1000GB/s" or "24GiB@1000GB/s@80TFLOPS"; without operations, kFlopsPerByte per byte of
/// bandwidth. Throws kUsage.
Gpu parse_gpu(std::string_view text);
inline constexpr double kGpuFlopsPerByte = 100.0;

struct Ram {
  std::uint64_t bytes = 0;
  double bandwidth = 0.0;  // 0: not given
};
/// "128GiB" or "128GiB@100GB/s". Throws kUsage.
Ram parse_ram(std::string_view text);
/// Operations per byte of memory bandwidth that a CPU is taken to do when nothing is known.
inline constexpr double kCpuFlopsPerByte = 20.0;

}  // namespace kt::placement
