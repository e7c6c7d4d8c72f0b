// AVX512-BF16 rows: BF16 and block-FP8 weights times bf16 activations in the tiles of
// ActRows::bf16, for batches. vdpbf16ps does two products per lane, twice what floats do.
//
//   for each kPanelTiles weight tiles (16 rows each), for each block of kBlockK k:
//     round the weights to bf16 lines of k pairs, 24 KiB that stay in L1
//     for each 8 activation rows: 8 x 3 sums += over the block
// A line is [16 rows][k, k + 2] or [16 rows][k + 1, k + 3], as activations are ordered. Sums are
// f32 and wait in `out` between blocks. What comes next, weights and activations, is asked for
// while products run. Each output sees the same operations in the same order whatever m is.
#include "kernels/cpu/dot/dot.h"
#include "kernels/cpu/dot/n16_codes_avx512.h"

namespace kt::kernels::dot {
namespace {

constexpr std::int64_t kBlockK = 256;
constexpr std::int64_t kPanelRows = 8;
constexpr int kPanelTiles = 3;
constexpr std::int64_t kLine = 32;  // values

/// Two vectors as one of bf16, `low` first; nearest even, NaN stays NaN.
KT_INLINE __m512i to_bf16(__m512 low, __m512 high) {
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
}

// Weight formats. lines(): 32 k of a weight tile, from k0 on, as 16 lines.

struct BF16 {
  KT_INLINE static __m512i widen(const TileF16& k) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(k.w)));
  }
  KT_INLINE static __m512i pair(const TileF16& even, const TileF16& odd) {
    return _mm512_or_si512(widen(even), _mm512_slli_epi32(widen(odd), 16));
  }
  KT_INLINE static void lines(const std::byte* weights, std::int64_t k0, std::uint16_t* out) {
    const auto* tile = reinterpret_cast<const TileF16*>(weights) + k0;
#pragma GCC unroll 2
    for (int k = 0; k < kTileCols; k += 4, out += 2 * kLine) {
      _mm512_store_si512(out, pair(tile[k], tile[k + 2]));
      _mm512_store_si512(out + kLine, pair(tile[k + 1], tile[k + 3]));
    }
  }
};

/// E4M3 codes are fp16 of 2^-8 times their value once the exponent field is one bit wider. The four
/// codes of a row lie as k 0, 2, 1, 3, so its halves are for the two lines.
struct F8 {
  KT_INLINE static __m512i line(__m512i codes, __m512i order, const __m512 (&scale)[2]) {
    const __m512i v = _mm512_srai_epi16(_mm512_shuffle_epi8(codes, order), 1);
    const __m512i half = _mm512_and_si512(v, _mm512_set1_epi16(static_cast<short>(0xbfff)));
    return to_bf16(_mm512_mul_ps(_mm512_cvtph_ps(_mm512_castsi512_si256(half)), scale[0]),
                   _mm512_mul_ps(_mm512_cvtph_ps(_mm512_extracti64x4_epi64(half, 1)), scale[1]));
  }
  KT_INLINE static void lines(const std::byte* weights, std::int64_t k0, std::uint16_t* out) {
    const TileF8& tile = reinterpret_cast<const TileF8*>(weights)[k0 / 128];
    const __m512 scale = times(F8_E4M3_B128::scale(tile), 256.0f);
    // Those of rows 0 to 7, and of rows 8 to 15, each twice.
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __m512 scales[2] = {
        _mm512_permutexvar_ps(twice, scale),
        _mm512_permutexvar_ps(_mm512_add_epi32(twice, _mm512_set1_epi32(8)), scale)};
    // Bytes 0, 1 or 2, 3 of each row to the high bytes of its two words.
    const __m512i low = _mm512_broadcast_i32x4(
        _mm_setr_epi8(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13));
    const __m512i high = _mm512_broadcast_i32x4(
        _mm_setr_epi8(-1, 2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15));
    const std::uint8_t(*q)[64] = tile.q + k0 % 128 / 4;
#pragma GCC unroll 2
    for (int g = 0; g < 8; ++g, out += 2 * kLine) {
      const __m512i codes = load64(q[g]);
      _mm512_store_si512(out, line(codes, low, scales));
      _mm512_store_si512(out + kLine, line(codes, high, scales));
    }
  }
};

KT_INLINE __m512bh pair_of(const std::uint16_t* a) {
  std::int32_t v;
  __builtin_memcpy(&v, a, 4);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(v));
}

/// A block of k of some weight tiles, the activations and outputs of the first row, and what to ask
/// for meanwhile.
struct Block {
  const std::uint16_t* lines;  // of the first weight tile; the next one is kBlockK * 16 further on
  const std::uint16_t* act;
  const std::uint16_t* next_act;
  float* out;
  std::int64_t out_stride;
  std::int64_t n_tiles;  // along k
  bool first;
  __mmask16 last_used;            // of the last weight tile
  const std::byte* next_weights;  // of the first weight tile
  std::size_t tile_bytes;
  std::size_t next_step;  // bytes to ask for with each pair of k; 0: they have been
};

