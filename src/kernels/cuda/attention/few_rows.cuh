// Attention of at most 16 query rows for each kv head and sequence, as decoding has them.
//
// Each warp of a block takes every eighth piece of 16 keys, with a softmax of its own, all in
// registers: lane 4g + t reads 16 bytes at a time of key g, which are tensor-core operands as they
// are for q·k (the order of k is free) and after a transpose within the warp for weights·v; E4M3
// becomes bf16 on the way. The warps' results are added at the end, in order. Thread rule:
// status.h.
#pragma once
#include "kernels/cuda/attention/heads.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/numbers.cuh"

namespace kt::kernels::cuda {

inline constexpr int kFewWarps = 8, kFewRows = 16, kPieceKeys = 16;

__device__ inline std::uint32_t transposed(std::uint32_t pair) {
  std::uint32_t out;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
  return out;
}
__device__ inline std::uint32_t word(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/// The first of the eight values that lane t holds as its j-th of a key, query or result.
template <CacheType kType>
__device__ constexpr int first_dim(int j, int t) {
  return kType == CacheType::kBF16 ? 32 * j + 8 * t : 64 * (j / 2) + 16 * t + 8 * (j % 2);
}

/// What a lane loads of the two keys of a piece: 16 bytes of every 64.
template <int kDim, CacheType kType>
struct FewLoads {
  static constexpr int kN = kDim * static_cast<int>(cache_bytes(kType)) / 64;
  uint4 raw[2][kN];
  __device__ void values(uint4 (&out)[2][kDim / 32]) const {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int j = 0; j < kN; ++j) {
        if constexpr (kType == CacheType::kBF16) {
          out[n][j] = raw[n][j];
        } else {
          widen(raw[n][j], out[n][2 * j], out[n][2 * j + 1]);
        }
      }
    }
  }
};

/// Rows g and g + 8 of the block: their softmax so far, and sums of weights · v.
template <int kDim>
struct FewSums {
  float top[2], total[2];  // total: this lane's part
  float out[kDim / 8][4];
};

/// Adds 16 keys whose k and v are in registers; seen(h, key) for row g + 8h and a key of the piece.
template <int kDim, CacheType kType, class Seen>
__device__ void add_piece(FewSums<kDim>& sums, const uint4 (&q)[2][kDim / 32],
                          const FewLoads<kDim, kType>& keys, const FewLoads<kDim, kType>& values,
                          float log2_scale, Seen&& seen) {
  const int t = threadIdx.x % 4;
  uint4 k[2][kDim / 32], v[2][kDim / 32];
  keys.values(k);
  float c[2][4] = {};
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int j = 0; j < kDim / 32; ++j) {
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        const std::uint32_t a[4] = {word(q[0][j], i), word(q[1][j], i), word(q[0][j], i + 1),
                                    word(q[1][j], i + 1)};
        mma_bf16(c[n], a, word(k[n][j], i), word(k[n][j], i + 1));
      }
    }
  }
  std::uint32_t weights[4];
  float factor[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float s[2][2], top = -INFINITY;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        s[n][e] = seen(h, 8 * n + 2 * t + e) ? c[n][2 * h + e] * log2_scale : -INFINITY;
        top = fmaxf(top, s[n][e]);
      }
    }
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    top = fmaxf(top, sums.top[h]);
    const float base = top == -INFINITY ? 0.0f : top;
    factor[h] = exp2f(sums.top[h] - base);
    sums.top[h] = top;
    float total = 0.0f;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const std::uint32_t pair = bf16_pair(exp2f(s[n][0] - base), exp2f(s[n][1] - base));
      total += low_bf16(pair) + high_bf16(pair);  // what the values are multiplied with
      weights[2 * n + h] = pair;
    }
    sums.total[h] = sums.total[h] * factor[h] + total;
  }
  values.values(v);
#pragma unroll
  for (int j = 0; j < kDim / 32; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float(&out)[4] = sums.out[4 * j + i];
      out[0] *= factor[0];
      out[1] *= factor[0];
      out[2] *= factor[1];
      out[3] *= factor[1];
      mma_bf16(out, weights, transposed(word(v[0][j], i)), transposed(word(v[1][j], i)));
    }
  }
}

/// The sums of the warps; before them, what prepare_block() made of q.
template <int kDim>
struct FewShared {
  float out[kFewWarps][kFewRows][kDim + 4];
  float top[kFewWarps][kFewRows], total[kFewWarps][kFewRows];
};

template <int kDim, CacheType kType>
__device__ void share_sums(FewShared<kDim>& shared, const FewSums<kDim>& sums) {
  const int warp = threadIdx.x / kWarp, g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int r = g + 8 * h;
    float total = sums.total[h];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    if (t == 0) shared.top[warp][r] = sums.top[h];
    if (t == 0) shared.total[warp][r] = total;
#pragma unroll
    for (int j = 0; j < kDim / 32; ++j) {
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        *reinterpret_cast<float4*>(&shared.out[warp][r][first_dim<kType>(j, t) + 2 * i]) =
            make_float4(sums.out[4 * j + i][2 * h], sums.out[4 * j + i][2 * h + 1],
                        sums.out[4 * j + i + 1][2 * h], sums.out[4 * j + i + 1][2 * h + 1]);
      }
    }
  }
}

