// AMX tile kernels over kN16 tiles; included by dot_<weight>_amx.cc only, everything here is
// internal to that object. Described for bf16 activations; dot_i8_amx.cc has those of int8.
//
//   for each group of kGroupCols weight rows, for each block of kBlockTiles tiles along k:
//     for each pair of activation tiles (32 rows), for each pair of the group's weight tiles:
//       2 x 2 accumulators += A · B over the block, and between these products expand the group's
//       weights of the next block to bf16 B tiles, so that both units are busy
// The activation tiles stay in L1 and the group's B tiles in L2, so activations, which may not fit
// L2, pass once per group. Accumulators are f32 and wait in `out` between blocks of k, exactly. A B
// tile is 16 lines of k pairs, two for each 4 k: [16 rows][k, k + 2] and [16 rows][k + 1, k + 3],
// which is how bytes fall into 16-bit lanes; an A tile is 16 rows of 32 k in that order, as
// ActRows::bf16 holds them. Weights are expanded in fp16 (32 per instruction), scaled by a power of
// two per row (DotArgs::exponents) that `out` gets back at the end. Each output sees the same
// operations in the same order whatever m is.
#pragma once
#include "kernels/cpu/dot/dot.h"
#include "kernels/cpu/dot/n16_codes_avx512.h"
#include "kernels/cpu/tile_config_amx.h"

namespace kt::kernels::dot {
namespace {

/// B tiles along k that are expanded at a time, their values, and weight rows expanded together:
/// 128 KiB.
template <class W>
constexpr std::int64_t kBlockTiles = W::kInt8 ? 8 : 16;
template <class W>
constexpr std::int64_t kBlockValues = kBlockTiles<W> * kTileValues;
template <class W>
constexpr std::int64_t kGroupCols = W::kInt8 ? 256 : 128;
/// k in a tile.
template <class W>
constexpr std::int64_t kTileK = W::kInt8 ? kI8TileCols : kTileCols;

/// GCC's tile intrinsics name no memory they touch; this keeps stores and loads on their side.
KT_INLINE void memory_barrier() { asm volatile("" ::: "memory"); }

/// Two float vectors (k even, k odd) as one line of bf16 pairs, rounded to nearest, ties away from
/// zero. NaNs must be canonical: others could wrap around.
KT_INLINE __m512i bf16_pairs(__m512 even, __m512 odd) {
  const __m512i half = _mm512_set1_epi32(0x8000);
  const __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(even), half), 16);
  const __m512i high = _mm512_add_epi32(_mm512_castps_si512(odd), half);
  return _mm512_mask_blend_epi16(0xaaaaaaaau, low, high);
}

KT_INLINE __m512 canonical(__m512 v) {
  return _mm512_mask_mov_ps(v, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q),
                            _mm512_set1_ps(__builtin_nanf("")));
}

/// Gives back what truncating 11-bit to 8-bit mantissas takes away on average.
constexpr float kTruncation = 1.00246f;

/// fp16 of magnitude below 2 as bf16: the exponent gets its new bias, the mantissa loses 3 bits.
/// What fp16 holds as subnormal comes out wrong by less than 2^-14.
KT_INLINE __m512i narrow(__m512h v) {
  const __m512i bits = _mm512_srai_epi16(_mm512_castph_si512(v), 3);
  // 0xea: (bits & mask) | bias
  return _mm512_ternarylogic_epi32(bits, _mm512_set1_epi16(static_cast<short>(0x87ff)),
                                   _mm512_set1_epi16(0x3800), 0xea);
}

/// Words 16 i .. 16 i + 15, each twice.
alignas(64) constexpr std::uint16_t kTwice[2][32] = {
    {0, 0, 1, 1, 2,  2,  3,  3,  4,  4,  5,  5,  6,  6,  7,  7,
     8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15},
    {16, 16, 17, 17, 18, 18, 19, 19, 20, 20, 21, 21, 22, 22, 23, 23,
     24, 24, 25, 25, 26, 26, 27, 27, 28, 28, 29, 29, 30, 30, 31, 31}};

/// Each lane's float as two equal fp16.
KT_INLINE __m512h twice_fp16(__m512 v) {
  const __m256i h = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
  return _mm512_castsi512_ph(
      _mm512_permutexvar_epi16(load64(kTwice[0]), _mm512_castsi256_si512(h)));
}

