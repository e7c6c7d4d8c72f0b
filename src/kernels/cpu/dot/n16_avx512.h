// AVX-512 VNNI micro-kernels over kN16 tiles; included by dot_<weight>_avx512.cc only, everything
// here is internal to that object. A line of codes (16 rows x 4 k) is one register, vpdpbusd sums
// its 4 k exactly.
//
// run_q8<W>: int8 activations, W as in n16_avx2.h but codes always unsigned; per block of 32, in k
// order,
//   acc = fma(float(sum), scale * a_scale, acc);  acc = fma(offset, a_sum, acc)
// Formats with integer scales of 16 k subtract their bias exactly: sum = Σ_half s (Σ code a - bias
// Σ a). Each output sees the same operations in the same order whatever m is.
#pragma once
#include "kernels/cpu/dot/dot.h"
#include "kernels/cpu/dot/n16_codes_avx512.h"

namespace kt::kernels::dot {
namespace {

KT_INLINE __m512i broadcast4(const std::int8_t* a) {
  std::int32_t v;
  __builtin_memcpy(&v, a, 4);
  return _mm512_set1_epi32(v);
}

template <int kM>
struct Q8Rows {
  const std::int8_t* q[kM];
  const float* scale[kM];
  const float* sum[kM];
};

/// Whether each 16 k have scales of their own.
template <class W>
constexpr bool kHalves = W::kSubScales || W::kHalfScales;

/// Sums of each 16 activations of a super-block, times `factor`: element 4 j is that of k 16 j ..
/// 16 j + 15.
struct HalfSums {
  alignas(64) std::int32_t v[64];
  KT_INLINE void compute(const std::int8_t* a, int factor, int n_blocks) {
    const __m512i f = _mm512_set1_epi8(static_cast<char>(factor));
#pragma GCC unroll 4
    for (int part = 0; part < n_blocks / 2; ++part) {
      __m512i s = _mm512_dpbusd_epi32(_mm512_setzero_si512(), f, load64(a + 64 * part));
      s = _mm512_add_epi32(s, _mm512_shuffle_epi32(s, static_cast<_MM_PERM_ENUM>(0x4e)));
      s = _mm512_add_epi32(s, _mm512_shuffle_epi32(s, static_cast<_MM_PERM_ENUM>(0xb1)));
      _mm512_store_si512(v + 16 * part, s);
    }
  }
};

/// Integer products of one block of 32 k; lane = weight row.
template <class W, int kM>
KT_INLINE void dot_block(const typename W::Tile& tile, const typename W::Unit& unit, int b,
                         const Q8Rows<kM>& act, std::int64_t k0, const HalfSums* bias,
                         __m512i (&sum)[kM], __m512i (&second)[kM]) {
#pragma GCC unroll 2
  for (int pass = 0; pass < 2; ++pass) {
    __m512i half[kM];
#pragma GCC unroll 8
    for (int i = 0; i < kM; ++i) {
      half[i] = !kHalves<W> && pass == 1 ? sum[i] : _mm512_setzero_si512();
    }
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      const __m512i w = W::codes(tile, b, pass, g);
#pragma GCC unroll 8
      for (int i = 0; i < kM; ++i) {
        half[i] = _mm512_dpbusd_epi32(half[i], w, broadcast4(act.q[i] + k0 + 16 * pass + 4 * g));
      }
    }
    if constexpr (kHalves<W> && W::kBias != 0) {
#pragma GCC unroll 8
      for (int i = 0; i < kM; ++i) {
        half[i] = _mm512_sub_epi32(half[i], _mm512_set1_epi32(bias[i].v[4 * (2 * b + pass)]));
      }
    }
    if constexpr (W::kSubScales) {
      const __m512i scale = W::sub_scale(tile, unit, b, pass);
#pragma GCC unroll 8
      for (int i = 0; i < kM; ++i) {
        half[i] = _mm512_mullo_epi32(half[i], scale);
        sum[i] = pass == 0 ? half[i] : _mm512_add_epi32(sum[i], half[i]);
      }
    } else {
#pragma GCC unroll 8
      for (int i = 0; i < kM; ++i) (W::kHalfScales && pass == 1 ? second : sum)[i] = half[i];
    }
  }
}

/// Adds block b of a tile, the block-th of the row, to its sums.
template <class W, int kM>
KT_INLINE void add_block(const typename W::Tile& tile, const typename W::Unit& unit, int b,
                         const Q8Rows<kM>& act, std::int64_t block, const HalfSums* half_sums,
                         __m512 (&acc)[kM]) {
  __m512i sum[kM], second[kM];
  dot_block<W, kM>(tile, unit, b, act, 32 * block, half_sums, sum, second);
  if constexpr (W::kHalfScales) {
    const __m512 scales[2] = {W::half_scale(tile, b, 0), W::half_scale(tile, b, 1)};
#pragma GCC unroll 8
    for (int i = 0; i < kM; ++i) {
      const __m512 a_scale = _mm512_set1_ps(act.scale[i][block]);
      acc[i] =
          _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i]), _mm512_mul_ps(scales[0], a_scale), acc[i]);
      acc[i] =
          _mm512_fmadd_ps(_mm512_cvtepi32_ps(second[i]), _mm512_mul_ps(scales[1], a_scale), acc[i]);
    }
    return;
  }
  __m512 scale, offset;
  W::scales(tile, unit, b, scale, offset);
