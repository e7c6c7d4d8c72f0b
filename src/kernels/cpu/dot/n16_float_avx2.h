// AVX2 micro-kernels for float activations over kN16 tiles; included by dot_float_avx2.cc only,
// everything here is internal to that object.
//
// A panel is kM activation rows by kC weight tiles (16 weight rows each): few rows take more tiles,
// so that enough sums are under way to keep up with memory. Each output has two chains (k / 32 even
// or odd), added at the end; it sees the same operations in the same order whatever the panel is.
#pragma once
#include "kernels/cpu/dot/n16_avx2.h"

namespace kt::kernels::dot {
namespace {

/// Tiles of a panel of kM rows: as many as registers hold.
constexpr int f32_tiles(int m) { return m == 1 ? 4 : m <= 3 ? 2 : 1; }
constexpr std::int64_t kPanelRows = 6;
constexpr std::int64_t kPanelCols = 64;

/// Asks for what is read soon: one stream of weights alone waits for memory.
template <bool kWanted>
KT_INLINE void prefetch_ahead(const void* p) {
  if constexpr (kWanted) _mm_prefetch(static_cast<const char*>(p) + 1024, _MM_HINT_T0);
}

/// Weights of n consecutive k times kM activation rows into acc, in k order.
template <class W, int kM, int kC>
KT_INLINE void f32_steps(const typename W::Tile* tile, std::int64_t stride, std::int64_t n,
                         const float* const (&a)[kM], __m256 (&acc)[kM][kC][2]) {
  __m256 r[kM][kC][2];  // a local copy stays in registers over the loop
#pragma GCC unroll 8
  for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < kC; ++c) r[i][c][0] = acc[i][c][0], r[i][c][1] = acc[i][c][1];
  }
  for (std::int64_t j = 0; j < n; ++j) {
#pragma GCC unroll 4
    for (int c = 0; c < kC; ++c) {
      const Pair w = W::load(tile[c * stride + j].w);
      prefetch_ahead<(kC == 1 && kM >= 4)>(tile + c * stride + j);
#pragma GCC unroll 8
      for (int i = 0; i < kM; ++i) {
        const __m256 x = _mm256_broadcast_ss(a[i] + j);
        r[i][c][0] = _mm256_fmadd_ps(w.v[0], x, r[i][c][0]);
        r[i][c][1] = _mm256_fmadd_ps(w.v[1], x, r[i][c][1]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 4
    for (int c = 0; c < kC; ++c) acc[i][c][0] = r[i][c][0], acc[i][c][1] = r[i][c][1];
  }
}

template <class W, int kM, int kC>
[[gnu::noinline]] void f32_panel(const typename W::Tile* tile, const DotArgs& args,
                                 std::int64_t row, std::int64_t col) {
  const float* a[kM];
  for (int i = 0; i < kM; ++i) a[i] = args.act.f32 + (row + i) * args.act.f32_stride;
  __m256 even[kM][kC][2], odd[kM][kC][2];
  for (int i = 0; i < kM; ++i) {
    for (int c = 0; c < kC; ++c) {
      even[i][c][0] = even[i][c][1] = odd[i][c][0] = odd[i][c][1] = _mm256_setzero_ps();
    }
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
      const Pair sum = W::in_order(
          {_mm256_add_ps(even[i][c][0], odd[i][c][0]), _mm256_add_ps(even[i][c][1], odd[i][c][1])});
      store_rows(out + 16 * c, sum.v[0], sum.v[1], args.n - col - 16 * c);
    }
  }
}

/// kM rows from `row` on, tiles of columns begin .. end - 1, kC at once and fewer at the end.
template <class W, int kM, int kC = f32_tiles(kM)>
KT_INLINE void all_tiles(const DotArgs& args, std::int64_t row, std::int64_t begin,
                         std::int64_t end) {
  const auto* tiles = reinterpret_cast<const typename W::Tile*>(args.weights);
  std::int64_t col = begin;
  for (; col + 16 * (kC - 1) < end; col += 16 * kC)
    f32_panel<W, kM, kC>(tiles + col / 16 * args.k, args, row, col);
  if constexpr (kC > 1) {
    if (col < end) all_tiles<W, kM, kC - 1>(args, row, col, end);
  }
}

/// All m rows on a few tiles before the next, so that these are read from cache after the first
/// panel. Panels are of equal size, or one less.
template <class W>
KT_INLINE void run_f32(const DotArgs& args) {
  const std::int64_t n_panels = (args.m + kPanelRows - 1) / kPanelRows;
  const std::int64_t step = n_panels == 1 ? args.n : kPanelCols;
  for (std::int64_t begin = 0; begin < args.n; begin += step) {
    const std::int64_t end = args.n - begin < step ? args.n : begin + step;
    for (std::int64_t p = 0; p < n_panels; ++p) {
      const std::int64_t row = args.m * p / n_panels;
      switch (args.m * (p + 1) / n_panels - row) {
        case 1: all_tiles<W, 1>(args, row, begin, end); break;
        case 2: all_tiles<W, 2>(args, row, begin, end); break;
        case 3: all_tiles<W, 3>(args, row, begin, end); break;
        case 4: all_tiles<W, 4>(args, row, begin, end); break;
        case 5: all_tiles<W, 5>(args, row, begin, end); break;
        default: all_tiles<W, 6>(args, row, begin, end); break;
      }
    }
  }
}

/// fp16 bits of the E4M3 values of 16 bytes times 2^-8, exact: words 2 r, 2 r + 1 are row r, k =
/// 2 odd + 0, 1 of the line. NaN codes read as numbers.
KT_INLINE __m256 f8_pairs(const std::uint8_t* q, int odd) {
  __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i*>(q));
  if (odd == 0) v = _mm_slli_epi16(v, 8);
  v = _mm_and_si128(_mm_srai_epi16(v, 1), _mm_set1_epi16(static_cast<short>(0xbf80)));
  return _mm256_cvtph_ps(v);
}

/// 2^8 times the scales of 8 rows; NaN where the sign bit says that the row has a NaN code.
KT_INLINE __m256 f8_scale(const float* p) {
  const __m256 s = _mm256_loadu_ps(p);
  const __m256 nan = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000));
  return _mm256_mul_ps(_mm256_blendv_ps(s, nan, s), _mm256_set1_ps(256.0f));
}

