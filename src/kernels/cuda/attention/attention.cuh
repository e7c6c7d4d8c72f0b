// The attention kernel and its launch, instantiated by attention_*.cu for each pair of dimensions.
//
// A block of kWarps warps holds 16 · kR query rows and walks over tiles of kKeys keys. Per tile:
// warp w multiplies row tile w % kR with its share of the keys; the scores go through shared memory
// to the softmax, whose threads own rows; then each warp adds weights · V for its slice of dim_v,
// all rows. The next tile is on its way from memory meanwhile. Thread rule: status.h.
#pragma once
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/few_rows.cuh"
#include "kernels/cuda/attention/heads.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/numbers.cuh"

namespace kt::kernels::cuda {

inline constexpr int kPad =
    8;  // bf16 values between rows in shared memory: rows start in other banks

template <int kDimQk_, int kDimV_, bool kShared_, int kR_, int kWarps_, int kKeys_>
struct AttentionShape {
  static constexpr int kDimQk = kDimQk_, kDimV = kDimV_, kR = kR_, kWarps = kWarps_, kKeys = kKeys_;
  static constexpr bool kShared = kShared_;  // v is the head of k
  static constexpr int kRows = 16 * kR, kThreads = 32 * kWarps;
  static constexpr int kQkStride = kDimQk + kPad, kVStride = kShared ? kQkStride : kDimV + kPad;
  static constexpr int kScoreStride = kKeys + 4, kWeightStride = kKeys + kPad;
  static constexpr int kKBytes = kKeys * kQkStride * 2,
                       kVBytes = kShared ? 0 : kKeys * kVStride * 2;
  static constexpr int kQBytes = kRows * kQkStride * 2;
  static constexpr int kSharedBytes = kQBytes + 2 * (kKBytes + kVBytes) + kRows * kScoreStride * 4 +
                                      kRows * kWeightStride * 2 + 2 * kRows * 4;
  static constexpr int kKeysPerWarp = kKeys * kR / kWarps;
  static constexpr int kDimsPerWarp = kDimV / kWarps;
  static_assert(kKeysPerWarp % 16 == 0 && kDimsPerWarp % 16 == 0 && kDimQk % 16 == 0);
};

__device__ inline void load_matrices(std::uint32_t (&r)[4], const std::uint16_t* p) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}
__device__ inline void load_transposed(std::uint32_t (&r)[4], const std::uint16_t* p) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at));
}
/// 16 bytes from memory to shared memory, zeros when not `valid`.
__device__ inline void copy_async(void* to, const void* from, bool valid) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ inline void wait_copies() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

/// Keys [begin, begin + kKeys) of one stream to shared memory as they are, zeros from `end`. Rows
/// there are kStride bf16 apart; those of E4M3 have no gaps.
template <class S, CacheType kType, int kDim, int kStride>
__device__ void load_keys(std::uint16_t* to, const AttentionArgs& args, const KvCache& cache,
                          std::int32_t table, std::int64_t kv_head, std::int64_t begin,
                          std::int64_t end) {
  constexpr int kChunks = kDim * cache_bytes(kType) / 16,
                kRowBytes = kType == CacheType::kBF16 ? kStride * 2 : kDim;
  const CacheElements head = elements(cache, kv_head * cache.head_stride);
  for (int i = threadIdx.x; i < S::kKeys * kChunks; i += S::kThreads) {
    const int key = i / kChunks, chunk = i % kChunks;
    const bool valid = begin + key < end;
    const std::int64_t row = valid ? cache_row(args.table, table, begin + key) : 0;
    copy_async(reinterpret_cast<std::byte*>(to) + key * kRowBytes + 16 * chunk,
               head.data + row * cache.row_stride * cache_bytes(kType) + 16 * chunk, valid);
  }
}

/// What load_keys() brought in E4M3 to rows of bf16; each thread the chunks that it loaded.
template <class S, int kDim, int kStride>
__device__ void widen_keys(const std::uint16_t* from, std::uint16_t* to) {
  constexpr int kChunks = kDim / 16;
  for (int i = threadIdx.x; i < S::kKeys * kChunks; i += S::kThreads) {
    auto* row = reinterpret_cast<uint4*>(to + i / kChunks * kStride + 16 * (i % kChunks));
    widen(reinterpret_cast<const uint4*>(from)[i], row[0], row[1]);
  }
}

/// Where a block's query row i is: a token of the item and a head.
struct QueryRow {
  std::int64_t token, head;
  bool valid;
  __device__ QueryRow(const AttentionArgs& args, const SequenceItem& item, std::int64_t kv_head,
                      std::int64_t i) {
    const std::int64_t group = args.n_heads / args.n_kv_heads;
    token = i / group;
    head = kv_head * group + i % group;
    valid = token < item.n_rows;
  }
};

