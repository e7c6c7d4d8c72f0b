// Attention of prompts on AMX tiles, everything that is multiplied in bf16, sums in floats. Per
// split:
//
//   Sᵀ[key, row] = K · Qᵀ      K tiles as the cache has them, Qᵀ made once per block of rows
//   P[row, key]  = 2^(s - max) down the columns of Sᵀ: one row of the attention per lane
//   O[row, d]   += P · V       V with neighbouring keys interleaved
//
// A bf16 holds the bits of an fp16 of the cache shifted by 3 (rounded), which stands for 2^-112 of
// its value; queries and weights are made as much larger.
#include <immintrin.h>

#include "base/half.h"
#include "kernels/cpu/attention/attention.h"
#include "kernels/cpu/tile_config_amx.h"

namespace kt::kernels::attention {
namespace {

#include "kernels/cpu/attention/attention_common.inc"

constexpr std::int64_t kTile = 16;                    // rows
constexpr std::int64_t kWide = 32;                    // bf16 values of a tile's row
constexpr std::int64_t kTileValues = kTile * kWide;   // 1 KiB
constexpr std::int64_t kGroups = kSplitKeys / kWide;  // of 32 keys
constexpr float kRaised = 0x1p100f;                   // queries and weights for an fp16 cache
constexpr float kLeft = 0x1p12f;                      // what then is missing to 2^112
constexpr float kLog2e = 1.44269504f;

inline std::int64_t padded(std::int64_t n) { return (n + kWide - 1) / kWide * kWide; }

// Where things lie in the scratch, and what the cache asks for.
struct Plan {
  std::int64_t n_rows, row_tiles, dk, dv;
  std::uint16_t* q;  // [kMaxRows / 16][dk / 32] tiles [16 pairs of d][16 rows][2]
  std::uint16_t* k;  // [kBlock / 16][dk / 32] tiles [16 keys][32 d]
  std::uint16_t*
      v;  // [kGroups][dv / 16] tiles [16 pairs of keys][16 d][2], d in its packing's order
  std::uint16_t* p;  // [kMaxRows / 16][kGroups] tiles [16 rows][32 keys]
  float* s;          // [kSplitKeys][kMaxRows]
  float* part;       // a state
  bool raised;
};

inline Plan make_plan(const Args& a) {
  Plan p{};
  p.n_rows = count_rows(a);
  p.row_tiles = (p.n_rows + kTile - 1) / kTile;
  p.dk = padded(a.dim_qk);
  p.dv = padded(a.dim_v);
  p.q = reinterpret_cast<std::uint16_t*>(a.scratch);
  p.k = p.q + kMaxRows * p.dk;
  p.v = p.k + kBlock * p.dk;
  p.p = p.v + kSplitKeys * p.dv;
  p.s = reinterpret_cast<float*>(p.p + kMaxRows * kSplitKeys);
  p.part = p.s + kSplitKeys * kMaxRows;
  p.raised = a.k.format == Format::kF16;
  return p;
}

inline std::int64_t last_position(const Args& a, const Plan& p, std::int64_t row_tile) {
  const std::int64_t end = (row_tile + 1) * kTile;
  return position_of(a, (end < p.n_rows ? end : p.n_rows) - 1);
}

// Floats to bf16 in the low halves, to nearest even; NaN stays NaN.
inline __m512i round_bf16(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i half = _mm512_srli_epi32(up, 16);
  return _mm512_mask_mov_epi32(half, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q),
                               _mm512_set1_epi32(0x7fc0));
}

// 32 floats to bf16; n of them count.
inline __m512i round_32(const float* x, std::int64_t n) {
  const auto mask = static_cast<__mmask32>(n >= 32 ? ~0u : (1u << n) - 1u);
  const __m256i low =
      _mm512_cvtepi32_epi16(round_bf16(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x)));
  const __m256i high = _mm512_cvtepi32_epi16(
      round_bf16(_mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + 16)));
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