#pragma GCC unroll 8
  for (int i = 0; i < kM; ++i) {
    const __m512 a_scale = _mm512_set1_ps(act.scale[i][block]);
    acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i]), _mm512_mul_ps(scale, a_scale), acc[i]);
    if constexpr (W::kOffset) {
      acc[i] = _mm512_fmadd_ps(offset, _mm512_set1_ps(act.sum[i][block]), acc[i]);
    }
    if constexpr (W::kSubMins) {
      const std::int32_t* s = half_sums[i].v + 8 * b;
      const __m512i min =
          _mm512_add_epi32(_mm512_mullo_epi32(W::sub_min(tile, b, 0), _mm512_set1_epi32(s[0])),
                           _mm512_mullo_epi32(W::sub_min(tile, b, 1), _mm512_set1_epi32(s[4])));
      acc[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(min), _mm512_mul_ps(offset, a_scale), acc[i]);
    }
  }
}

/// Asks for the weights that are read some time after block b, where many rows take long over a
/// block: loads alone then reach a short way into memory.
template <class Tile, int kBlocks, int kM>
KT_INLINE void prefetch_ahead(const Tile& tile, int b) {
  constexpr std::int64_t kBytes = static_cast<std::int64_t>(sizeof(Tile)) / kBlocks;
  if constexpr (kM <= 2 || kBytes > 512) return;
  const char* p = reinterpret_cast<const char*>(&tile) + b * kBytes + 1024;
#pragma GCC unroll 16
  for (std::int64_t at = 0; at < kBytes; at += 64) _mm_prefetch(p + at, _MM_HINT_T0);
}

/// One of the tiles that are read side by side: its own activations and outputs. `next` is the tile
/// whose first bytes are asked for when those of this one have been.
template <class W, int kM>
struct Stream {
  const typename W::Tile* tile;
  const void* next;
  Q8Rows<kM> act;
  float* out;
  __mmask16 used;
};

/// Bytes that are asked for ahead of those in use, of all streams together: 4 KiB of two and 2 KiB
/// of four are as good on Xeons with AMX; a Zen 4 takes more. Into the second-level cache: the
/// first has no room for them beside the activations (a Zen 4 loses a third of its rate).
constexpr std::int64_t kBytesAhead = 8192;