/// What codes are multiplied with to be fp16 numbers: those that fill the upper bits of the ten of
/// a mantissa are subnormals, which needs no conversion. The range of their scales in rows that lie
/// in [-1, 1] (at most 2 / 15 and 1 / 127) leaves room to give it back.
template <class W>
constexpr float kCodeUnit = W::kNibbles ? 0x1p-18f
                            : W::kBytes ? 0x1p-22f
                                        : 1.0f;

/// Scale and offset of one pass (16 k) of a block; weight = scale * kCodeUnit * code + offset.
struct Affine {
  __m512h scale, offset;
};
template <class W>
KT_INLINE Affine affine(const typename W::Tile& tile, const typename W::Unit& unit, int b, int pass,
                        __m512 factor) {
  __m512 scale = _mm512_setzero_ps(), offset = _mm512_setzero_ps();
  if constexpr (W::kHalfScales) {
    scale = W::half_scale(tile, b, pass);
    offset = times(scale, static_cast<float>(-W::kBias));
  } else {
    W::scales(tile, unit, b, scale, offset);
    if constexpr (W::kSubScales) {
      scale = _mm512_mul_ps(scale, _mm512_cvtepi32_ps(W::sub_scale(tile, unit, b, pass)));
    }
    if constexpr (W::kSubMins) {
      offset = _mm512_mul_ps(offset, _mm512_cvtepi32_ps(W::sub_min(tile, b, pass)));
    } else if constexpr (W::kSubScales) {
      offset = times(scale, static_cast<float>(-W::kBias));
    } else if constexpr (!W::kOffset) {
      offset = _mm512_setzero_ps();
    }
  }
  scale = _mm512_mul_ps(scale, factor);
  if constexpr (kCodeUnit<W> != 1.0f) scale = times(scale, 1.0f / kCodeUnit<W>);
  return {twice_fp16(scale), twice_fp16(_mm512_mul_ps(offset, factor))};
}

/// A description of n16_codes_avx512.h for the tile kernels.
template <class Codes>
struct Quantized : Codes {
  using Tile = typename Codes::Tile;
  using Unit = typename Codes::Unit;
  static constexpr bool kInt8 = false;    // tiles of int8, sums of int32
  static constexpr bool kFloats = false;  // lines() makes a B tile
  static constexpr bool kScaled = true;   // by DotArgs::exponents
  static constexpr std::int64_t kUnitK = 32 * Codes::kBlocks;
  KT_INLINE static Unit scaled_unit(const Tile& tile, __m512) { return Codes::unit(tile); }
  KT_INLINE static Affine affine(const Tile& tile, const Unit& unit, int b, int pass,
                                 __m512 factor) {
    return dot::affine<Codes>(tile, unit, b, pass, factor);
  }
};

/// Bits [at, at + 10) of each word, less those that `keep` lacks.
template <int kAt>
KT_INLINE __m512h mantissas(__m512i v, __m512i keep) {
  const __m512i moved =
      kAt < 0 ? _mm512_slli_epi16(v, kAt < 0 ? -kAt : 0) : _mm512_srli_epi16(v, kAt < 0 ? 0 : kAt);
  return _mm512_castsi512_ph(_mm512_and_si512(moved, keep));
}
/// The same of codes whose highest bit is a sign.
template <int kAt>
KT_INLINE __m512h signed_mantissas(__m512i v, __m512i keep) {
  const __m512i moved =
      kAt < 0 ? _mm512_slli_epi16(v, kAt < 0 ? -kAt : 0) : _mm512_srli_epi16(v, kAt < 0 ? 0 : kAt);
  // 0x28: (moved ^ sign) & keep
  return _mm512_castsi512_ph(
      _mm512_ternarylogic_epi32(moved, _mm512_set1_epi16(0x200), keep, 0x28));
}

KT_INLINE void put(std::uint16_t* line, __m512h codes, const Affine& f) {
  _mm512_store_si512(line, narrow(_mm512_fmadd_ph(codes, f.scale, f.offset)));
}

