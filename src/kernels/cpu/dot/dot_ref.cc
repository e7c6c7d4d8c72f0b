// Reference rows: every format, weights decoded by its scalar codec, a fixed summation order.
// A weight row is decoded once per 64 activation rows in pieces of 256 values.
#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base/half.h"
#include "kernels/cpu/dot/dot.h"
#include "kernels/cpu/dot/n16.h"
#include "kernels/cpu/dot/quantize.h"

namespace kt::kernels::dot {
namespace {

typedef float Lanes __attribute__((vector_size(32), aligned(4), may_alias));
constexpr int kLanes = 8;
constexpr std::int64_t kPiece = 256;  // a multiple of every block length
constexpr std::int64_t kRowsAtOnce = 64;

const Lanes& load(const float* p) { return *reinterpret_cast<const Lanes*>(p); }

float total(const Lanes& v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

void add_f32(Lanes& acc, const float* w, const float* a, std::int64_t n) {
  Lanes sum[4] = {};  // four chains hide the latency of the additions
  std::int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    for (int c = 0; c < 4; ++c) {
      sum[c] += load(w + i + kLanes * c) * load(a + i + kLanes * c);
    }
  }
  for (; i + kLanes <= n; i += kLanes) sum[0] += load(w + i) * load(a + i);
  for (int lane = 0; i < n; ++i, ++lane) sum[1][lane] += w[i] * a[i];
  acc += (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Int8 activations, or int16.
void add_int(Lanes& acc, const float* w, const ActRows& act, bool wide, std::int64_t row,
             std::int64_t k0, std::int64_t n) {
  const std::int64_t first = row * act.q_stride + k0;
  const float* scale = act.scale + row * act.block_stride + k0 / kQ8Block;
  for (std::int64_t b = 0; b < n / kQ8Block; ++b) {
    float a[kQ8Block];
    for (std::int64_t i = 0; i < kQ8Block; ++i) {
      const std::int64_t at = first + b * kQ8Block;
      a[i] = static_cast<float>(wide ? act.q16[at + tile_column(i)] : act.q[at + i]);
    }
    Lanes sum = {};
    for (std::int64_t i = 0; i < kQ8Block; i += kLanes) {
      sum += load(w + b * kQ8Block + i) * load(a + i);
    }
    acc += sum * scale[b];
  }
}

void run(const DotArgs& args, formats::Format format, Act act) {
  const formats::FormatTraits& traits = formats::traits(format);
  const std::size_t row_bytes = formats::row_bytes(format, args.k);
  float w[kPiece];
  for (std::int64_t m0 = 0; m0 < args.m; m0 += kRowsAtOnce) {
    const std::int64_t m = args.m - m0 < kRowsAtOnce ? args.m - m0 : kRowsAtOnce;
    for (std::int64_t j = 0; j < args.n; ++j) {
      const std::byte* row = args.weights + static_cast<std::size_t>(j) * row_bytes;
      Lanes acc[kRowsAtOnce] = {};
      for (std::int64_t k0 = 0; k0 < args.k; k0 += kPiece) {
        const std::int64_t n = args.k - k0 < kPiece ? args.k - k0 : kPiece;
        traits.decode(row + static_cast<std::size_t>(k0 / traits.block_len) * traits.block_bytes, w,
                      n);
        for (std::int64_t i = 0; i < m; ++i) {
          if (act == Act::kF32) {
            add_f32(acc[i], w, args.act.f32 + (m0 + i) * args.act.f32_stride + k0, n);
          } else {
            add_int(acc[i], w, args.act, act == Act::kQ16, m0 + i, k0, n);
          }
        }
      }
      for (std::int64_t i = 0; i < m; ++i) args.out[(m0 + i) * args.out_stride + j] = total(acc[i]);
    }
  }
}

// Nearest integer, ties to even, for |x| < 2^22.
int round_even(float x) {
  return static_cast<int>(std::bit_cast<std::uint32_t>(x + 12582912.0f) - 0x4b400000u);
}

}  // namespace

#define KT_FORMAT(id, name, ggml_type, block_len, block_bytes, decode, encode) \
  void dot_f32_f32_##id##_rows_ref(const DotArgs& args) noexcept;              \
  void dot_f32_q8_##id##_rows_ref(const DotArgs& args) noexcept;               \
  void dot_f32_q16_##id##_rows_ref(const DotArgs& args) noexcept;              \
  void dot_f32_f32_##id##_rows_ref(const DotArgs& args) noexcept {             \
    run(args, formats::Format::id, Act::kF32);                                 \
  }                                                                            \
  void dot_f32_q8_##id##_rows_ref(const DotArgs& args) noexcept {              \
    run(args, formats::Format::id, Act::kQ8);                                  \
  }                                                                            \
  void dot_f32_q16_##id##_rows_ref(const DotArgs& args) noexcept {             \
    run(args, formats::Format::id, Act::kQ16);                                 \
  }