/// kType: of the cache. One in E4M3 is brought to the second of the two tiles as it is, and becomes
/// bf16 in the first.
template <class S, CacheType kType>
__global__ void __launch_bounds__(S::kThreads) attention_kernel(AttentionArgs args, int m_blocks) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  start_next();
  await_previous();
  auto* q = reinterpret_cast<std::uint16_t*>(shared_memory);
  auto* k_tiles = reinterpret_cast<std::uint16_t*>(shared_memory + S::kQBytes);
  auto* v_tiles = reinterpret_cast<std::uint16_t*>(shared_memory + S::kQBytes + 2 * S::kKBytes);
  auto* scores =
      reinterpret_cast<float*>(shared_memory + S::kQBytes + 2 * (S::kKBytes + S::kVBytes));
  auto* weights = reinterpret_cast<std::uint16_t*>(scores + S::kRows * S::kScoreStride);
  auto* rescale = reinterpret_cast<float*>(weights + S::kRows * S::kWeightStride);
  float* row_sums = rescale + S::kRows;

  const SequenceItem item = item_of(args, blockIdx.z);
  const std::int64_t kv_head = blockIdx.y / m_blocks;
  const std::int64_t first_row = static_cast<std::int64_t>(blockIdx.y % m_blocks) * S::kRows;
  const std::int64_t group = args.n_heads / args.n_kv_heads;
  const std::int64_t split = blockIdx.x;
  const bool splits = gridDim.x > 1;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  if (first_row >= item.n_rows * group) return;

  const std::int64_t last_row = min(first_row + S::kRows, item.n_rows * group) - 1;
  std::int64_t key = split * args.split_keys;
  const std::int64_t key_end =
      min(key + args.split_keys, static_cast<std::int64_t>(item.position) + last_row / group + 1);
  if (args.window > 0) {
    const std::int64_t oldest = item.position + first_row / group - args.window + 1;
    if (oldest > key) key += (oldest - key) / S::kKeys * S::kKeys;
  }

  auto* partial_lse = static_cast<float*>(args.workspace);  // [splits, n_rows, n_heads]
  float* partial = partial_lse + (gridDim.x * args.n_rows * args.n_heads + 3) / 4 * 4;
  if (key >= key_end) {  // nothing here for these rows
    for (int i = threadIdx.x; i < S::kRows; i += S::kThreads) {
      const QueryRow row(args, item, kv_head, first_row + i);
      if (!row.valid) continue;
      if (!splits) clear_result(args, (item.row_begin + row.token) * args.n_heads + row.head);
      if (splits)
        partial_lse[(split * args.n_rows + item.row_begin + row.token) * args.n_heads + row.head] =
            -INFINITY;
    }
    return;
  }

  constexpr bool kWidens = kType == CacheType::kE4M3;
  const auto load = [&](std::int64_t from, int stage) {
    load_keys<S, kType, S::kDimQk, S::kQkStride>(k_tiles + stage * (S::kKBytes / 2), args, args.k,
                                                 item.table, kv_head, from, key_end);
    if constexpr (!S::kShared) {
      load_keys<S, kType, S::kDimV, S::kVStride>(v_tiles + stage * (S::kVBytes / 2), args, args.v,
                                                 item.table, kv_head, from, key_end);
    }
  };
  load(key, kWidens ? 1 : 0);
  for (int i = threadIdx.x; i < S::kRows * (S::kDimQk / 8); i += S::kThreads) {
    const int r = i / (S::kDimQk / 8), chunk = i % (S::kDimQk / 8);
    const QueryRow row(args, item, kv_head, first_row + r);
    const std::int64_t at = row.valid ? (item.row_begin + row.token) * args.q_token_stride +
                                            row.head * args.q_head_stride
                                      : 0;
    copy_async(q + r * S::kQkStride + 8 * chunk,
               static_cast<const std::uint16_t*>(args.q) + at + 8 * chunk, row.valid);
  }
  commit_copies();

  // The softmax: kPerRow neighbouring threads own a row.
  constexpr int kPerRow = S::kThreads / S::kRows;
  const int my_row = threadIdx.x / kPerRow, my_part = threadIdx.x % kPerRow;
  const std::int64_t my_position = item.position + (first_row + my_row) / group;
  const float log2_scale = args.scale * 1.44269504f;
  float top = -INFINITY, sum = 0.0f;

  constexpr int kTiles = S::kDimsPerWarp / 8;
  float out[S::kR][kTiles][4] = {};
  const int row_tile = warp % S::kR, key_part = warp / S::kR * S::kKeysPerWarp;

  for (int stage = 0; key < key_end; key += S::kKeys, stage ^= 1) {
    const int tile = kWidens ? 0 : stage;
    const std::uint16_t* k_tile = k_tiles + tile * (S::kKBytes / 2);
    const std::uint16_t* v_tile = S::kShared ? k_tile : v_tiles + tile * (S::kVBytes / 2);
    wait_copies();
    __syncthreads();
    if constexpr (kWidens) {
      widen_keys<S, S::kDimQk, S::kQkStride>(k_tiles + S::kKBytes / 2, k_tiles);
      if constexpr (!S::kShared)
        widen_keys<S, S::kDimV, S::kVStride>(v_tiles + S::kVBytes / 2, v_tiles);
    }
    if (key + S::kKeys < key_end) {
      load(key + S::kKeys, tile ^ 1);
      commit_copies();
    }
    if constexpr (kWidens) __syncthreads();

    // Two chains of sums where there are few, so that products need not wait for each other.
    constexpr int kChains = S::kKeysPerWarp <= 16 ? 2 : 1;
    float c[kChains][S::kKeysPerWarp / 8][4] = {};
#pragma unroll 4  // a multiple of the chains
    for (int d = 0; d < S::kDimQk; d += 16) {
      std::uint32_t a[4];
      load_matrices(a, q + (row_tile * 16 + lane % 16) * S::kQkStride + d + lane / 16 * 8);
#pragma unroll
      for (int n = 0; n < S::kKeysPerWarp; n += 16) {
        std::uint32_t b[4];
        load_matrices(b, k_tile + (key_part + n + lane / 16 * 8 + lane % 8) * S::kQkStride + d +
                             lane / 8 % 2 * 8);
        mma_bf16(c[d / 16 % kChains][n / 8], a, b[0], b[1]);
        mma_bf16(c[d / 16 % kChains][n / 8 + 1], a, b[2], b[3]);
      }
    }
#pragma unroll
    for (int n = 0; n < S::kKeysPerWarp / 8; ++n) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float low = c[0][n][2 * h], high = c[0][n][2 * h + 1];
        if constexpr (kChains == 2) {
          low += c[1][n][2 * h];
          high += c[1][n][2 * h + 1];
        }
        *reinterpret_cast<float2*>(scores + (row_tile * 16 + g + 8 * h) * S::kScoreStride +
                                   key_part + 8 * n + 2 * t) = make_float2(low, high);
      }
    }
    __syncthreads();

    float s[S::kKeys / kPerRow];
    float tile_top = -INFINITY;