/// 32 k of 16 rows to one B tile, times `factor` of each row, which brings them into [-1, 1].
template <class W>
KT_INLINE void expand_block(const typename W::Tile& tile, const typename W::Unit& unit, int b,
                            __m512 factor, std::uint16_t* out) {
  Affine f = W::affine(tile, unit, b, 0, factor);
  if constexpr (W::kNibbles) {
    const __m512i keep = _mm512_set1_epi16(0x3c0);
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      const __m512i v = load64(W::q(tile, b, g));
      std::uint16_t* line = out + 64 * g;
      put(line, mantissas<-6>(v, keep), f);
      put(line + 32, mantissas<2>(v, keep), f);
      put(line + 256, mantissas<-2>(v, keep), f);
      put(line + 288, mantissas<6>(v, keep), f);
    }
  } else if constexpr (W::kBytes) {
    const __m512i keep = _mm512_set1_epi16(0x3fc);
#pragma GCC unroll 8
    for (int g = 0; g < 8; ++g) {
      const __m512i v = load64(W::q(tile, b, g));
      std::uint16_t* line = out + 64 * g;
      put(line, signed_mantissas<-2>(v, keep), f);
      put(line + 32, signed_mantissas<6>(v, keep), f);
    }
  } else {
#pragma GCC unroll 2
    for (int pass = 0; pass < 2; ++pass) {
      if ((W::kHalfScales || W::kSubScales) && pass == 1) {
        f = W::affine(tile, unit, b, pass, factor);
      }
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        const __m512i codes = W::codes(tile, b, pass, g);
        std::uint16_t* line = out + 32 * (8 * pass + 2 * g);
        put(line, _mm512_cvtepu16_ph(_mm512_and_si512(codes, _mm512_set1_epi16(0x00ff))), f);
        put(line + 32, _mm512_cvtepu16_ph(_mm512_srli_epi16(codes, 8)), f);
      }
    }
  }
}

/// The kTileK k of one packed tile from block * kTileK on to a B tile.
template <class W>
[[gnu::noinline]] void expand_tile(const typename W::Tile* tile, const typename W::Unit& unit,
                                   std::int64_t block, __m512 factor, std::uint16_t* out) {
  if constexpr (W::kFloats) {
    W::lines(tile, block, factor, out);
  } else {
    const auto at = static_cast<std::uint64_t>(block);  // cheaper to divide
    expand_block<W>(tile[at / W::kBlocks], unit, static_cast<int>(at % W::kBlocks), factor, out);
  }
}

/// 2^exponent of 16 rows; NaN for those that hold one.
KT_INLINE __m512 powers(const std::int8_t* exponents, int sign) {
  const __m512i e = _mm512_cvtepi8_epi32(load16(exponents));
  const __mmask16 bad = _mm512_cmpeq_epi32_mask(e, _mm512_set1_epi32(kNotFinite));
  const __m512i biased = _mm512_add_epi32(
      sign < 0 ? _mm512_sub_epi32(_mm512_setzero_si512(), e) : e, _mm512_set1_epi32(127));
  return _mm512_mask_mov_ps(_mm512_castsi512_ps(_mm512_slli_epi32(biased, 23)), bad,
                            _mm512_set1_ps(__builtin_nanf("")));
}

/// Rows of the two activation tiles and columns of the two weight tiles; 0 when there is no second.
struct TileShape {
  int rows[2];
  int cols[2];
  bool operator==(const TileShape&) const = default;
};

// Tiles 0-3: accumulators [row tile][column tile]; 4, 5: activations; 6, 7: weights.
KT_INLINE void configure(const TileShape& shape) {
  TileConfig config;
  const auto set = [&](int tile, int rows, int bytes) {
    config.n_rows[tile] = static_cast<std::uint8_t>(bytes == 0 ? 0 : rows);
    config.row_bytes[tile] = static_cast<std::uint16_t>(rows == 0 ? 0 : bytes);
  };
  for (int i = 0; i < 2; ++i) {
    for (int j = 0; j < 2; ++j) set(2 * i + j, shape.rows[i], 4 * shape.cols[j]);
    set(4 + i, shape.rows[i], 64);
    set(6 + i, 16, 4 * shape.cols[i]);
  }
  load_tile_config(config);
}

/// The cache lines of kBytes bytes.
template <std::size_t kBytes>
KT_INLINE void prefetch(const void* p) {
  for (std::size_t i = 0; i < kBytes; i += 64) {
    _mm_prefetch(static_cast<const char*>(p) + i, _MM_HINT_T0);
  }
}