template <class Tile, int kBlocks, int kT>
struct Ahead {
  static constexpr std::int64_t kBlockBytes = static_cast<std::int64_t>(sizeof(Tile)) / kBlocks;
  static constexpr std::int64_t kBlocksAhead =
      kBytesAhead / kT / kBlockBytes > 1 ? kBytesAhead / kT / kBlockBytes : 1;
};

/// kT tiles side by side. Weights are asked for in the order in which they are read, across the
/// ends of tiles and of calls, where the hardware's own prefetching starts anew.
template <class W, int kM, int kT>
[[gnu::noinline]] void q8_streams(const Stream<W, kM>* streams, std::int64_t n_units,
                                  std::int64_t out_stride) {
  using Far = Ahead<typename W::Tile, W::kBlocks, kT>;
  __m512 acc[kT][kM];
#pragma GCC unroll 16
  for (int i = 0; i < kT * kM; ++i) acc[i / kM][i % kM] = _mm512_setzero_ps();
  HalfSums half_sums[kHalves<W> ? kT : 1][kHalves<W> ? kM : 1];
  const HalfSums* sums[kT];
  const char* ahead[kT];
#pragma GCC unroll 4
  for (int t = 0; t < kT; ++t) {
    const bool same = t > 0 && streams[t].act.q[0] == streams[t - 1].act.q[0];
    sums[t] = same ? sums[t - 1] : half_sums[kHalves<W> ? t : 0];
    ahead[t] =
        reinterpret_cast<const char*>(streams[t].tile) + Far::kBlocksAhead * Far::kBlockBytes;
  }
  const std::int64_t n_blocks = n_units * W::kBlocks;
  const std::int64_t turn = n_blocks > Far::kBlocksAhead ? n_blocks - Far::kBlocksAhead : 0;
  std::int64_t block = 0;
  for (std::int64_t u = 0; u < n_units; ++u) {
    typename W::Unit unit[kT];
#pragma GCC unroll 4
    for (int t = 0; t < kT; ++t) {
      unit[t] = W::unit(streams[t].tile[u]);
      if constexpr (kHalves<W>) {
        if (sums[t] != half_sums[t]) continue;
        for (int i = 0; i < kM; ++i)
          half_sums[t][i].compute(streams[t].act.q[i] + 32 * block, W::kSubMins ? 1 : W::kBias,
                                  W::kBlocks);
      }
    }
    for (int b = 0; b < W::kBlocks; ++b, ++block) {
      if (block == turn) {
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) ahead[t] = static_cast<const char*>(streams[t].next);
      }
#pragma GCC unroll 4
      for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
        for (std::int64_t at = 0; at < Far::kBlockBytes; at += 64)
          _mm_prefetch(ahead[t] + at, _MM_HINT_T1);
        ahead[t] += Far::kBlockBytes;
        add_block<W, kM>(streams[t].tile[u], unit[t], b, streams[t].act, block, sums[t], acc[t]);
      }
    }
  }
#pragma GCC unroll 4
  for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 8
    for (int i = 0; i < kM; ++i)
      _mm512_mask_storeu_ps(streams[t].out + i * out_stride, streams[t].used, acc[t][i]);
  }
}