#include "formats/formats.inc"
#undef KT_FORMAT

namespace {

// The tile kernels' slow twin: weights rounded to bf16, products summed in float.
void run_tiles(const DotArgs& args, formats::Format format) {
  const N16Layout& layout = *n16_layout(format);
  const std::size_t tile_bytes = layout.tile_bytes(args.k);
  std::vector<float> w(static_cast<std::size_t>(args.k));
  for (std::int64_t j = 0; j < args.n; ++j) {
    const std::byte* tile = args.weights + static_cast<std::size_t>(j / kN16Rows) * tile_bytes;
    layout.unpack_row(tile, args.k, static_cast<int>(j % kN16Rows), w.data());
    for (float& v : w) v = bf16_to_f32(f32_to_bf16(v));
    for (std::int64_t i = 0; i < args.m; ++i) {
      const std::uint16_t* a =
          args.act.bf16 + i / kTileRows * kTileRows * args.k + i % kTileRows * kTileCols;
      float sum = 0;
      for (std::int64_t k = 0; k < args.k; ++k) {
        sum += w[static_cast<std::size_t>(k)] *
               bf16_to_f32(a[k / kTileCols * kTileValues + tile_column(k % kTileCols)]);
      }
      args.out[i * args.out_stride + j] = sum;
    }
  }
}

}  // namespace

#define KT_TILE(id, weight, k_step)                                \
  void dot_f32_bf16_##id##_n16_ref(const DotArgs& args) noexcept;  \
  void dot_f32_bf16_##id##_n16_ref(const DotArgs& args) noexcept { \
    run_tiles(args, formats::Format::weight);                      \
  }
#include "kernels/cpu/dot/tiles.inc"
#undef KT_TILE

namespace {

// The int8 tile kernels' slow twin. Sums are exact; the weights' scale comes in once per row.
void run_i8_tiles(const DotArgs& args, formats::Format format) {
  const N16Layout& layout = *n16_layout(format);
  const std::size_t tile_bytes = layout.tile_bytes(args.k);
  std::vector<float> w(static_cast<std::size_t>(args.k));
  for (std::int64_t j = 0; j < args.n; ++j) {
    const std::byte* tile = args.weights + static_cast<std::size_t>(j / kN16Rows) * tile_bytes;
    const int r = static_cast<int>(j % kN16Rows);
    layout.unpack_row(tile, args.k, r, w.data());
    std::uint16_t bits;  // both formats begin with the scales of the first block
    std::memcpy(&bits, tile + 2 * r, 2);
    const float scale = fp16_to_f32(bits);
    for (std::int64_t i = 0; i < args.m; ++i) {
      const std::int8_t* a =
          args.act.i8 + i / kTileRows * kTileRows * args.k + i % kTileRows * kI8TileCols;
      std::int64_t sum = 0;
      for (std::int64_t k = 0; k < args.k; ++k) {
        const float code = scale == 0.0f ? 0.0f : w[static_cast<std::size_t>(k)] / scale;
        const std::int64_t at = k / kI8TileCols * kI8TileBytes + k % kI8TileCols;
        sum += round_even(code) * a[at];
      }
      args.out[i * args.out_stride + j] = static_cast<float>(sum) * (args.act.i8_scale[i] * scale);
    }
  }
}

}  // namespace