#pragma unroll
    for (int j = 0; j < S::kKeys / kPerRow; ++j) {
      const int i = j * kPerRow + my_part;
      const std::int64_t p = key + i;
      const bool seen =
          p <= my_position && p < key_end && (args.window == 0 || p > my_position - args.window);
      s[j] = seen ? scores[my_row * S::kScoreStride + i] * log2_scale : -INFINITY;
      tile_top = fmaxf(tile_top, s[j]);
    }
#pragma unroll
    for (int step = 1; step < kPerRow; step *= 2)
      tile_top = fmaxf(tile_top, __shfl_xor_sync(~0u, tile_top, step));
    const float new_top = fmaxf(top, tile_top);
    const float base = new_top == -INFINITY ? 0.0f : new_top;
    const float factor = exp2f(top - base);
    float tile_sum = 0.0f;
#pragma unroll
    for (int j = 0; j < S::kKeys / kPerRow; ++j) {
      const float w = exp2f(s[j] - base);
      const std::uint16_t bits = to_bf16(w);
      weights[my_row * S::kWeightStride + j * kPerRow + my_part] = bits;
      tile_sum += bf16_bits(bits);  // what the values are multiplied with
    }
#pragma unroll
    for (int step = 1; step < kPerRow; step *= 2) tile_sum += __shfl_xor_sync(~0u, tile_sum, step);
    sum = sum * factor + tile_sum;
    top = new_top;
    if (my_part == 0) rescale[my_row] = factor;
    __syncthreads();

#pragma unroll
    for (int r = 0; r < S::kR; ++r) {
      const float low = rescale[16 * r + g], high = rescale[16 * r + g + 8];
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        out[r][n][0] *= low;
        out[r][n][1] *= low;
        out[r][n][2] *= high;
        out[r][n][3] *= high;
      }
    }
#pragma unroll
    for (int i = 0; i < S::kKeys; i += 16) {
      std::uint32_t a[S::kR][4];
#pragma unroll
      for (int r = 0; r < S::kR; ++r) {
        load_matrices(a[r], weights + (16 * r + lane % 16) * S::kWeightStride + i + lane / 16 * 8);
      }
#pragma unroll
      for (int n = 0; n < kTiles; n += 2) {
        std::uint32_t b[4];
        load_transposed(b, v_tile + (i + lane % 16) * S::kVStride + warp * S::kDimsPerWarp + 8 * n +
                               lane / 16 * 8);
#pragma unroll
        for (int r = 0; r < S::kR; ++r) {
          mma_bf16(out[r][n], a[r], b[0], b[1]);
          mma_bf16(out[r][n + 1], a[r], b[2], b[3]);
        }
      }
    }
  }

  if (my_part == 0) {
    row_sums[my_row] = sum == 0.0f ? 0.0f : 1.0f / sum;
    const QueryRow row(args, item, kv_head, first_row + my_row);
    if (splits && row.valid) {
      partial_lse[(split * args.n_rows + item.row_begin + row.token) * args.n_heads + row.head] =
          sum == 0.0f ? -INFINITY : top + log2f(sum);
    }
  }
  __syncthreads();