// 32 values of E4M3 in bf16, which has them all as normal numbers.
inline __m512i widen_e4m3(__m256i codes) {
  const __m512i x = _mm512_cvtepu8_epi16(codes);
  const __m512i size = _mm512_and_si512(x, _mm512_set1_epi16(0x7f));
  const __m512i normal = _mm512_add_epi16(_mm512_slli_epi16(size, 4), _mm512_set1_epi16(120 << 7));
  // 0 to 7 times 2^-9.
  const __m512i small = _mm512_broadcast_i32x4(
      _mm_setr_epi16(0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60));
  const __mmask32 subnormal = _mm512_cmplt_epu16_mask(size, _mm512_set1_epi16(8));
  const __mmask32 nan = _mm512_cmpeq_epi16_mask(size, _mm512_set1_epi16(0x7f));
  __m512i bits = _mm512_mask_permutexvar_epi16(normal, subnormal, size, small);
  bits = _mm512_mask_mov_epi16(bits, nan, _mm512_set1_epi16(0x7fc0));
  return _mm512_or_si512(bits, _mm512_slli_epi16(_mm512_sub_epi16(x, size), 8));
}

// Values [d, d + 32) of a cached vector of `dim`, zero beyond, as the products read them.
template <Format kFormat>
inline __m512i cached_32(const std::byte* from, std::int64_t d, std::int64_t dim) {
  const std::int64_t n = dim - d;
  if constexpr (kFormat == Format::kF16 || kFormat == Format::kBF16) {
    const auto* h = reinterpret_cast<const std::uint16_t*>(from) + d;
    const auto mask = static_cast<__mmask32>(n >= 32 ? ~0u : (1u << n) - 1u);
    const __m512i x = _mm512_maskz_loadu_epi16(mask, h);
    if constexpr (kFormat == Format::kBF16) return x;
    const __m512i shifted = _mm512_srai_epi16(_mm512_add_epi16(x, _mm512_set1_epi16(4)), 3);
    return _mm512_and_si512(shifted, _mm512_set1_epi16(static_cast<short>(0x8fff)));
  } else if constexpr (kFormat == Format::kF8_E4M3) {
    const auto mask = static_cast<__mmask32>(n >= 32 ? ~0u : (1u << n) - 1u);
    return widen_e4m3(_mm256_maskz_loadu_epi8(mask, from + d));
  } else if constexpr (kFormat == Format::kQ8_0) {
    const Q8Block& block = reinterpret_cast<const Q8Block*>(from)[d / 32];
    const __m512 scale = _mm512_set1_ps(fp16_to_f32(block.scale));
    alignas(64) float x[32];
    for (int i = 0; i < 32; i += 16) {
      const __m128i q = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block.q + i));
      _mm512_store_ps(x + i, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q))));
    }
    return round_32(x, 32);
  } else {
    return round_32(reinterpret_cast<const float*>(from) + d, n);
  }
}