/// Expands one block of k of a group of weight tiles, B tile by B tile, so that it fits between the
/// products of the block before.
template <class W>
class Expander {
 public:
  Expander(const DotArgs& args, std::int64_t group_cols) : args_(&args), group_(group_cols) {}

  /// From now on: k [k0, k0 + n_k) of the group of columns from col, to out[column tile].
  KT_INLINE void start(std::int64_t col, std::int64_t k0, std::int64_t n_k, std::uint16_t* out) {
    const std::int64_t n_cols = args_->n - col < group_ ? args_->n - col : group_;
    block_ = k0 / kTileK<W>;
    n_blocks_ = n_k / kTileK<W>;
    size_ = left_ = n_blocks_ * ((n_cols + 15) / 16);
    out_ = out;
    open(col);
  }
  KT_INLINE void stop() { size_ = left_ = 0; }
  std::int64_t size() const { return size_; }
  KT_INLINE void step() {
    if (left_ == 0) return;
    --left_;
    const int j = j_;
    const std::int64_t block = block_ + k_;
    if constexpr (!W::kFloats) {
      const auto at = static_cast<std::uint64_t>(block);
      const typename W::Tile& tile = tile_[j][at / W::kBlocks];
      if (unit_of_[j] != &tile) unit_[j] = W::scaled_unit(tile, factor_[j]);
      unit_of_[j] = &tile;
      constexpr std::size_t kBytes = sizeof(tile) / W::kBlocks;
      prefetch<kBytes>(reinterpret_cast<const std::byte*>(&tile) + at % W::kBlocks * kBytes +
                       kAhead);
    }
    expand_tile<W>(tile_[j], unit_[j], block, factor_[j],
                   out_ + j * kBlockValues<W> + k_ * kTileValues);
    if (++j_ < n_cols_) return;
    j_ = 0;
    if (++k_ < n_blocks_ || left_ == 0) return;
    out_ += 2 * kBlockValues<W>;
    open(col_ + 32);
  }
  KT_INLINE void finish() {
    while (left_ > 0) step();
  }

 private:
  static constexpr std::size_t kAhead = 1024;  // bytes of weights on their way from memory

  /// The pair of columns from col.
  KT_INLINE void open(std::int64_t col) {
    const std::int64_t n_units = args_->k / W::kUnitK;
    col_ = col;
    n_cols_ = args_->n - col > 16 ? 2 : 1;
    j_ = 0;
    k_ = 0;
    for (int j = 0; j < n_cols_; ++j) {
      tile_[j] =
          reinterpret_cast<const typename W::Tile*>(args_->weights) + (col / 16 + j) * n_units;
      if constexpr (W::kScaled) {
        factor_[j] = powers(args_->exponents + col + 16 * j, -1);
      }
    }
  }

  const DotArgs* args_;
  std::int64_t group_;
  const typename W::Tile* tile_[2] = {};
  const typename W::Tile* unit_of_[2] = {};
  typename W::Unit unit_[2] = {};
  __m512 factor_[2] = {};
  std::int64_t col_ = 0, block_ = 0, n_blocks_ = 0;  // of the pair; of the block of k
  std::int64_t size_ = 0, left_ = 0, k_ = 0;         // B tiles; where step() is
  int n_cols_ = 0, j_ = 0;
  std::uint16_t* out_ = nullptr;
};

struct TileBlock {
  const std::uint16_t* a[2];    // first A tile of each row tile
  const std::uint16_t* b;       // first B tile of each column tile, kBlockValues<W> apart
  const std::uint16_t* next_b;  // those that follow; null when b is in L1
  std::int64_t n_tiles;         // along k
  float* out;
  std::int64_t out_stride;
  bool zero;  // accumulators start at 0
  bool load;  // or with what `out` holds, else they are still in their tiles
  bool store;
};

// C += A · B of int8 or bf16. A macro, because intrinsics want the names of tiles as literals.
#define KT_TILE_PRODUCT(W, c, a, b) \
  do {                              \
    if constexpr (W::kInt8) {       \
      _tile_dpbssd(c, a, b);        \
    } else {                        \
      _tile_dpbf16ps(c, a, b);      \
    }                               \
  } while (0)