template <int kM, int kC>
[[gnu::noinline]] void multiply(const Block& block) {
  __m512 sum[kM][kC];
#pragma GCC unroll 8
  for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 3
    for (int c = 0; c < kC; ++c) {
      const __mmask16 used = c == kC - 1 ? block.last_used : static_cast<__mmask16>(0xffff);
      sum[i][c] = block.first
                      ? _mm512_setzero_ps()
                      : _mm512_maskz_loadu_ps(used, block.out + i * block.out_stride + 16 * c);
    }
  }
  const std::uint16_t* line = block.lines;
  const std::uint16_t* act = block.act;
  const std::uint16_t* next_act = block.next_act;
  const std::byte* next_weights = block.next_weights;
  for (std::int64_t t = 0; t < block.n_tiles; ++t, act += kTileValues, next_act += kTileValues) {
#pragma GCC unroll 2
    for (int p = 0; p < kTileCols; p += 2, line += kLine) {
      if (p % 4 == 0)
        _mm_prefetch(reinterpret_cast<const char*>(next_act + p / 4 * kTileCols), _MM_HINT_T0);
#pragma GCC unroll 3
      for (int c = 0; c < kC; ++c)
        _mm_prefetch(next_weights + static_cast<std::size_t>(c) * block.tile_bytes, _MM_HINT_T0);
      next_weights += block.next_step;
      __m512bh w[kC];
#pragma GCC unroll 3
      for (int c = 0; c < kC; ++c)
        w[c] = reinterpret_cast<__m512bh>(_mm512_load_si512(line + c * kBlockK * kN16Rows));
#pragma GCC unroll 8
      for (int i = 0; i < kM; ++i) {
        const __m512bh x = pair_of(act + i * kTileCols + p);
#pragma GCC unroll 3
        for (int c = 0; c < kC; ++c) sum[i][c] = _mm512_dpbf16_ps(sum[i][c], w[c], x);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 3
    for (int c = 0; c < kC; ++c) {
      const __mmask16 used = c == kC - 1 ? block.last_used : static_cast<__mmask16>(0xffff);
      _mm512_mask_storeu_ps(block.out + i * block.out_stride + 16 * c, used, sum[i][c]);
    }
  }
}

template <int kC>
KT_INLINE void multiply_rows(const Block& block, std::int64_t n_rows) {
  switch (n_rows) {
    case 1: multiply<1, kC>(block); break;
    case 2: multiply<2, kC>(block); break;
    case 3: multiply<3, kC>(block); break;
    case 4: multiply<4, kC>(block); break;
    case 5: multiply<5, kC>(block); break;
    case 6: multiply<6, kC>(block); break;
    case 7: multiply<7, kC>(block); break;
    default: multiply<8, kC>(block); break;
  }
}

/// The rows of all activations times one block, of n_tiles weight tiles.
KT_INLINE void multiply_all(Block block, int n_tiles, const DotArgs& args) {
  const std::uint16_t* acts = block.act;
  float* out = block.out;
  for (std::int64_t row = 0; row < args.m; row += kPanelRows) {
    const std::int64_t n_rows = args.m - row < kPanelRows ? args.m - row : kPanelRows;
    const auto act_at = [&](std::int64_t r) {
      return acts + r / kTileRows * kTileRows * args.k + r % kTileRows * kTileCols;
    };
    block.act = act_at(row);
    block.next_act = act_at(row + n_rows < args.m ? row + kPanelRows : 0);
    block.out = out + row * args.out_stride;
    switch (n_tiles) {
      case 1: multiply_rows<1>(block, n_rows); break;
      case 2: multiply_rows<2>(block, n_rows); break;
      default: multiply_rows<kPanelTiles>(block, n_rows); break;
    }
    block.next_step = 0;
  }
}

template <class W>
KT_INLINE void run(const DotArgs& args, std::size_t tile_bytes) {
  alignas(64) std::uint16_t lines[kPanelTiles * kBlockK * kN16Rows];
  const std::size_t bytes_per_k = tile_bytes / static_cast<std::size_t>(args.k);  // about
  for (std::int64_t col = 0; col < args.n; col += kPanelTiles * kN16Rows) {
    const std::int64_t left = (args.n - col + kN16Rows - 1) / kN16Rows;
    const int n_tiles = left < kPanelTiles ? static_cast<int>(left) : kPanelTiles;
    const std::byte* tiles = args.weights + static_cast<std::size_t>(col / kN16Rows) * tile_bytes;
    for (std::int64_t k0 = 0; k0 < args.k; k0 += kBlockK) {
      const std::int64_t n_k = args.k - k0 < kBlockK ? args.k - k0 : kBlockK;
      for (int c = 0; c < n_tiles; ++c) {
        std::uint16_t* to = lines + c * kBlockK * kN16Rows;
        for (std::int64_t k = 0; k < n_k; k += kTileCols, to += kTileValues)
          W::lines(tiles + static_cast<std::size_t>(c) * tile_bytes, k0 + k, to);
      }
      const std::size_t after = k0 + n_k < args.k ? static_cast<std::size_t>(k0 + n_k) * bytes_per_k
                                                  : static_cast<std::size_t>(n_tiles) * tile_bytes;
      Block block;
      block.lines = lines;
      block.act = args.act.bf16 + k0 * kTileRows;
      block.out = args.out + col;
      block.out_stride = args.out_stride;
      block.n_tiles = n_k / kTileCols;
      block.first = k0 == 0;
      block.last_used = used_lanes(args.n, col + (n_tiles - 1) * kN16Rows);
      block.next_weights = tiles + after;
      block.tile_bytes = tile_bytes;
      block.next_step = 2 * bytes_per_k;
      multiply_all(block, n_tiles, args);
    }
  }
}

}  // namespace

void dot_f32_bf16_bf16_n16_avx512bf16(const DotArgs& args) noexcept;
void dot_f32_bf16_bf16_n16_avx512bf16(const DotArgs& args) noexcept {
  run<BF16>(args, static_cast<std::size_t>(args.k) * sizeof(TileF16));
}
void dot_f32_bf16_f8_e4m3_b128_n16_avx512bf16(const DotArgs& args) noexcept;
void dot_f32_bf16_f8_e4m3_b128_n16_avx512bf16(const DotArgs& args) noexcept {
  run<F8>(args, static_cast<std::size_t>(args.k / 128) * sizeof(TileF8));
}

}  // namespace kt::kernels::dot