/// E4M3 weights, kHalves halves (8 rows) of the tile from `first` on: lanes 2 r, 2 r + 1 of
/// sum[i][2 h + part] are row 8 h + 4 part + r, k even and odd; they meet once per 128 k.
template <int kM, int kHalves>
KT_INLINE void f8_rows(const TileF8* tile, const DotArgs& args, std::int64_t row, int first,
                       __m256 (*acc)[2]) {
  const float* a[kM];
#pragma GCC unroll 4
  for (int i = 0; i < kM; ++i) a[i] = args.act.f32 + (row + i) * args.act.f32_stride;
  for (std::int64_t k = 0; k < args.k; k += 128, ++tile) {
    __m256 sum[kM][2 * kHalves];
#pragma GCC unroll 4
    for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 4
      for (int p = 0; p < 2 * kHalves; ++p) sum[i][p] = _mm256_setzero_ps();
    }
    for (int g = 0; g < 32; ++g) {
      const std::uint8_t* q = tile->q[g] + 32 * first;
      prefetch_ahead<(kM > 1)>(q);
#pragma GCC unroll 2
      for (int odd = 0; odd < 2; ++odd) {
        __m256 w[2 * kHalves];
#pragma GCC unroll 4
        for (int p = 0; p < 2 * kHalves; ++p) w[p] = f8_pairs(q + 16 * p, odd);
#pragma GCC unroll 4
        for (int i = 0; i < kM; ++i) {
          double pair;
          __builtin_memcpy(&pair, a[i] + k + 4 * g + 2 * odd, 8);
          const __m256 x = _mm256_castpd_ps(_mm256_set1_pd(pair));
#pragma GCC unroll 4
          for (int p = 0; p < 2 * kHalves; ++p) sum[i][p] = _mm256_fmadd_ps(w[p], x, sum[i][p]);
        }
      }
    }
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      const __m256 scale = f8_scale(tile->scale + 8 * (first + h));
#pragma GCC unroll 4
      for (int i = 0; i < kM; ++i) {
        // hadd works inside 128-bit halves: rows 0, 1, 4, 5, 2, 3, 6, 7.
        const __m256 both = _mm256_hadd_ps(sum[i][2 * h], sum[i][2 * h + 1]);
        const __m256 rows = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(both), 0xd8));
        acc[i][first + h] = _mm256_fmadd_ps(rows, scale, acc[i][first + h]);
      }
    }
  }
}

template <int kM>
[[gnu::noinline]] void f8_panel(const TileF8* tile, const DotArgs& args, std::int64_t row,
                                std::int64_t col) {
  __m256 acc[kM][2];
  for (int i = 0; i < kM; ++i) acc[i][0] = acc[i][1] = _mm256_setzero_ps();
  if constexpr (kM == 1) {  // more chains hide the latency
    f8_rows<kM, 2>(tile, args, row, 0, acc);
  } else {  // fewer registers
    f8_rows<kM, 1>(tile, args, row, 0, acc);
    f8_rows<kM, 1>(tile, args, row, 1, acc);
  }
  for (int i = 0; i < kM; ++i) {
    store_rows(args.out + (row + i) * args.out_stride + col, acc[i][0], acc[i][1], args.n - col);
  }
}

KT_INLINE void run_f8(const DotArgs& args) {
  const auto* tile = reinterpret_cast<const TileF8*>(args.weights);
  for (std::int64_t col = 0; col < args.n; col += kN16Rows, tile += args.k / 128) {
    const std::int64_t n_panels = (args.m + 3) / 4;
    for (std::int64_t p = 0; p < n_panels; ++p) {  // of equal size, or one less
      const std::int64_t row = args.m * p / n_panels;
      switch (args.m * (p + 1) / n_panels - row) {
        case 1: f8_panel<1>(tile, args, row, col); break;
        case 2: f8_panel<2>(tile, args, row, col); break;
        case 3: f8_panel<3>(tile, args, row, col); break;
        default: f8_panel<4>(tile, args, row, col); break;
      }
    }
  }
}

}  // namespace
}  // namespace kt::kernels::dot