/// Norms and rotates the heads of a sequence's one row that this block needs: those of q to `q`
/// [group][kDim], and, where the block sees the row's position, k and v to the cache.
template <int kDim>
__device__ void prepare_block(const HeadsArgs& heads, const SequenceItem& item, int kv_head,
                              int group, bool sees_position, std::uint16_t* q) {
  const int warp = threadIdx.x / kWarp;
  const std::int64_t row = item.row_begin;
  const float *cos = heads.cos + row * (kDim / 2), *sin = heads.sin + row * (kDim / 2);
  for (int i = warp; i < group + 2; i += kFewWarps) {
    if (i < group) {
      const auto* from = static_cast<const std::uint16_t*>(heads.q) + row * heads.q_stride +
                         (kv_head * group + i) * kDim;
      prepare_head<kDim / 64>(from, bf16_elements(q + i * kDim), kDim, heads.q_weight, heads.eps,
                              cos, sin);
    } else if (sees_position) {
      const bool is_v = i > group;
      const auto* from = static_cast<const std::uint16_t*>(is_v ? heads.v : heads.k) +
                         row * (is_v ? heads.v_stride : heads.k_stride) + kv_head * kDim;
      const CacheElements to = cache_head(is_v ? heads.v_cache : heads.k_cache, heads.table,
                                          item.table, item.position, kv_head);
      prepare_head<kDim / 64>(from, to, kDim, is_v ? nullptr : heads.k_weight, heads.eps,
                              is_v ? nullptr : cos, sin);
    }
  }
  __syncthreads();
}

/// kPrepare: sequences have one row each, whose heads are prepared here. kType: of the cache.
template <int kDim, bool kPrepare, CacheType kType>
__global__ void __launch_bounds__(kFewWarps* kWarp)
    few_rows_kernel(const __grid_constant__ AttentionArgs args,
                    const __grid_constant__ HeadsArgs heads) {
  extern __shared__ __align__(16) unsigned char shared_memory[];
  auto& shared = *reinterpret_cast<FewShared<kDim>*>(shared_memory);
  start_next();
  await_previous();
  const SequenceItem item = item_of(args, blockIdx.z);
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int kv_head = blockIdx.y, group = static_cast<int>(args.n_heads / args.n_kv_heads);
  const int n_rows = item.n_rows * group, window = static_cast<int>(args.window);
  const bool splits = gridDim.x > 1;
  int begin = blockIdx.x * static_cast<int>(args.split_keys);
  const int end = min(begin + static_cast<int>(args.split_keys), item.position + item.n_rows);
  if (window > 0 && item.position - window + 1 > begin)
    begin += (item.position - window + 1 - begin) / kPieceKeys * kPieceKeys;

  auto* prepared = reinterpret_cast<std::uint16_t*>(shared_memory);
  if constexpr (kPrepare) {
    prepare_block<kDim>(heads, item, kv_head, group, item.position < end && item.position >= begin,
                        prepared);
  }
  uint4 q[2][kDim / 32];
  int position[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int r = g + 8 * h, token = r / group;
    position[h] = item.position + token;
    const auto* from = static_cast<const std::uint16_t*>(args.q) +
                       (item.row_begin + token) * args.q_token_stride +
                       (kv_head * group + r % group) * args.q_head_stride;
    if constexpr (kPrepare) from = prepared + r * kDim;
#pragma unroll
    for (int j = 0; j < kDim / 32; ++j) {
      q[h][j] = make_uint4(0, 0, 0, 0);
      if (r < n_rows) q[h][j] = *reinterpret_cast<const uint4*>(from + first_dim<kType>(j, t));
    }
  }
  const std::byte* k_base = elements(args.k, kv_head * args.k.head_stride).data + 16 * t;
  const std::byte* v_base = elements(args.v, kv_head * args.v.head_stride).data + 16 * t;
  const std::int64_t k_row = args.k.row_stride * cache_bytes(kType),
                     v_row = args.v.row_stride * cache_bytes(kType);
  const std::int32_t* pages = args.table.pages + item.table * args.table.stride;
  FewSums<kDim> sums = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}, {}};
  constexpr int kAhead = kType == CacheType::kBF16 ? 1 : 2;  // pieces on their way
  FewLoads<kDim, kType> k[kAhead], v[kAhead];
  const auto load = [&](int piece, int slot) {
    if (piece >= end) return;
    const std::int64_t first =
        static_cast<std::int64_t>(pages[piece / kPageLen]) * kPageLen + piece % kPageLen;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const std::int64_t row = first + 8 * n + g;
      const bool valid = piece + 8 * n + g < end;  // what lies behind may be anything
#pragma unroll
      for (int j = 0; j < FewLoads<kDim, kType>::kN; ++j) {
        k[slot].raw[n][j] = v[slot].raw[n][j] = make_uint4(0, 0, 0, 0);
        if (!valid) continue;
        k[slot].raw[n][j] = *reinterpret_cast<const uint4*>(k_base + row * k_row + 64 * j);
        v[slot].raw[n][j] = *reinterpret_cast<const uint4*>(v_base + row * v_row + 64 * j);
      }
    }
  };
  constexpr int kStep = kFewWarps * kPieceKeys;
  const int first = begin + warp * kPieceKeys;