#define KT_I8_TILE(id, weight)                                   \
  void dot_f32_i8_##id##_n16_ref(const DotArgs& args) noexcept;  \
  void dot_f32_i8_##id##_n16_ref(const DotArgs& args) noexcept { \
    run_i8_tiles(args, formats::Format::weight);                 \
  }
#include "kernels/cpu/dot/i8_tiles.inc"
#undef KT_I8_TILE

namespace {

/// put(block, i, v): value i of the block that begins there.
template <class Put>
void quantize(const float* x, std::int64_t k, int most, float tiny, float* scale, float* sum,
              const Put& put) {
  for (std::int64_t b = 0; b < k / kQ8Block; ++b, x += kQ8Block) {
    // Bit patterns of magnitudes order like the values, with infinity and NaN on top.
    std::uint32_t max_bits = 0;
    for (int i = 0; i < kQ8Block; ++i) {
      const std::uint32_t bits = std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu;
      max_bits = bits > max_bits ? bits : max_bits;
    }
    const bool finite = max_bits < 0x7f800000u;
    const float max = std::bit_cast<float>(max_bits);
    const bool usable = finite && max >= tiny;
    const float limit = static_cast<float>(most);
    const float inverse = usable ? limit / max : 0.0f;
    int total_q = 0;
    for (int i = 0; i < kQ8Block; ++i) {
      const int v = usable ? round_even(x[i] * inverse) : 0;
      put(b * kQ8Block, i, v);
      total_q += v;
    }
    scale[b] = usable ? max / limit : finite ? 0.0f : std::bit_cast<float>(0x7fc00000u);
    sum[b] = scale[b] * static_cast<float>(total_q);
  }
}

}  // namespace

void quantize_row_ref(const float* x, std::int64_t k, std::int8_t* q, float* scale,
                      float* sum) noexcept {
  quantize(x, k, 127, kQuantizeTiny, scale, sum,
           [q](std::int64_t block, int i, int v) { q[block + i] = static_cast<std::int8_t>(v); });
}

void quantize_twice_ref(const float* x, std::int64_t k, const QuantizedTerm& first,
                        const QuantizedTerm& second) noexcept {
  quantize_row_ref(x, k, first.q, first.scale, first.sum);
  for (std::int64_t b = 0; b < k / kQ8Block; ++b) {
    const std::int64_t at = b * kQ8Block;
    float left[kQ8Block];
    for (std::int64_t i = 0; i < kQ8Block; ++i)
      left[i] = x[at + i] - first.scale[b] * static_cast<float>(first.q[at + i]);
    quantize_row_ref(left, kQ8Block, second.q + at, second.scale + b, second.sum + b);
  }
}

void quantize16_row_ref(const float* x, std::int64_t k, std::int16_t* q, float* scale,
                        float* sum) noexcept {
  quantize(x, k, 32767, kQuantize16Tiny, scale, sum, [q](std::int64_t block, int i, int v) {
    q[block + tile_column(i)] = static_cast<std::int16_t>(v);
  });
}

void to_tiles_ref(const float* x, std::int64_t k, std::uint16_t* out) noexcept {
  for (std::int64_t c = 0; c < k; c += kTileCols, out += kTileValues) {
    for (std::int64_t i = 0; i < kTileCols; ++i) out[tile_column(i)] = f32_to_bf16(x[c + i]);
  }
}

void to_i8_tiles_ref(const float* x, std::int64_t k, std::int8_t* out, float* scale) noexcept {
  std::uint32_t max_bits = 0;
  for (std::int64_t i = 0; i < k; ++i) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu;
    max_bits = bits > max_bits ? bits : max_bits;
  }
  const bool finite = max_bits < 0x7f800000u;
  const float max = std::bit_cast<float>(max_bits);
  const bool usable = finite && max >= kQuantizeTiny;
  const float inverse = usable ? 127.0f / max : 0.0f;
  *scale = usable ? max / 127.0f : finite ? 0.0f : std::bit_cast<float>(0x7fc00000u);
  for (std::int64_t i = 0; i < k; ++i) {
    std::int8_t* to = out + i / kI8TileCols * kI8TileBytes + i % kI8TileCols;
    *to = static_cast<std::int8_t>(usable ? round_even(x[i] * inverse) : 0);
  }
}

}  // namespace kt::kernels::dot
