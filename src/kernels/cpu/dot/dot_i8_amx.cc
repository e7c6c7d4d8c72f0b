// AMX rows with int8 activations, for weights whose rows have one scale each (backend: AMXInt8 and
// AMXInt4 of KExpertsCPU): products are exact sums of all k, scales come in at the end.
//
//   out[i, j] = i8_scale[i] * scale[j] * Σ_k i8[i, k] code[j, k]
//
// Sums wait between blocks of k in 32 x 32 blocks of int32. A B tile is 16 lines of 4 k: two units
// of codes, less their scales.
#include "kernels/cpu/dot/n16_amx.h"

namespace kt::kernels::dot {
namespace {

constexpr std::int64_t kSumTiles = 512;  // 16 x 16 sums each, on the stack: 512 KiB

struct NoUnit {};

/// 64 k of 16 rows as signed codes; Codes::line(unit, half, out) makes one of two halves.
template <class Codes>
struct RowScaled {
  struct Tile {
    typename Codes::Tile half[2];
  };
  using Unit = NoUnit;
  static constexpr bool kInt8 = true;
  static constexpr bool kFloats = true;
  static constexpr bool kScaled = false;
  static constexpr std::int64_t kUnitK = kI8TileCols;
  static constexpr std::int64_t kAhead = 12;  // units on their way from memory
  KT_INLINE static void lines(const Tile* tile, std::int64_t block, __m512, std::uint16_t* out) {
    tile += block;
    prefetch<sizeof(Tile)>(tile + kAhead);
    Codes::lines(tile->half[0], out);
    Codes::lines(tile->half[1], out + kTileValues / 2);
  }
};
struct Bytes {
  using Tile = TileQ8_0;
  KT_INLINE static void lines(const Tile& t, std::uint16_t* out) {
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) _mm512_store_si512(out + 32 * g, load64(t.q[g]));
  }
};
struct Nibbles {
  using Tile = TileQ4_0;
  KT_INLINE static void lines(const Tile& t, std::uint16_t* out) {
    const __m512i eight = _mm512_set1_epi8(8);
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      _mm512_store_si512(out + 32 * g, _mm512_sub_epi8(nibbles(t.q, 0, g), eight));
      _mm512_store_si512(out + 32 * (g + 4), _mm512_sub_epi8(nibbles(t.q, 1, g), eight));
    }
  }
};

/// Rows [0, args.m), of at most kSumTiles tiles with the columns of a group.
template <class W>
KT_INLINE void run_rows(const DotArgs& args, float* sums) {
  const RowTiles a = {reinterpret_cast<const std::uint16_t*>(args.act.i8), kTileRows * args.k / 2,
                      (args.m + 15) / 16, args.m};
  const std::int64_t n_pairs = (a.n + 1) / 2;
  // By columns, then rows.
  const auto block = [&](std::int64_t i, std::int64_t group, std::int64_t col) {
    return sums + ((col - group) / 32 * n_pairs + i / 2) * 1024;
  };
  const auto place = [&](std::int64_t i, std::int64_t group, std::int64_t col) {
    return Place{block(i, group, col), 32};
  };
  const auto finish = [&](std::int64_t group, std::int64_t end) {
    for (std::int64_t col = group; col < end; col += 16) {
      const auto used = static_cast<__mmask16>((1u << part(args.n, col)) - 1u);
      const auto* tile =
          reinterpret_cast<const typename W::Tile*>(args.weights) + col / 16 * (args.k / W::kUnitK);
      const __m512 scale = load_fp16(tile->half[0].d);
      for (std::int64_t i = 0; i < args.m; ++i) {
        const float* from = block(i / 16, group, col) + i % 32 * 32 + (col - group) % 32;
        const __m512 by = _mm512_mul_ps(scale, _mm512_set1_ps(args.act.i8_scale[i]));
        _mm512_mask_storeu_ps(args.out + i * args.out_stride + col, used,
                              _mm512_mul_ps(_mm512_cvtepi32_ps(load64(from)), by));
      }
    }
  };
  run_tiles<W>(args, a, place, finish);
}

template <class Codes>
KT_INLINE void run_i8(const DotArgs& args) {
  using W = RowScaled<Codes>;
  alignas(64) float sums[256 * kSumTiles];
  const std::int64_t cols = args.n < kGroupCols<W> ? (args.n + 31) / 32 * 32 : kGroupCols<W>;
  const std::int64_t most = kSumTiles * 16 / cols / 2 * 32;
  // Equal parts of whole pairs of tiles, because each expands the weights for itself.
  const std::int64_t n_parts = (args.m + most - 1) / most;
  const std::int64_t share = n_parts == 0 ? 0 : ((args.m + n_parts - 1) / n_parts + 31) / 32 * 32;
  DotArgs rows = args;
  for (std::int64_t first = 0; first < args.m && args.n > 0; first += share) {
    rows.m = args.m - first < share ? args.m - first : share;
    rows.act.i8 = args.act.i8 + first * args.k;
    rows.act.i8_scale = args.act.i8_scale + first;
    rows.out = args.out + first * args.out_stride;
    run_rows<W>(rows, sums);
  }
}

}  // namespace

#define KT_ROW(codes, name)                \
  void name(const DotArgs& args) noexcept; \
  void name(const DotArgs& args) noexcept { run_i8<codes>(args); }
KT_ROW(Bytes, dot_f32_i8_q8_0_n16_amx)
KT_ROW(Nibbles, dot_f32_i8_q4_0_n16_amx)
#undef KT_ROW

}  // namespace kt::kernels::dot
