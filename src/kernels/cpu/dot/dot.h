// The dot/gemm family on the CPU: out[m, n] = activations[m, k] · weights[n, k]ᵀ.
//
// A row of kernels.inc is one micro-kernel: an ISA, an activation type, a weight format and a
// packing. Weights are packed once at load. Pack kN16 interleaves 16 weight rows in groups of 4
// consecutive k (one 64-byte line = 16 rows × 4 k int8), so that one broadcast activation feeds 16
// rows, no horizontal sum is needed, each lane's reduction order over k is fixed (result is bitwise
// the same for every m), and the same bytes are an AMX/VNNI B tile. Pack kRows keeps the file's
// rows: the reference rows use it. Activations are float rows, or rows quantised once per layer to
// int8 or int16 blocks of 32 with a float scale. Thread rule: kernels are pure, called concurrently
// on disjoint outputs.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/cpu.h"
#include "formats/format.h"

namespace kt::kernels::dot {

enum class Act : std::uint8_t { kF32, kQ8, kQ16, kBf16, kI8 };
enum class Pack : std::uint8_t { kRows, kN16 };
/// Whether these activations are laid out as tiles of 16 rows.
constexpr bool is_tiles(Act act) { return act == Act::kBf16 || act == Act::kI8; }

inline constexpr std::int64_t kQ8Block = 32;
/// A tile of bf16 activations: 16 rows of 32 k, contiguous; each 4 k in the order 0, 2, 1, 3.
inline constexpr std::int64_t kTileRows = 16;
inline constexpr std::int64_t kTileCols = 32;
inline constexpr std::int64_t kTileValues = kTileRows * kTileCols;
/// A tile of int8 activations: 16 rows of 64 k, contiguous, of as many bytes.
inline constexpr std::int64_t kI8TileCols = 64;
inline constexpr std::int64_t kI8TileBytes = kTileRows * kI8TileCols;
/// The longest row whose int8 products fit the int32 that they are summed in.
inline constexpr std::int64_t kI8MaxK = 131072;

/// Where value i of 32 lies in its tile row, and in a block of int16 activations.
constexpr std::int64_t tile_column(std::int64_t i) {
  return i % 4 == 1 ? i + 1 : i % 4 == 2 ? i - 1 : i;
}

/// m activation rows of k values. Act::kF32 reads f32; Act::kQ8 reads q, scale and sum; Act::kQ16
/// q16, scale and sum; Act::kBf16 bf16; Act::kI8 i8 and i8_scale.
struct ActRows {
  const float* f32 = nullptr;  // [m, k], f32_stride elements apart
  std::int64_t f32_stride = 0;
  const std::int8_t* q = nullptr;     // [m, k]; |q| <= 127
  const std::int16_t* q16 = nullptr;  // [m, k], each 4 k in the order 0, 2, 1, 3; |q| <= 32767
  std::int64_t q_stride = 0;          // elements of q or q16
  const float* scale = nullptr;       // [m, k/32], block_stride elements apart
  const float* sum = nullptr;  // [m, k/32]: scale * Σ q of the block (for formats with an offset)
  std::int64_t block_stride = 0;
  /// Rows of q, scale and sum that add up to one activation row: 2 when a row is split into a high
  /// and a low int8 part. Kernels do not read it: their caller passes m * terms rows and adds the
  /// results.
  std::int64_t terms = 1;
  /// Tiles [ceil(m / 16)][k / 32][16][32]; k a multiple of 32. Rows past m are not read.
  const std::uint16_t* bf16 = nullptr;
  /// Tiles [ceil(m / 16)][k / 64][16][64]; k a multiple of 64. |i8| <= 127. Rows past m are not
  /// read.
  const std::int8_t* i8 = nullptr;
  const float* i8_scale = nullptr;  // [m], one per row
  bool tiles() const { return bf16 != nullptr || i8 != nullptr; }
};

struct DotArgs {
  ActRows act;
  std::int64_t m = 0;
  std::int64_t k = 0;
  const std::byte* weights =
      nullptr;         // packed; first row of the tile range, a multiple of n_tile rows
  std::int64_t n = 0;  // rows to compute from there; only the last tile may be partial
  const std::int8_t* exponents =
      nullptr;           // of those rows, whole tiles: row_exponents(); Act::kBf16 only
  float* out = nullptr;  // [m, n], out_stride elements apart; overwritten
  std::int64_t out_stride = 0;
  /// Weights come from memory that must be asked for from far ahead. The results are the same.
  bool far = false;
  /// Another product by the same kernel, with the same m (at most kStreamedRows), k, n and
  /// out_stride, to be computed beside this one; at most kSideBySide in all. For kernels that join
  /// products (Kernel::joins) alone. Results are the same as one by one.
  const DotArgs* beside = nullptr;
  /// Weights that the caller multiplies afterwards in place of these, for which products that are
  /// far or beside others ask; or null.
  const std::byte* next = nullptr;
};

/// Products that a kernel may be given at once: memory serves several streams of weights faster
/// than one.
inline constexpr int kSideBySide = 4;
/// Activation rows up to which kernels that join products do so.
inline constexpr std::int64_t kStreamedRows = 4;

using DotFn = void (*)(const DotArgs& args) noexcept;

struct Kernel {
  const char* name;  // dot_<out>_<act>_<weight>_<pack>_<isa>
  CpuCaps caps;      // features it needs; 0 for ref
  Act act;
  formats::Format weight;
  Pack pack;
  std::int64_t m_max;   // activation rows handled per inner block (a performance hint, any m works)
  std::int64_t n_tile;  // weight rows per packed tile
  std::int64_t k_step;  // k must be a multiple
  DotFn run;
  /// Whether run() takes DotArgs::beside and next.
  bool joins() const { return act == Act::kQ8 && (caps & kAvx512Vnni) != 0; }
};

/// All rows of kernels.inc.
std::span<const Kernel> kernels();

/// The fastest row for weights [n, k] of `weight` and this activation type on `caps`; the ref row
/// when no other fits; nullptr when k is not a multiple of the format's block (no row exists), and
/// for F32, F16, BF16 and E4M3 weights with integer activations: those keep floats, so ask again
/// with Act::kF32. Rows with Act::kBf16 and Act::kI8 pay for batches; where a CPU has no fast one,
/// the slow twin is found. Those with Act::kI8 want weights with one scale per row: they read the
/// scale of its first block.
const Kernel* select(formats::Format weight, Act act, std::int64_t k, CpuCaps caps);

/// Bytes of n rows (rounded up to n_tile) of k values packed for `kernel`.
std::size_t packed_bytes(const Kernel& kernel, std::int64_t n, std::int64_t k);

/// Packs n rows of k values from file layout to `out` (packed_bytes); rows up to the next n_tile
/// read as 0.
void pack(const Kernel& kernel, const std::byte* rows, std::int64_t n, std::int64_t k,
          std::byte* out) noexcept;

/// For each of n rows the least e with |weight| <= 2^e everywhere, by the row's scales; kNotFinite
/// when a scale is not finite. Tile kernels of quantised formats need it.
inline constexpr std::int8_t kNotFinite = -128;
void row_exponents(const Kernel& kernel, const std::byte* rows, std::int64_t n, std::int64_t k,
                   std::int8_t* out) noexcept;

/// Decodes one packed row back to floats (for read-back and tests).
void unpack_row(const Kernel& kernel, const std::byte* packed, std::int64_t row, std::int64_t k,
                float* out) noexcept;

/// Quantises one float row of k values (k multiple of 32): scale = max|x| / 127, q =
/// round-to-nearest-even. A block of zeros or non-finite maximum gets scale 0 or NaN respectively,
/// so NaN is seen, not hidden. A block whose maximum is below 1e-36 counts as zeros. Bitwise the
/// same on every ISA.
using QuantizeFn = void (*)(const float* x, std::int64_t k, std::int8_t* q, float* scale,
                            float* sum) noexcept;
QuantizeFn select_quantize(CpuCaps caps);

/// Where one of the two terms of a row goes.
struct QuantizedTerm {
  std::int8_t* q;
  float* scale;
  float* sum;
};
/// A row as the sum of two that are quantised so: the second is what the first leaves over.
using QuantizeTwiceFn = void (*)(const float* x, std::int64_t k, const QuantizedTerm& first,
                                 const QuantizedTerm& second) noexcept;
QuantizeTwiceFn select_quantize_twice(CpuCaps caps);

/// The same for Act::kQ16: scale = max|x| / 32767, q in the order of ActRows::q16; a block whose
/// maximum is below 1e-33 counts as zeros.
using Quantize16Fn = void (*)(const float* x, std::int64_t k, std::int16_t* q, float* scale,
                              float* sum) noexcept;
Quantize16Fn select_quantize16(CpuCaps caps);

/// Rounds k floats (a multiple of 32) of one row to bf16, nearest even, in tile order: 32 values
/// (tile_column), then the next 32 kTileValues further on. Bitwise the same on every ISA.
using ToTilesFn = void (*)(const float* x, std::int64_t k, std::uint16_t* out) noexcept;
ToTilesFn select_to_tiles(CpuCaps caps);

/// Rounds k floats (a multiple of 64) of one row to int8 with one scale = max|x| / 127, nearest
/// even, as 64 values of its row in a tile, then the next 64 kI8TileBytes further on. Special
/// values as QuantizeFn. Bitwise the same on every ISA.
using ToI8TilesFn = void (*)(const float* x, std::int64_t k, std::int8_t* out,
                             float* scale) noexcept;
ToI8TilesFn select_to_i8_tiles(CpuCaps caps);

}  // namespace kt::kernels::dot