/// kRows x kCols tiles of `out` += A · B over the block; between products `next` gets on by its
/// share, of which `due` keeps count over n_steps in all.
template <int kRows, int kCols, class W>
KT_INLINE void multiply(const TileBlock& t, Expander<W>& next, std::int64_t n_steps,
                        std::int64_t& due) {
  const auto stride = static_cast<std::size_t>(t.out_stride) * sizeof(float);
  float* c[2] = {t.out, t.out + 16 * t.out_stride};
  if (t.zero) {
    _tile_zero(0);
    if constexpr (kCols == 2) _tile_zero(1);
    if constexpr (kRows == 2) _tile_zero(2);
    if constexpr (kRows == 2 && kCols == 2) _tile_zero(3);
  } else if (t.load) {
    _tile_loadd(0, c[0], stride);
    if constexpr (kCols == 2) _tile_loadd(1, c[0] + 16, stride);
    if constexpr (kRows == 2) _tile_loadd(2, c[1], stride);
    if constexpr (kRows == 2 && kCols == 2) _tile_loadd(3, c[1] + 16, stride);
  }
  for (std::int64_t k = 0; k < t.n_tiles; ++k) {
    if (t.next_b != nullptr) {
      const std::int64_t ahead = k + 2;
      const std::uint16_t* b = ahead < t.n_tiles ? t.b + ahead * kTileValues
                                                 : t.next_b + (ahead - t.n_tiles) * kTileValues;
      prefetch<kTileValues * sizeof(*b)>(b);
      if constexpr (kCols == 2) prefetch<kTileValues * sizeof(*b)>(b + kBlockValues<W>);
    }
    _tile_loadd(4, t.a[0] + k * kTileValues, 64);
    _tile_loadd(6, t.b + k * kTileValues, 64);
    KT_TILE_PRODUCT(W, 0, 4, 6);
    if constexpr (kCols == 2) {
      _tile_loadd(7, t.b + kBlockValues<W> + k * kTileValues, 64);
      KT_TILE_PRODUCT(W, 1, 4, 7);
    }
    if constexpr (kRows == 2) {
      _tile_loadd(5, t.a[1] + k * kTileValues, 64);
      KT_TILE_PRODUCT(W, 2, 5, 6);
    }
    if constexpr (kRows == 2 && kCols == 2) KT_TILE_PRODUCT(W, 3, 5, 7);
    for (due += next.size(); due >= n_steps; due -= n_steps) next.step();
  }
  if (!t.store) return;
  _tile_stored(0, c[0], stride);
  if constexpr (kCols == 2) _tile_stored(1, c[0] + 16, stride);
  if constexpr (kRows == 2) _tile_stored(2, c[1], stride);
  if constexpr (kRows == 2 && kCols == 2) _tile_stored(3, c[1] + 16, stride);
}

#undef KT_TILE_PRODUCT

template <class W>
KT_INLINE void multiply(const TileShape& shape, const TileBlock& block, Expander<W>& next,
                        std::int64_t n_steps, std::int64_t& due) {
  if (shape.rows[1] != 0) {
    if (shape.cols[1] != 0) {
      multiply<2, 2>(block, next, n_steps, due);
    } else {
      multiply<2, 1>(block, next, n_steps, due);
    }
  } else if (shape.cols[1] != 0) {
    multiply<1, 2>(block, next, n_steps, due);
  } else {
    multiply<1, 1>(block, next, n_steps, due);
  }
}

KT_INLINE int part(std::int64_t n, std::int64_t begin) {
  const std::int64_t left = n - begin;
  return static_cast<int>(left <= 0 ? 0 : left < 16 ? left : 16);
}

/// Columns [col, col + 16) of out back from the range that the weights were brought into.
KT_INLINE void scale_columns(const DotArgs& args, std::int64_t col) {
  const __m512 power = times(powers(args.exponents + col, 1), kTruncation);
  const auto used = static_cast<__mmask16>((1u << part(args.n, col)) - 1u);
  for (std::int64_t i = 0; i < args.m; ++i) {
    float* out = args.out + i * args.out_stride + col;
    _mm512_mask_storeu_ps(out, used, _mm512_mul_ps(_mm512_maskz_loadu_ps(used, out), power));
  }
}