#pragma unroll
  for (int slot = 0; slot < kAhead; ++slot) load(first + slot * kStep, slot);
#pragma unroll 1
  for (int next = first; next < end; next += kAhead * kStep) {
#pragma unroll
    for (int slot = 0; slot < kAhead; ++slot) {
      const int piece = next + slot * kStep;
      if (piece >= end) break;
      const FewLoads<kDim, kType> now_k = k[slot], now_v = v[slot];
      load(piece + kAhead * kStep, slot);
      add_piece<kDim, kType>(sums, q, now_k, now_v, args.scale * 1.44269504f, [&](int h, int key) {
        const int p = piece + key;
        return p <= position[h] && p < end && (window == 0 || p > position[h] - window);
      });
    }
  }
  if constexpr (kPrepare) __syncthreads();  // all have read their q
  share_sums<kDim, kType>(shared, sums);
  __syncthreads();

  auto* partial_lse = static_cast<float*>(args.workspace);  // [splits, n_rows, n_heads]
  const std::int64_t results = args.n_rows * args.n_heads;
  float* partial = partial_lse + (gridDim.x * results + 3) / 4 * 4;
  for (int i = threadIdx.x; i < n_rows * (kDim / 4); i += kFewWarps * kWarp) {
    const int r = i / (kDim / 4), d = i % (kDim / 4) * 4;
    float top = -INFINITY, total = 0.0f;
#pragma unroll
    for (int w = 0; w < kFewWarps; ++w) top = fmaxf(top, shared.top[w][r]);
    const float base = top == -INFINITY ? 0.0f : top;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int w = 0; w < kFewWarps; ++w) {
      const float factor = exp2f(shared.top[w][r] - base);
      const float4 v = *reinterpret_cast<const float4*>(&shared.out[w][r][d]);
      total += factor * shared.total[w][r];
      sum = make_float4(sum.x + factor * v.x, sum.y + factor * v.y, sum.z + factor * v.z,
                        sum.w + factor * v.w);
    }
    const float scale = total == 0.0f ? 0.0f : 1.0f / total;
    sum = make_float4(sum.x * scale, sum.y * scale, sum.z * scale, sum.w * scale);
    const std::int64_t at =
        (item.row_begin + r / group) * args.n_heads + kv_head * group + r % group;
    if (splits) {
      if (d == 0)
        partial_lse[blockIdx.x * results + at] = total == 0.0f ? -INFINITY : top + log2f(total);
      *reinterpret_cast<float4*>(partial + (blockIdx.x * results + at) * kDim + d) = sum;
    } else if (args.out_type == Type::kF32) {
      *reinterpret_cast<float4*>(static_cast<float*>(args.out) + at * kDim + d) = sum;
    } else {
      *reinterpret_cast<uint2*>(static_cast<std::uint16_t*>(args.out) + at * kDim + d) =
          make_uint2(bf16_pair(sum.x, sum.y), bf16_pair(sum.z, sum.w));
    }
  }
}

/// `heads`: to prepare first, or null.
template <int kDim>
Status launch_few_rows(const AttentionArgs& args, const HeadsArgs* heads, Stream stream) {
  constexpr CacheType kBF16 = CacheType::kBF16, kE4M3 = CacheType::kE4M3;
  void (*const kernels[2][2])(AttentionArgs, HeadsArgs) = {
      {few_rows_kernel<kDim, false, kBF16>, few_rows_kernel<kDim, false, kE4M3>},
      {few_rows_kernel<kDim, true, kBF16>, few_rows_kernel<kDim, true, kE4M3>}};
  auto* kernel = kernels[heads != nullptr][args.k.type == kE4M3];
  const Status status = allow_shared(kernel, sizeof(FewShared<kDim>));
  if (status != Status::kOk) return status;
  const dim3 grid(static_cast<unsigned>(div_up(args.max_keys, args.split_keys)),
                  static_cast<unsigned>(args.n_kv_heads), static_cast<unsigned>(args.n_items));
  return launch(kernel, grid, kFewWarps * kWarp, sizeof(FewShared<kDim>), stream, args,
                heads != nullptr ? *heads : HeadsArgs());
}

}  // namespace kt::kernels::cuda