#pragma unroll
  for (int r = 0; r < S::kR; ++r) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int local = 16 * r + g + 8 * h;
      const QueryRow row(args, item, kv_head, first_row + local);
      if (!row.valid) continue;
      const std::int64_t at = ((item.row_begin + row.token) * args.n_heads + row.head) * S::kDimV;
      const std::int64_t split_at = split * args.n_rows * args.n_heads * S::kDimV;
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        const std::int64_t d = at + warp * S::kDimsPerWarp + 8 * n + 2 * t;
        const float low = out[r][n][2 * h] * row_sums[local],
                    high = out[r][n][2 * h + 1] * row_sums[local];
        if (splits) {
          *reinterpret_cast<float2*>(partial + split_at + d) = make_float2(low, high);
        } else if (args.out_type == Type::kF32) {
          *reinterpret_cast<float2*>(static_cast<float*>(args.out) + d) = make_float2(low, high);
        } else {
          *reinterpret_cast<std::uint32_t*>(static_cast<std::uint16_t*>(args.out) + d) =
              bf16_pair(low, high);
        }
      }
    }
  }
}

inline std::int64_t split_count(const AttentionArgs& args) {
  return div_up(args.max_keys, args.split_keys);
}

template <class S>
Status launch_attention(const AttentionArgs& args, Stream stream) {
  void (*kernel)(AttentionArgs, int) = args.k.type == CacheType::kBF16
                                           ? attention_kernel<S, CacheType::kBF16>
                                           : attention_kernel<S, CacheType::kE4M3>;
  const Status status = allow_shared(kernel, S::kSharedBytes);
  if (status != Status::kOk) return status;
  const std::int64_t rows = args.max_item_rows * (args.n_heads / args.n_kv_heads);
  const std::int64_t m_blocks = div_up<std::int64_t>(rows, S::kRows);
  const dim3 grid(static_cast<unsigned>(split_count(args)),
                  static_cast<unsigned>(args.n_kv_heads * m_blocks),
                  static_cast<unsigned>(args.n_items));
  return launch(kernel, grid, S::kThreads, S::kSharedBytes, stream, args,
                static_cast<int>(m_blocks));
}

/// The first of two shapes that shared memory holds.
template <class Wide, class Small>
Status launch_fitting(const AttentionArgs& args, Stream stream) {
  static_assert(Small::kSharedBytes <= 99 * 1024);
  const bool fits = !args.small && Wide::kSharedBytes <= most_shared();
  return fits ? launch_attention<Wide>(args, stream) : launch_attention<Small>(args, stream);
}

/// Few query rows: few_rows.cuh, or one row tile whose warps share the keys. Many: four row tiles.
template <int kDimQk, int kDimV>
Status launch_grouped(const AttentionArgs& args, const HeadsArgs* heads, Stream stream) {
  const std::int64_t rows = args.max_item_rows * (args.n_heads / args.n_kv_heads);
  if constexpr (kDimQk == kDimV && kDimV <= 128) {
    if (rows <= kFewRows) return launch_few_rows<kDimV>(args, heads, stream);
  }
  constexpr bool kWide = kDimV > 128;
  if (rows <= 16) {
    return launch_fitting<
        AttentionShape<kDimQk, kDimV, false, 1, 4, 64>,
        AttentionShape<kDimQk, kDimV, false, 1, (kWide ? 2 : 4), (kWide ? 32 : 64)>>(args, stream);
  }
  return launch_fitting<AttentionShape<kDimQk, kDimV, false, 4, 4, (kDimQk > 128 ? 32 : 64)>,
                        AttentionShape<kDimQk, kDimV, false, (kWide ? 2 : 4), 4, 32>>(args, stream);
}

/// `heads` is null but where attention.cu found that few_rows.cuh prepares them.
Status attention_64(const AttentionArgs& args, const HeadsArgs* heads, Stream stream);
Status attention_128(const AttentionArgs& args, const HeadsArgs* heads, Stream stream);
Status attention_192(const AttentionArgs& args, const HeadsArgs* heads, Stream stream);
Status attention_256(const AttentionArgs& args, const HeadsArgs* heads, Stream stream);
Status attention_mla(const AttentionArgs& args, const HeadsArgs* heads, Stream stream);

}  // namespace kt::kernels::cuda