/// The kM outputs of one tile at out.
template <class W, int kM>
KT_INLINE void q8_rows(const typename W::Tile* tile, std::int64_t n_units, const Q8Rows<kM>& act,
                       float* out, std::int64_t out_stride, __mmask16 used) {
  __m512 acc[kM];
#pragma GCC unroll 8
  for (int i = 0; i < kM; ++i) acc[i] = _mm512_setzero_ps();
  HalfSums half_sums[kHalves<W> ? kM : 1];
  std::int64_t block = 0;
  for (std::int64_t u = 0; u < n_units; ++u) {
    const typename W::Unit unit = W::unit(tile[u]);
    if constexpr (kHalves<W>) {
      for (int i = 0; i < kM; ++i)
        half_sums[i].compute(act.q[i] + 32 * block, W::kSubMins ? 1 : W::kBias, W::kBlocks);
    }
    for (int b = 0; b < W::kBlocks; ++b, ++block) {
      prefetch_ahead<typename W::Tile, W::kBlocks, kM>(tile[u], b);
      add_block<W, kM>(tile[u], unit, b, act, block, half_sums, acc);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kM; ++i) _mm512_mask_storeu_ps(out + i * out_stride, used, acc[i]);
}

template <class W, int kM>
KT_INLINE Q8Rows<kM> act_rows(const DotArgs& args, std::int64_t row) {
  Q8Rows<kM> act;
  for (int i = 0; i < kM; ++i) {
    act.q[i] = args.act.q + (row + i) * args.act.q_stride;
    act.scale[i] = args.act.scale + (row + i) * args.act.block_stride;
    act.sum[i] = W::kOffset ? args.act.sum + (row + i) * args.act.block_stride : nullptr;
  }
  return act;
}

template <class W, int kM>
[[gnu::noinline]] void q8_panel(const typename W::Tile* tile, std::int64_t n_units,
                                const DotArgs& args, std::int64_t row, std::int64_t col) {
  q8_rows<W, kM>(tile, n_units, act_rows<W, kM>(args, row), args.out + row * args.out_stride + col,
                 args.out_stride, used_lanes(args.n, col));
}

/// All tiles of all products with kM rows, kT at once: of one product neighbours, of several their
/// twins.
template <class W, int kM, int kT>
KT_INLINE void stream_q8(const DotArgs& args, std::int64_t n_units) {
  const DotArgs* products[kSideBySide];
  int n_products = 0;
  for (const DotArgs* p = &args; p != nullptr; p = p->beside) products[n_products++] = p;
  const std::int64_t n_tiles = (args.n + kN16Rows - 1) / kN16Rows;
  const std::int64_t at_once = n_products >= kT ? 1 : kT / n_products;
  // Tiles in the order in which they are read: `at_once` of each product, then the next of each.
  struct Place {
    int product = 0;
    std::int64_t first = 0, tile = 0;  // of the group, in the product
  };
  const auto step = [&](Place& at) {
    const std::int64_t end = at.first + at_once < n_tiles ? at.first + at_once : n_tiles;
    if (++at.tile < end) return;
    if (++at.product == n_products) at.product = 0, at.first = end;
    at.tile = at.first;
  };
  Place here, ahead;
  for (int t = 0; t < kT; ++t) step(ahead);
  const std::int64_t n_all = n_products * n_tiles;
  Stream<W, kM> streams[kT];
  const auto take = [&](Stream<W, kM>& s, std::int64_t i) {
    const DotArgs& p = *products[here.product];
    s.tile = reinterpret_cast<const typename W::Tile*>(p.weights) + here.tile * n_units;
    s.act = act_rows<W, kM>(p, 0);
    s.out = p.out + here.tile * kN16Rows;
    s.used = used_lanes(p.n, here.tile * kN16Rows);
    if (i + kT < n_all) {
      s.next = reinterpret_cast<const typename W::Tile*>(products[ahead.product]->weights) +
               ahead.tile * n_units;
    } else {
      const std::int64_t first = here.tile - here.first;  // its twin of the next call
      s.next = p.next == nullptr
                   ? static_cast<const void*>(s.tile)
                   : reinterpret_cast<const typename W::Tile*>(p.next) + first * n_units;
    }
    step(here);
    step(ahead);
  };
  std::int64_t i = 0;
  for (; i + kT <= n_all; i += kT) {
    for (int t = 0; t < kT; ++t) take(streams[t], i + t);
    q8_streams<W, kM, kT>(streams, n_units, args.out_stride);
  }
  if constexpr (kT > 2) {
    for (; i + 2 <= n_all; i += 2) {
      for (int t = 0; t < 2; ++t) take(streams[t], i + t);
      q8_streams<W, kM, 2>(streams, n_units, args.out_stride);
    }
  }
  for (; i < n_all; ++i) {
    take(streams[0], i);
    q8_streams<W, kM, 1>(streams, n_units, args.out_stride);
  }
}

/// All m rows on one weight tile before the next, so that the tile is read from cache after the
/// first panel. Panels are of equal size, or one less.
template <class W>
KT_INLINE void tile_q8(const DotArgs& args, const typename W::Tile* tile, std::int64_t n_units,
                       std::int64_t col) {
  const std::int64_t n_panels = (args.m + 7) / 8;
  for (std::int64_t p = 0; p < n_panels; ++p) {
    const std::int64_t row = args.m * p / n_panels;
    switch (args.m * (p + 1) / n_panels - row) {
      case 1: q8_panel<W, 1>(tile, n_units, args, row, col); break;
      case 2: q8_panel<W, 2>(tile, n_units, args, row, col); break;
      case 3: q8_panel<W, 3>(tile, n_units, args, row, col); break;
      case 4: q8_panel<W, 4>(tile, n_units, args, row, col); break;
      case 5: q8_panel<W, 5>(tile, n_units, args, row, col); break;
      case 6: q8_panel<W, 6>(tile, n_units, args, row, col); break;
      case 7: q8_panel<W, 7>(tile, n_units, args, row, col); break;
      default: q8_panel<W, 8>(tile, n_units, args, row, col); break;
    }
  }
}

// Batches of formats with scales of 16 k, whose codes are slow to expand (others lose more by the
// way through memory than they win): codes of two weight tiles are expanded once, for kChunkBlocks
// x 32 k, and stay in L1 for all activation rows. Each activation that is loaded then meets two
// lines. Accumulators wait in `out` between chunks. The operations of each output are those of
// q8_rows, in the same order.

constexpr int kChunkBlocks = 16;
constexpr std::int64_t kBatchMin = 24;
constexpr int kBatchRows = 4;  // as many as registers hold
constexpr std::int64_t kBatchMax = 128;

/// What one block of 32 k of a tile expands to.
template <class W>
struct Lines {
  alignas(64) std::uint8_t codes[8][64];
  __m512 scale;   // of k 0 .. 15 with kHalfScales
  __m512 offset;  // scale of k 16 .. 31 with kHalfScales
  __m512i sub_scale[2];
  __m512i sub_min[W::kSubMins ? 2 : 1];
};

template <class W>
KT_INLINE void expand_lines(const typename W::Tile* tile, int n_blocks, Lines<W>* out) {
  for (int u = 0; u < n_blocks / W::kBlocks; ++u, ++tile) {
    const typename W::Unit unit = W::unit(*tile);
    for (int b = 0; b < W::kBlocks; ++b, ++out) {
      __m512i line[8];
#pragma GCC unroll 8
      for (int g = 0; g < 8; ++g) line[g] = W::codes(*tile, b, g / 4, g % 4);
#pragma GCC unroll 8
      for (int g = 0; g < 8; ++g) _mm512_store_si512(out->codes[g], line[g]);
      if constexpr (W::kHalfScales) {
        out->scale = W::half_scale(*tile, b, 0);
        out->offset = W::half_scale(*tile, b, 1);
      } else {
        W::scales(*tile, unit, b, out->scale, out->offset);
      }
#pragma GCC unroll 2
      for (int pass = 0; pass < 2; ++pass) {
        if constexpr (W::kSubScales) out->sub_scale[pass] = W::sub_scale(*tile, unit, b, pass);
        if constexpr (W::kSubMins) out->sub_min[pass] = W::sub_min(*tile, b, pass);
      }
    }
  }
}

/// One chunk: the rows of a batch and what is added to their outputs.
template <class W>
struct Chunk {
  const Lines<W>* lines[2];  // [n_blocks] of each tile
  int n_blocks;
  std::int64_t block;          // first block of the chunk
  const std::int32_t* halves;  // [row of the batch][2 kChunkBlocks]: see HalfSums
  std::int64_t col;
};

template <class W, int kM>
[[gnu::noinline]] void batch_panel(const Chunk<W>& chunk, const DotArgs& args, std::int64_t row) {
  const std::int8_t* q[kM];
  const float* a_scale[kM];
  float* out[kM];
  const __mmask16 used[2] = {used_lanes(args.n, chunk.col), used_lanes(args.n, chunk.col + 16)};
  __m512 acc[kM][2];
#pragma GCC unroll 8
  for (int i = 0; i < kM; ++i) {
    q[i] = args.act.q + (row + i) * args.act.q_stride + 32 * chunk.block;
    a_scale[i] = args.act.scale + (row + i) * args.act.block_stride + chunk.block;
    out[i] = args.out + (row + i) * args.out_stride + chunk.col;
#pragma GCC unroll 2
    for (int t = 0; t < 2; ++t) {
      acc[i][t] =
          chunk.block == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(used[t], out[i] + 16 * t);
    }
  }
  for (int b = 0; b < chunk.n_blocks; ++b) {
    const Lines<W>* lines[2] = {chunk.lines[0] + b, chunk.lines[1] + b};
    __m512i sum[kM][2];
#pragma GCC unroll 2
    for (int pass = 0; pass < 2; ++pass) {
      __m512i half[kM][2];
#pragma GCC unroll 8
      for (int i = 0; i < kM; ++i) {
        __m512i start = _mm512_setzero_si512();
        if constexpr (W::kBias != 0) {
          start = _mm512_set1_epi32(-chunk.halves[i * 2 * kChunkBlocks + 2 * b + pass]);
        }
        half[i][0] = half[i][1] = start;
      }
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        const __m512i w[2] = {load64(lines[0]->codes[4 * pass + g]),
                              load64(lines[1]->codes[4 * pass + g])};
#pragma GCC unroll 8
        for (int i = 0; i < kM; ++i) {
          const __m512i x = broadcast4(q[i] + 32 * b + 16 * pass + 4 * g);
          half[i][0] = _mm512_dpbusd_epi32(half[i][0], w[0], x);
          half[i][1] = _mm512_dpbusd_epi32(half[i][1], w[1], x);
        }
      }
#pragma GCC unroll 2
      for (int t = 0; t < 2; ++t) {
#pragma GCC unroll 8
        for (int i = 0; i < kM; ++i) {
          if constexpr (W::kHalfScales) {
            const __m512 scale = pass == 0 ? lines[t]->scale : lines[t]->offset;
            acc[i][t] =
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(half[i][t]),
                                _mm512_mul_ps(scale, _mm512_set1_ps(a_scale[i][b])), acc[i][t]);
          } else {
            half[i][t] = _mm512_mullo_epi32(half[i][t], lines[t]->sub_scale[pass]);
            sum[i][t] = pass == 0 ? half[i][t] : _mm512_add_epi32(sum[i][t], half[i][t]);
          }
        }
      }
    }
    if constexpr (W::kHalfScales) continue;
#pragma GCC unroll 2
    for (int t = 0; t < 2; ++t) {
      const __m512 scale = lines[t]->scale, offset = lines[t]->offset;
#pragma GCC unroll 8
      for (int i = 0; i < kM; ++i) {
        const __m512 a = _mm512_set1_ps(a_scale[i][b]);
        acc[i][t] =
            _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[i][t]), _mm512_mul_ps(scale, a), acc[i][t]);
        if constexpr (W::kSubMins) {
          const std::int32_t* s = chunk.halves + i * 2 * kChunkBlocks + 2 * b;
          const __m512i min =
              _mm512_add_epi32(_mm512_mullo_epi32(lines[t]->sub_min[0], _mm512_set1_epi32(s[0])),
                               _mm512_mullo_epi32(lines[t]->sub_min[1], _mm512_set1_epi32(s[1])));
          acc[i][t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(min), _mm512_mul_ps(offset, a), acc[i][t]);
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kM; ++i) {
    _mm512_mask_storeu_ps(out[i], used[0], acc[i][0]);
    _mm512_mask_storeu_ps(out[i] + 16, used[1], acc[i][1]);
  }
}