/// The activation tiles of a call, 16 rows each, and where they belong.
struct RowTiles {
  const std::uint16_t* first;
  std::int64_t values;  // of one
  std::int64_t n;
  std::int64_t m;  // rows in all
  int rows(std::int64_t i) const { return part(m, 16 * i); }
};

/// Where 32 rows x 32 columns of sums lie.
struct Place {
  float* out;
  std::int64_t stride;
};

/// Sums of all tiles of rows and columns: those of row tiles i, i + 1 and columns [col, col + 32)
/// at place(i, group, col), where finish(group, end) finds a group of columns when it is done.
template <class W, class PlaceFn, class FinishFn>
KT_INLINE void run_tiles(const DotArgs& args, const RowTiles& a, const PlaceFn& place,
                         const FinishFn& finish) {
  alignas(64) std::uint16_t b[2][kGroupCols<W> / 16 * kBlockValues<W>];
  // Few rows have nothing to share among columns: sums stay in their accumulators over all k, and
  // small blocks in L1. Few columns have no passage of activations to share.
  const bool resident = a.n <= 2;
  const std::int64_t group_cols = resident || args.n <= 64 ? 32 : kGroupCols<W>;
  constexpr std::int64_t kBlock = kBlockTiles<W> * kTileK<W>;
  const std::int64_t block_k = resident ? 4 * kTileK<W> : kBlock;
  const auto length = [&](std::int64_t k0) {
    return args.k - k0 < block_k ? args.k - k0 : block_k;
  };
  Expander<W> next(args, group_cols);
  next.start(0, 0, length(0), b[0]);
  next.finish();
  TileShape current = {};
  int now = 0;
  for (std::int64_t group = 0; group < args.n; group += group_cols) {
    const std::int64_t end = args.n - group < group_cols ? args.n : group + group_cols;
    const std::int64_t n_pairs = (a.n + 1) / 2 * ((end - group + 31) / 32);
    for (std::int64_t k0 = 0; k0 < args.k; k0 += block_k, now ^= 1) {
      const bool last_k = k0 + block_k >= args.k;
      const std::int64_t next_group = last_k ? end : group, next_k = last_k ? 0 : k0 + block_k;
      if (next_group < args.n) {
        next.start(next_group, next_k, length(next_k), b[now ^ 1]);
      } else {
        next.stop();
      }
      const std::int64_t n_tiles = length(k0) / kTileK<W>;
      std::int64_t due = 0;
      memory_barrier();
      for (std::int64_t i = 0; i < a.n; i += 2) {
        const std::uint16_t* rows = a.first + i * a.values + k0 / kTileK<W> * kTileValues;
        for (std::int64_t col = group; col < end; col += 32) {
          const TileShape shape = {{a.rows(i), a.rows(i + 1)},
                                   {part(args.n, col), part(args.n, col + 16)}};
          if (!(shape == current)) configure(shape);
          current = shape;
          const std::uint16_t* tiles = b[now] + (col - group) / 16 * kBlockValues<W>;
          const std::uint16_t* after = col + 32 < end ? tiles + 2 * kBlockValues<W> : b[now];
          const Place to = place(i, group, col);
          const TileBlock block = {{rows, rows + a.values},
                                   tiles,
                                   resident ? nullptr : after,
                                   n_tiles,
                                   to.out,
                                   to.stride,
                                   k0 == 0,
                                   !resident,
                                   !resident || last_k};
          multiply(shape, block, next, n_pairs * n_tiles, due);
        }
      }
      next.finish();
      memory_barrier();
    }
    finish(group, end);
  }
  _tile_release();
}

template <class W>
KT_INLINE void run_bf16(const DotArgs& args) {
  if (args.m == 0 || args.n == 0) return;
  const RowTiles a = {args.act.bf16, kTileRows * args.k, (args.m + 15) / 16, args.m};
  const auto place = [&](std::int64_t i, std::int64_t, std::int64_t col) {
    return Place{args.out + 16 * i * args.out_stride + col, args.out_stride};
  };
  const auto finish = [&](std::int64_t group, std::int64_t end) {
    if constexpr (W::kScaled) {
      for (std::int64_t col = group; col < end; col += 16) scale_columns(args, col);
    }
  };
  run_tiles<W>(args, a, place, finish);
}

}  // namespace
}  // namespace kt::kernels::dot