// 16 x 16 values of 32 bits: out[j][i] = in[i][j].
inline void transpose(__m512i x[16]) {
  __m512i y[16];
  for (int i = 0; i < 8; ++i) {
    y[2 * i] = _mm512_unpacklo_epi32(x[2 * i], x[2 * i + 1]);
    y[2 * i + 1] = _mm512_unpackhi_epi32(x[2 * i], x[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    x[4 * i] = _mm512_unpacklo_epi64(y[4 * i], y[4 * i + 2]);
    x[4 * i + 1] = _mm512_unpackhi_epi64(y[4 * i], y[4 * i + 2]);
    x[4 * i + 2] = _mm512_unpacklo_epi64(y[4 * i + 1], y[4 * i + 3]);
    x[4 * i + 3] = _mm512_unpackhi_epi64(y[4 * i + 1], y[4 * i + 3]);
  }
  // x[4i + j] has in its lane l the rows 4i … 4i + 3 of column 4l + j.
  for (int j = 0; j < 4; ++j) {
    const __m512i a = _mm512_shuffle_i32x4(x[j], x[4 + j], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(x[j], x[4 + j], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(x[8 + j], x[12 + j], 0xdd);
    y[j] = _mm512_shuffle_i32x4(a, c, 0x88);
    y[8 + j] = _mm512_shuffle_i32x4(a, c, 0xdd);
    y[4 + j] = _mm512_shuffle_i32x4(b, d, 0x88);
    y[12 + j] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
  for (int i = 0; i < 16; ++i) x[i] = y[i];
}

inline void configure_tiles() {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) config.row_bytes[tile] = 64, config.n_rows[tile] = 16;
  load_tile_config(config);
}

// Tiles 0 to 3 = sums over n steps of products of A tiles (4, 5) with B tiles (6, 7); tiles and
// steps of `a` and `b` are that many values apart.
template <int A, int B>
inline void multiply(const std::uint16_t* a, std::int64_t a_tile, std::int64_t a_step,
                     const std::uint16_t* b, std::int64_t b_tile, std::int64_t b_step,
                     std::int64_t n) {
  _tile_zero(0);
  if constexpr (B == 2) _tile_zero(1);
  if constexpr (A == 2) _tile_zero(2);
  if constexpr (A == 2 && B == 2) _tile_zero(3);
  for (std::int64_t i = 0; i < n; ++i) {
    _tile_loadd(4, a + i * a_step, 64);
    _tile_loadd(6, b + i * b_step, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (B == 2) {
      _tile_loadd(7, b + b_tile + i * b_step, 64);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (A == 2) {
      _tile_loadd(5, a + a_tile + i * a_step, 64);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (A == 2 && B == 2) _tile_dpbf16ps(3, 5, 7);
  }
}

// Sums of multiply() to c[A · 16][B · 16].
template <int A, int B>
inline void store_sums(float* c, std::int64_t stride) {
  const std::int64_t bytes = stride * static_cast<std::int64_t>(sizeof(float));
  _tile_stored(0, c, bytes);
  if constexpr (B == 2) _tile_stored(1, c + kTile, bytes);
  if constexpr (A == 2) _tile_stored(2, c + kTile * stride, bytes);
  if constexpr (A == 2 && B == 2) _tile_stored(3, c + kTile * stride + kTile, bytes);
}

// Keys of a block to tiles; what lacks in the last tile is zero.
template <Format kFormat>
inline void pack_keys(const Args& a, const Plan& p, std::int64_t first, std::int64_t n_keys) {
  const Rows keys = rows_of(a, a.k, first);
  const std::int64_t end = (n_keys + kWide - 1) / kWide * kWide;
  for (std::int64_t key = 0; key < end; ++key) {
    std::uint16_t* to = p.k + key / kTile * kTile * p.dk + key % kTile * kWide;
    for (std::int64_t d = 0; d < p.dk; d += kWide) {
      const __m512i x =
          key < n_keys ? cached_32<kFormat>(keys.at(key), d, a.dim_qk) : _mm512_setzero_si512();
      _mm512_store_si512(to + d * kTile, x);
    }
  }
}

// Values of a block to tiles: per pair of keys and 32 d, two rows of 16 pairs each. The first has d
// of {0-3, 8-11, 16-19, 24-27}, the second the others.
template <Format kFormat>
inline void pack_values(const Args& a, const Plan& p, std::int64_t first, std::int64_t column,
                        std::int64_t n_keys) {
  const Rows values = rows_of(a, a.v, first);
  const bool shared = a.v.base == a.k.base;  // of a latent: in the tiles of the keys already
  const std::int64_t end = (n_keys + kWide - 1) / kWide * kWide;
  const auto value = [&](std::int64_t key, std::int64_t d) {
    if (shared) {
      return _mm512_load_si512(p.k + key / kTile * kTile * p.dk + key % kTile * kWide + d * kTile);
    }
    return key < n_keys ? cached_32<kFormat>(values.at(key), d, a.dim_v) : _mm512_setzero_si512();
  };
  for (std::int64_t key = 0; key < end; key += 2) {
    std::uint16_t* to = p.v + (column + key) / kWide * kWide * p.dv + key % kWide / 2 * kWide;
    for (std::int64_t d = 0; d < p.dv; d += kWide) {
      const __m512i even = value(key, d), odd = value(key + 1, d);
      _mm512_store_si512(to + d * kWide, _mm512_unpacklo_epi16(even, odd));
      _mm512_store_si512(to + d * kWide + kTileValues, _mm512_unpackhi_epi16(even, odd));
    }
  }
}

template <class F>
inline void with_format(Format format, F&& f) {
  switch (format) {
    case Format::kF16: return f.template operator()<Format::kF16>();
    case Format::kBF16: return f.template operator()<Format::kBF16>();
    case Format::kF8_E4M3: return f.template operator()<Format::kF8_E4M3>();
    case Format::kQ8_0: return f.template operator()<Format::kQ8_0>();
    default: return f.template operator()<Format::kF32>();
  }
}

// Scores of a block: two tiles of keys and two of rows at a time.
inline void score_block(const Args& a, const Plan& p, std::int64_t first, std::int64_t column,
                        std::int64_t n_keys) {
  const std::int64_t steps = p.dk / kWide, tile = kTile * p.dk;
  for (std::int64_t r = 0; r < p.row_tiles; r += 2) {
    const std::int64_t last = last_position(a, p, r + 1 < p.row_tiles ? r + 1 : r);
    for (std::int64_t key = 0; key < n_keys && first + key <= last; key += 2 * kTile) {
      const std::uint16_t* k = p.k + key * p.dk;
      const std::uint16_t* q = p.q + r * tile;
      float* s = p.s + (column + key) * kMaxRows + r * kTile;
      if (r + 1 < p.row_tiles) {
        multiply<2, 2>(k, tile, kTileValues, q, tile, kTileValues, steps);
        store_sums<2, 2>(s, kMaxRows);
      } else {
        multiply<2, 1>(k, tile, kTileValues, q, tile, kTileValues, steps);
        store_sums<2, 1>(s, kMaxRows);
      }
    }
  }
}

// 2^x, x <= 100: reduction to [0, 1) and a polynomial of degree 4, relative error below 3e-6; 0 far
// below.
inline __m512 exp2_vec(__m512 x) {
  const __m512 r = _mm512_reduce_ps(x, 0x09);  // x - floor(x)
  __m512 y = _mm512_set1_ps(1.353416724e-2f);
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(5.201146191e-2f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(2.414427561e-1f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(6.930038346e-1f));
  y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(1.000002593f));
  return _mm512_scalef_ps(y, x);
}

// The 16 rows of a tile over the keys of a split.
struct Lanes {
  __m512i begin, end;             // of the keys that each row sees, counted from the split's first
  std::int64_t first, last;       // keys outside [first, last) are seen by none
  std::int64_t all_from, all_to;  // those in [all_from, all_to) by all
};

inline Lanes lanes_of(const Args& a, const Plan& p, std::int64_t row_tile, std::int64_t key_begin,
                      std::int64_t n_keys) {
  alignas(64) std::int32_t begin[16], end[16];
  Lanes l{};
  l.first = n_keys;
  l.all_to = n_keys;
  for (std::int64_t i = 0; i < kTile; ++i) {
    const std::int64_t row = row_tile * kTile + i;
    const std::int64_t position = position_of(a, row < p.n_rows ? row : p.n_rows - 1) - key_begin;
    std::int64_t lo = a.window > 0 ? position - a.window + 1 : 0;
    std::int64_t hi = position + 1 < n_keys ? position + 1 : n_keys;
    lo = lo < 0 ? 0 : lo < n_keys ? lo : n_keys;  // a window may begin behind the split
    hi = hi < lo ? lo : hi;
    begin[i] = static_cast<std::int32_t>(lo);
    end[i] = static_cast<std::int32_t>(hi);
    l.first = lo < l.first ? lo : l.first;
    l.last = hi > l.last ? hi : l.last;
    l.all_from = lo > l.all_from ? lo : l.all_from;
    l.all_to = hi < l.all_to ? hi : l.all_to;
  }
  l.begin = _mm512_load_si512(begin);
  l.end = _mm512_load_si512(end);
  return l;
}

template <bool kAll>
inline __mmask16 sees(const Lanes& l, std::int64_t key) {
  if (kAll) return 0xffff;
  const __m512i k = _mm512_set1_epi32(static_cast<std::int32_t>(key));
  return static_cast<__mmask16>(_mm512_cmp_epi32_mask(k, l.begin, _MM_CMPINT_NLT) &
                                _mm512_cmp_epi32_mask(k, l.end, _MM_CMPINT_LT));
}

// The largest of the scores that each row sees, and below them.
template <bool kAll>
inline __m512 largest_of(const Lanes& l, const float* s, std::int64_t from, std::int64_t to,
                         __m512 largest) {
  for (std::int64_t key = from; key < to; ++key) {
    largest = _mm512_mask_max_ps(largest, sees<kAll>(l, key), largest,
                                 _mm512_load_ps(s + key * kMaxRows));
  }
  return largest;
}

// A tile of weights, and their sum added to `sum`.
template <bool kAll>
inline __m512 weigh_group(const Lanes& l, const float* s, std::int64_t first, __m512 factor,
                          __m512 shift, __m512 sum, std::uint16_t* tile) {
  __m512i pairs[16];
  for (std::int64_t i = 0; i < 16; ++i) {
    __m512i halves[2];
    for (std::int64_t j = 0; j < 2; ++j) {
      const std::int64_t key = first + 2 * i + j;
      const __m512 w = _mm512_maskz_mov_ps(
          sees<kAll>(l, key),
          exp2_vec(_mm512_fmadd_ps(_mm512_load_ps(s + key * kMaxRows), factor, shift)));
      sum = _mm512_add_ps(sum, w);
      halves[j] = _mm512_add_epi32(_mm512_castps_si512(w), _mm512_set1_epi32(0x8000));
    }
    pairs[i] = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(halves[0], 16), halves[1]);
  }
  transpose(pairs);
  for (std::int64_t i = 0; i < 16; ++i) _mm512_store_si512(tile + i * kWide, pairs[i]);
  return sum;
}

// Weights of a tile of rows for groups of 32 keys up to `groups`, to p.p; largest score (to the
// base 2) and sum to p.part.
inline void weigh_tile(const Plan& p, const Lanes& l, std::int64_t row_tile, std::int64_t groups) {
  const float* s = p.s + row_tile * kTile;
  const __m512 factor = _mm512_set1_ps(p.raised ? kLog2e * kLeft : kLog2e);
  const std::int64_t all_from = l.all_from < l.last ? l.all_from : l.last;
  const std::int64_t all_to = l.all_to > all_from ? l.all_to : all_from;
  __m512 largest = _mm512_set1_ps(-1e30f);
  largest = largest_of<false>(l, s, l.first, all_from, largest);
  largest = largest_of<true>(l, s, all_from, all_to, largest);
  largest = largest_of<false>(l, s, all_to, l.last, largest);
  largest = _mm512_mul_ps(largest, factor);
  _mm512_store_ps(max_of(p.part) + row_tile * kTile, largest);
  const __m512 shift = _mm512_sub_ps(_mm512_set1_ps(p.raised ? 100.0f : 0.0f), largest);
  __m512 sum = _mm512_setzero_ps();
  for (std::int64_t g = 0; g < groups; ++g) {
    std::uint16_t* tile = p.p + (row_tile * kGroups + g) * kTileValues;
    const std::int64_t first = g * kWide;
    if (first >= all_from && first + kWide <= all_to) {
      sum = weigh_group<true>(l, s, first, factor, shift, sum, tile);
    } else {
      sum = weigh_group<false>(l, s, first, factor, shift, sum, tile);
    }
  }
  if (p.raised) sum = _mm512_mul_ps(sum, _mm512_set1_ps(1.0f / kRaised));
  _mm512_store_ps(sum_of(p.part) + row_tile * kTile, sum);
}

// Weighted values of two tiles of rows (or one), 32 d at a time.
inline void sum_tiles(const Plan& p, std::int64_t row_tile, std::int64_t groups) {
  const std::int64_t v_step = kWide * p.dv;
  for (std::int64_t d = 0; d < p.dv; d += kWide) {
    const std::uint16_t* weights = p.p + row_tile * kGroups * kTileValues;
    const std::uint16_t* v = p.v + d * kWide;
    float* to = values_of(p.part) + row_tile * kTile * p.dv + d;
    if (row_tile + 1 < p.row_tiles) {
      multiply<2, 2>(weights, kGroups * kTileValues, kTileValues, v, kTileValues, v_step, groups);
      store_sums<2, 2>(to, p.dv);
    } else {
      multiply<1, 2>(weights, 0, kTileValues, v, kTileValues, v_step, groups);
      store_sums<1, 2>(to, p.dv);
    }
  }
}

void clear_state(const Args& a) noexcept { empty_state(a, padded(a.dim_v)); }

// Qᵀ: pairs of d of a tile's rows, transposed.
void load_queries(const Args& a) noexcept {
  const Plan p = make_plan(a);
  const float scale = p.raised ? a.scale * kRaised : a.scale;
  for (std::int64_t tile = 0; tile < p.row_tiles; ++tile) {
    for (std::int64_t d = 0; d < p.dk; d += kWide) {
      const std::int64_t n = a.dim_qk - d < kWide ? a.dim_qk - d : kWide;
      __m512i rows[16];
      for (std::int64_t i = 0; i < kTile; ++i) {
        const std::int64_t row = tile * kTile + i;
        alignas(64) float x[32];
        for (std::int64_t j = 0; j < 32; ++j) x[j] = 0.0f;
        if (row < p.n_rows) {
          const float* q = query_of(a, row) + d;
          for (std::int64_t j = 0; j < n; ++j) x[j] = q[j] * scale;
        }
        rows[i] = round_32(x, kWide);
      }
      transpose(rows);
      std::uint16_t* to = p.q + tile * kTile * p.dk + d * kTile;
      for (std::int64_t i = 0; i < 16; ++i) _mm512_store_si512(to + i * kWide, rows[i]);
    }
  }
}

// `raised` is what the values of the later part lack.
inline void fold(const Args& a, const float* later, float raised) {
  const Plan p = make_plan(a);
  const float* later_max = max_of(later);
  const float* later_sum = sum_of(later);
  for (std::int64_t r = 0; r < p.n_rows; r += kTile) {
    float* max = max_of(a.state) + r;
    float* sum = sum_of(a.state) + r;
    const __m512 own_max = _mm512_load_ps(max), other_max = _mm512_load_ps(later_max + r);
    const __m512 largest = _mm512_max_ps(own_max, other_max);
    alignas(64) float own[16], other[16];
    _mm512_store_ps(own, exp2_vec(_mm512_sub_ps(own_max, largest)));
    _mm512_store_ps(other, exp2_vec(_mm512_sub_ps(other_max, largest)));
    for (std::int64_t i = 0; i < kTile && r + i < p.n_rows; ++i) {
      if (max[i] >= later_max[r + i]) own[i] = 1.0f;
      if (later_max[r + i] >= max[i]) other[i] = 1.0f;
      sum[i] = sum[i] * own[i] + later_sum[r + i] * other[i];
      max[i] = max[i] > later_max[r + i] ? max[i] : later_max[r + i];
      float* values = values_of(a.state) + (r + i) * p.dv;
      const float* from = values_of(later) + (r + i) * p.dv;
      const __m512 own_factor = _mm512_set1_ps(own[i]);
      const __m512 other_factor = _mm512_set1_ps(other[i] * raised);
      for (std::int64_t d = 0; d < p.dv; d += 16) {
        const __m512 x = _mm512_mul_ps(_mm512_load_ps(from + d), other_factor);
        _mm512_store_ps(values + d, _mm512_fmadd_ps(_mm512_load_ps(values + d), own_factor, x));
      }
    }
  }
}

void fold_states(const Args& a, const float* later) noexcept { fold(a, later, 1.0f); }

void add_split(const Args& a, std::int64_t key_begin, std::int64_t key_end) noexcept {
  const Plan p = make_plan(a);
  const std::int64_t n_keys = count_keys(a, key_begin, key_end);
  if (n_keys <= 0) return;
  configure_tiles();
  for (std::int64_t block = 0; block < n_keys; block += kBlock) {
    const std::int64_t n = n_keys - block < kBlock ? n_keys - block : kBlock;
    const std::int64_t first = key_begin + block;
    with_format(a.k.format, [&]<Format kFormat>() { pack_keys<kFormat>(a, p, first, n); });
    score_block(a, p, first, block, n);
    with_format(a.v.format, [&]<Format kFormat>() { pack_values<kFormat>(a, p, first, block, n); });
  }
  for (std::int64_t r = 0; r < p.row_tiles; r += 2) {
    const std::int64_t count = r + 1 < p.row_tiles ? 2 : 1;
    Lanes lanes[2];
    std::int64_t keys = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      lanes[i] = lanes_of(a, p, r + i, key_begin, n_keys);
      keys = lanes[i].last > keys ? lanes[i].last : keys;
    }
    const std::int64_t groups = (keys + kWide - 1) / kWide;
    for (std::int64_t i = 0; i < count; ++i) weigh_tile(p, lanes[i], r + i, groups);
    sum_tiles(p, r, groups);
  }
  _tile_release();
  fold(a, p.part, p.raised ? kLeft : 1.0f);
}

// 32 values of d from the order that pack_values() gives them to their own.
inline void unravel(const float* from, float* to) {
  const __m512 low = _mm512_load_ps(from), high = _mm512_load_ps(from + 16);
  const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  _mm512_store_ps(to, _mm512_permutex2var_ps(low, first, high));
  _mm512_store_ps(to + 16, _mm512_permutex2var_ps(low, second, high));
}

void finish_rows(const Args& a) noexcept {
  const Plan p = make_plan(a);
  for (std::int64_t r = 0; r < p.n_rows; ++r) {
    float* out = out_of(a, r);
    const float factor = 1.0f / sum_of(a.state)[r];
    for (std::int64_t d = 0; d < a.dim_v; d += kWide) {
      alignas(64) float x[32];
      unravel(values_of(a.state) + r * p.dv + d, x);
      const std::int64_t n = a.dim_v - d < kWide ? a.dim_v - d : kWide;
      for (std::int64_t i = 0; i < n; ++i) out[d + i] = x[i] * factor;
    }
  }
}

}  // namespace

extern const Kernel kKernel_amx;
const Kernel kKernel_amx = {"attention_amx", kAmx,        true,        clear_state, load_queries,
                            add_split,       fold_states, finish_rows, nullptr};

}  // namespace kt::kernels::attention