/// n_rows rows from `row` on (kBatchMin to kBatchMax), all pairs of tiles.
template <class W>
KT_INLINE void batch_q8(const DotArgs& args, std::int64_t row, std::int64_t n_rows) {
  const auto* tiles = reinterpret_cast<const typename W::Tile*>(args.weights);
  const std::int64_t n_blocks = args.k / 32, n_units = n_blocks / W::kBlocks;
  Lines<W> lines[2][kChunkBlocks];
  std::int32_t halves[kBatchMax * 2 * kChunkBlocks];
  for (std::int64_t block = 0; block < n_blocks; block += kChunkBlocks) {
    const int count =
        static_cast<int>(n_blocks - block < kChunkBlocks ? n_blocks - block : kChunkBlocks);
    for (std::int64_t i = 0; i < n_rows; ++i) {
      for (int b = 0; b < count; b += W::kBlocks) {
        HalfSums sums;
        sums.compute(args.act.q + (row + i) * args.act.q_stride + 32 * (block + b),
                     W::kSubMins ? 1 : W::kBias, W::kBlocks);
        for (int j = 0; j < 2 * W::kBlocks; ++j)
          halves[i * 2 * kChunkBlocks + 2 * b + j] = sums.v[4 * j];
      }
    }
    for (std::int64_t col = 0; col + 16 < args.n; col += 32) {
      const typename W::Tile* tile = tiles + col / 16 * n_units + block / W::kBlocks;
      expand_lines<W>(tile, count, lines[0]);
      expand_lines<W>(tile + n_units, count, lines[1]);
      Chunk<W> chunk = {{lines[0], lines[1]}, count, block, halves, col};
      std::int64_t i = 0;
      // Panels of one less until the rest divides.
      for (; (n_rows - i) % kBatchRows != 0; i += kBatchRows - 1) {
        batch_panel<W, kBatchRows - 1>(chunk, args, row + i);
        chunk.halves += (kBatchRows - 1) * 2 * kChunkBlocks;
      }
      for (; i < n_rows; i += kBatchRows) {
        batch_panel<W, kBatchRows>(chunk, args, row + i);
        chunk.halves += kBatchRows * 2 * kChunkBlocks;
      }
    }
  }
}

