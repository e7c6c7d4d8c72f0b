#include "kernels/cpu/dot/dot.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/dot/n16.h"
#include "kernels/cpu/dot/quantize.h"
#include "kernels/cpu/isa_caps.h"

namespace kt::kernels::dot {

using formats::Format;

#define KERNEL(isa, name, out, act, weight, pack, m_max, n_tile, k_step) \
  void name(const DotArgs& args) noexcept;
#include "kernels/cpu/dot/kernels.inc"
#undef KERNEL

namespace {

constexpr Kernel kKernels[] = {
#define KERNEL(isa, name, out, act, weight, pack, m_max, n_tile, k_step) \
  {#name, kCaps_##isa, Act::act, Format::weight, Pack::pack, m_max, n_tile, k_step, name},
#include "kernels/cpu/dot/kernels.inc"
#undef KERNEL
};

std::int64_t tiles(const Kernel& kernel, std::int64_t n) {
  return (n + kernel.n_tile - 1) / kernel.n_tile;
}

/// Weights that are floats themselves, scaled or not.
bool keeps_float(Format weight) {
  return formats::traits(weight).block_len < kQ8Block || weight == Format::kF8_E4M3_B128;
}

}  // namespace

std::span<const Kernel> kernels() { return kKernels; }

const Kernel* select(Format weight, Act act, std::int64_t k, CpuCaps caps) {
  // Integer activations would cost accuracy and win nothing where the weights are floats
  // themselves.
  if ((act == Act::kQ8 || act == Act::kQ16) && keeps_float(weight)) return nullptr;
  if (act == Act::kI8 && k > kI8MaxK) return nullptr;
  for (const Kernel& row : kKernels) {
    const bool fits = row.weight == weight && row.act == act && k % row.k_step == 0;
    if (fits && (caps & row.caps) == row.caps) return &row;
  }
  return nullptr;
}

std::size_t packed_bytes(const Kernel& kernel, std::int64_t n, std::int64_t k) {
  const std::size_t n_tiles = static_cast<std::size_t>(tiles(kernel, n));
  if (kernel.pack == Pack::kN16) return n_tiles * n16_layout(kernel.weight)->tile_bytes(k);
  return n_tiles * static_cast<std::size_t>(kernel.n_tile) * formats::row_bytes(kernel.weight, k);
}

void pack(const Kernel& kernel, const std::byte* rows, std::int64_t n, std::int64_t k,
          std::byte* out) noexcept {
  const std::size_t row_bytes = formats::row_bytes(kernel.weight, k);
  if (kernel.pack == Pack::kRows) {
    const std::size_t used = static_cast<std::size_t>(n) * row_bytes;
    if (used != 0) std::memcpy(out, rows, used);
    std::memset(out + used, 0, packed_bytes(kernel, n, k) - used);
    return;
  }
  const N16Layout& layout = *n16_layout(kernel.weight);
  const std::size_t tile_bytes = layout.tile_bytes(k);
  for (std::int64_t row = 0; row < n; row += kN16Rows) {
    const std::int64_t n_rows = n - row < kN16Rows ? n - row : kN16Rows;
    std::memset(out, 0, tile_bytes);
    for (std::int64_t r = 0; r < n_rows; ++r) {
      layout.pack_row(rows + static_cast<std::size_t>(row + r) * row_bytes, k, static_cast<int>(r),
                      out);
    }
    out += tile_bytes;
  }
}

void row_exponents(const Kernel& kernel, const std::byte* rows, std::int64_t n, std::int64_t k,
                   std::int8_t* out) noexcept {
  const N16Layout* layout = n16_layout(kernel.weight);
  const std::size_t row_bytes = formats::row_bytes(kernel.weight, k);
  for (std::int64_t r = 0; r < n; ++r, rows += row_bytes) {
    out[r] = 0;
    if (layout == nullptr || layout->row_bound == nullptr) continue;
    const float bound = layout->row_bound(rows, k);
    int exponent = 0;
    std::frexp(bound, &exponent);  // bound in [0.5, 1) * 2^exponent
    out[r] = std::isfinite(bound) ? static_cast<std::int8_t>(std::clamp(exponent, -126, 126))
                                  : kNotFinite;
  }
}

void unpack_row(const Kernel& kernel, const std::byte* packed, std::int64_t row, std::int64_t k,
                float* out) noexcept {
  if (kernel.pack == Pack::kRows) {
    const std::size_t row_bytes = formats::row_bytes(kernel.weight, k);
    formats::traits(kernel.weight)
        .decode(packed + static_cast<std::size_t>(row) * row_bytes, out, k);
    return;
  }
  const N16Layout& layout = *n16_layout(kernel.weight);
  const std::byte* tile = packed + static_cast<std::size_t>(row / kN16Rows) * layout.tile_bytes(k);
  layout.unpack_row(tile, k, static_cast<int>(row % kN16Rows), out);
}

ToTilesFn select_to_tiles(CpuCaps caps) {
  return (caps & kCaps_avx512) == kCaps_avx512 ? to_tiles_avx512 : to_tiles_ref;
}

ToI8TilesFn select_to_i8_tiles(CpuCaps caps) {
  return (caps & kCaps_avx512) == kCaps_avx512 ? to_i8_tiles_avx512 : to_i8_tiles_ref;
}

QuantizeFn select_quantize(CpuCaps caps) {
  return (caps & kAvx2) != 0 ? quantize_row_avx2 : quantize_row_ref;
}

QuantizeTwiceFn select_quantize_twice(CpuCaps caps) {
  return (caps & kAvx2) != 0 ? quantize_twice_avx2 : quantize_twice_ref;
}

Quantize16Fn select_quantize16(CpuCaps caps) {
  return (caps & kAvx2) != 0 ? quantize16_row_avx2 : quantize16_row_ref;
}

}  // namespace kt::kernels::dot
