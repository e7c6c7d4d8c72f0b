// AVX-512 micro-kernels for float activations over kN16 tiles; included by dot_float_avx512.cc
// only, everything here is internal to that object.
//
// A panel is kM activation rows by kC weight tiles (16 weight rows each): few rows take more tiles,
// so that enough sums are under way to keep up with memory. Each output has two chains (k / 32 even
// or odd), added at the end; it sees the same operations in the same order whatever the panel is.
#pragma once
#include "kernels/cpu/dot/n16_avx512.h"

namespace kt::kernels::dot {
namespace {

/// Tiles of a panel of kM rows: as many as registers hold.
constexpr int f32_tiles(int m) { return m <= 4 ? 4 : 3; }
constexpr int f8_tiles(int m) { return m <= 3 ? 4 : m == 4 ? 3 : 2; }
constexpr std::int64_t kPanelCols = 96;

/// Hardware alone does better with few rows, and with lines of 64 bytes.
template <class Tile, int kM>
KT_INLINE void prefetch_ahead(const Tile* p) {
  if constexpr (kM > 4 && sizeof(Tile) == 32)
    _mm_prefetch(reinterpret_cast<const char*>(p) + 1024, _MM_HINT_T0);
}

/// Weights of n consecutive k times kM activation rows into acc, in k order.
template <class W, int kM, int kC>
KT_INLINE void f32_steps(const typename W::Tile* tile, std::int64_t stride, std::int64_t n,
                         const float* const (&a)[kM], __m512 (&acc)[kM][kC]) {
  __m512 r[kM][kC];  // a local copy stays in registers over the loop
#pragma GCC unroll 8
  for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < kC; ++c) r[i][c] = acc[i][c];
  }
  for (std::int64_t j = 0; j < n; ++j) {
    __m512 w[kC];
#pragma GCC unroll 8
    for (int c = 0; c < kC; ++c) {
      w[c] = W::load(tile[c * stride + j].w);
      prefetch_ahead<typename W::Tile, kM>(tile + c * stride + j);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kM; ++i) {
      const __m512 x = _mm512_set1_ps(a[i][j]);
#pragma GCC unroll 8
      for (int c = 0; c < kC; ++c) r[i][c] = _mm512_fmadd_ps(w[c], x, r[i][c]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 8
    for (int c = 0; c < kC; ++c) acc[i][c] = r[i][c];
  }
}

template <class W, int kM, int kC>
[[gnu::noinline]] void f32_panel(const typename W::Tile* tile, const DotArgs& args,
                                 std::int64_t row, std::int64_t col) {
  const float* a[kM];
  for (int i = 0; i < kM; ++i) a[i] = args.act.f32 + (row + i) * args.act.f32_stride;
  __m512 even[kM][kC], odd[kM][kC];
  for (int i = 0; i < kM; ++i) {
    for (int c = 0; c < kC; ++c) even[i][c] = odd[i][c] = _mm512_setzero_ps();
  }
  bool first = true;
  for (std::int64_t k = 0; k < args.k; first = !first) {
    const std::int64_t n = args.k - k < 32 ? args.k - k : 32;
    f32_steps<W, kM, kC>(tile + k, args.k, n, a, first ? even : odd);
    for (int i = 0; i < kM; ++i) a[i] += n;
    k += n;
  }
  for (int i = 0; i < kM; ++i) {
    float* out = args.out + (row + i) * args.out_stride + col;
    for (int c = 0; c < kC; ++c) {
      _mm512_mask_storeu_ps(out + 16 * c, used_lanes(args.n, col + 16 * c),
                            _mm512_add_ps(even[i][c], odd[i][c]));
    }
  }
}

struct F32Panels {
  static constexpr int kRows = 8;
  static constexpr int tiles(int m) { return f32_tiles(m); }
  template <class W, int kM, int kC>
  KT_INLINE static void run(const typename W::Tile* tile, const DotArgs& args, std::int64_t row,
                            std::int64_t col) {
    f32_panel<W, kM, kC>(tile, args, row, col);
  }
};

/// kM rows from `row` on, tiles of columns begin .. end - 1, kC at once and fewer at the end.
/// tile_units: elements of a tile.
template <class P, class W, int kM, int kC = P::tiles(kM)>
KT_INLINE void all_tiles(const DotArgs& args, std::int64_t row, std::int64_t begin,
                         std::int64_t end, std::int64_t tile_units) {
  const auto* tiles = reinterpret_cast<const typename W::Tile*>(args.weights);
  std::int64_t col = begin;
  for (; col + 16 * (kC - 1) < end; col += 16 * kC)
    P::template run<W, kM, kC>(tiles + col / 16 * tile_units, args, row, col);
  if constexpr (kC > 1) {
    if (col < end) all_tiles<P, W, kM, kC - 1>(args, row, col, end, tile_units);
  }
}

/// All m rows on a few tiles before the next, so that these are read from cache after the first
/// panel. Panels are of equal size, or one less.
template <class P, class W>
KT_INLINE void all_panels(const DotArgs& args, std::int64_t tile_units) {
  const std::int64_t n_panels = (args.m + P::kRows - 1) / P::kRows;
  const std::int64_t step = n_panels == 1 ? args.n : kPanelCols;
  for (std::int64_t begin = 0; begin < args.n; begin += step) {
    const std::int64_t end = args.n - begin < step ? args.n : begin + step;
    for (std::int64_t p = 0; p < n_panels; ++p) {
      const std::int64_t row = args.m * p / n_panels;
      switch (args.m * (p + 1) / n_panels - row) {
        case 1: all_tiles<P, W, 1>(args, row, begin, end, tile_units); break;
        case 2: all_tiles<P, W, 2>(args, row, begin, end, tile_units); break;
        case 3: all_tiles<P, W, 3>(args, row, begin, end, tile_units); break;
        case 4: all_tiles<P, W, 4>(args, row, begin, end, tile_units); break;
        case 5: all_tiles<P, W, 5>(args, row, begin, end, tile_units); break;
        case 6: all_tiles<P, W, 6>(args, row, begin, end, tile_units); break;
        default:
          if constexpr (P::kRows > 6) {
            args.m*(p + 1) / n_panels - row == 7
                ? all_tiles<P, W, 7>(args, row, begin, end, tile_units)
                : all_tiles<P, W, 8>(args, row, begin, end, tile_units);
          }
      }
    }
  }
}

template <class W>
KT_INLINE void run_f32(const DotArgs& args) {
  all_panels<F32Panels, W>(args, args.k);
}

/// E4M3 weights: lanes 2 r, 2 r + 1 of sum[i][c][h] are row 8 h + r of tile c, k even and odd; they
/// meet once per 128 k.
template <int kM, int kC>
[[gnu::noinline]] void f8_panel(const TileF8* tile, const DotArgs& args, std::int64_t row,
                                std::int64_t col) {
  using W = F8_E4M3_B128;
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
  const std::int64_t stride = args.k / 128;
  const float* a[kM];
  __m512 acc[kM][kC];
#pragma GCC unroll 8
  for (int i = 0; i < kM; ++i) {
    a[i] = args.act.f32 + (row + i) * args.act.f32_stride;
#pragma GCC unroll 8
    for (int c = 0; c < kC; ++c) acc[i][c] = _mm512_setzero_ps();
  }
  for (std::int64_t k = 0; k < args.k; k += 128, ++tile) {
    __m512 sum[kM][kC][2];
#pragma GCC unroll 8
    for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 8
      for (int c = 0; c < kC; ++c) sum[i][c][0] = sum[i][c][1] = _mm512_setzero_ps();
    }
    for (int g = 0; g < 32; ++g) {
#pragma GCC unroll 2
      for (int second = 0; second < 2; ++second) {
#pragma GCC unroll 4
        for (int c = 0; c < kC; ++c) {
          const TileF8& t = tile[c * stride];
          const __m512 w[2] = {_mm512_cvtph_ps(W::pairs(t, g, 0, second)),
                               _mm512_cvtph_ps(W::pairs(t, g, 1, second))};
#pragma GCC unroll 8
          for (int i = 0; i < kM; ++i) {
            double pair;
            __builtin_memcpy(&pair, a[i] + k + 4 * g + 2 * second, 8);
            const __m512 x = _mm512_castpd_ps(_mm512_set1_pd(pair));
            sum[i][c][0] = _mm512_fmadd_ps(w[0], x, sum[i][c][0]);
            sum[i][c][1] = _mm512_fmadd_ps(w[1], x, sum[i][c][1]);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int c = 0; c < kC; ++c) {
      const __m512 scale = times(W::scale(tile[c * stride]), 256.0f);
#pragma GCC unroll 8
      for (int i = 0; i < kM; ++i) {
        const __m512 both = _mm512_add_ps(_mm512_permutex2var_ps(sum[i][c][0], even, sum[i][c][1]),
                                          _mm512_permutex2var_ps(sum[i][c][0], odd, sum[i][c][1]));
        acc[i][c] = _mm512_fmadd_ps(both, scale, acc[i][c]);
      }
    }
  }
  for (int i = 0; i < kM; ++i) {
    float* out = args.out + (row + i) * args.out_stride + col;
    for (int c = 0; c < kC; ++c)
      _mm512_mask_storeu_ps(out + 16 * c, used_lanes(args.n, col + 16 * c), acc[i][c]);
  }
}

struct F8Panels {
  static constexpr int kRows = 6;
  static constexpr int tiles(int m) { return f8_tiles(m); }
  template <class W, int kM, int kC>
  KT_INLINE static void run(const TileF8* tile, const DotArgs& args, std::int64_t row,
                            std::int64_t col) {
    f8_panel<kM, kC>(tile, args, row, col);
  }
};

KT_INLINE void run_f8(const DotArgs& args) {
  all_panels<F8Panels, F8_E4M3_B128>(args, args.k / 128);
}

}  // namespace
}  // namespace kt::kernels::dot