template <class W>
KT_INLINE void run_q8(const DotArgs& args) {
  const auto* tile = reinterpret_cast<const typename W::Tile*>(args.weights);
  const std::int64_t n_units = args.k / (32 * W::kBlocks);
  static_assert(kStreamedRows == 4);
  if (args.far || args.beside != nullptr) {
    switch (args.m) {
      case 1: return stream_q8<W, 1, 4>(args, n_units);
      case 2: return stream_q8<W, 2, 4>(args, n_units);
      case 3: return stream_q8<W, 3, 2>(args, n_units);
      case 4: return stream_q8<W, 4, 2>(args, n_units);
      default: break;
    }
  }
  std::int64_t col = 0;
  if constexpr (kHalves<W>) {
    if (args.m >= kBatchMin && args.n > kN16Rows) {
      const std::int64_t n_batches = (args.m + kBatchMax - 1) / kBatchMax;
      for (std::int64_t i = 0; i < n_batches; ++i) {
        const std::int64_t begin = args.m * i / n_batches;
        batch_q8<W>(args, begin, args.m * (i + 1) / n_batches - begin);
      }
      col = (args.n + 15) / 32 * 32;  // a tile without a neighbour is left
    }
  }
  for (; col < args.n; col += kN16Rows) tile_q8<W>(args, tile + col / 16 * n_units, n_units, col);
}

}  // namespace
}  // namespace kt::kernels::dot
