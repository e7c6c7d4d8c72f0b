#include "kernels/cuda/attention/attention.cuh"
#include "kernels/cuda/attention/latent.h"

namespace kt::kernels::cuda {
namespace {

constexpr int kStoreThreads = 128;
constexpr int kFewThreads = 128;
constexpr int kTileThreads = 256;

/// Values 2 · pair and the next of x, turned, to y.
__device__ void turn(const std::uint16_t* x, std::int64_t pair, float c, float s,
                     const CacheElements& y) {
  const float a = bf16_bits(x[2 * pair]), b = bf16_bits(x[2 * pair + 1]);
  y.store(2 * pair, a * c - b * s);
  y.store(2 * pair + 1, b * c + a * s);
}

__global__ void store_latents_kernel(StoreLatentsArgs args) {
  __shared__ float parts[kStoreThreads / kWarp];
  start_next();
  await_previous();
  const SequenceItem item = args.items[blockIdx.y];
  const std::int64_t token = blockIdx.x;
  if (token >= item.n_rows) return;
  const std::int64_t row = item.row_begin + token;
  const auto* x = static_cast<const std::uint16_t*>(args.x) + row * (args.rank + args.rope);
  const CacheElements to = cache_head(args.cache, args.table, item.table, item.position + token, 0);
  const CacheElements rotary = {to.data + args.rank * cache_bytes(to.type), to.type};

  const std::int64_t half = args.rope / 2;
  for (std::int64_t i = threadIdx.x; i < half; i += kStoreThreads) {
    turn(x + args.rank, i, args.cos[row * half + i], args.sin[row * half + i], rotary);
  }
  if (args.weight == nullptr) {
    for (std::int64_t i = threadIdx.x; i < args.rank; i += kStoreThreads)
      to.store(i, bf16_bits(x[i]));
    return;
  }
  float squares = 0.0f;
  for (std::int64_t i = threadIdx.x; i < args.rank; i += kStoreThreads) {
    const float v = bf16_bits(x[i]);
    squares += v * v;
  }
  squares = warp_sum(squares);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = squares;
  __syncthreads();
  float sum = 0.0f;
  for (const float part : parts) sum += part;
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(args.rank) + args.eps);
  for (std::int64_t i = threadIdx.x; i < args.rank; i += kStoreThreads)
    to.store(i, bf16_bits(x[i]) * scale * args.weight[i]);
}

/// Row i of x, of the first head.
__device__ const std::uint16_t* x_row(const HeadProductsArgs& args, std::int64_t i) {
  const std::int64_t row = args.pages == nullptr ? i : cache_row({args.pages, 0}, 0, i);
  return static_cast<const std::uint16_t*>(args.x) + row * args.x_row_stride;
}

__device__ std::uint16_t* y_row(const HeadProductsArgs& args, std::int64_t i, std::int64_t head) {
  return static_cast<std::uint16_t*>(args.y) + i * args.y_row_stride + head * args.y_head_stride;
}

/// The tails of rows [begin, end) of a head, by all threads of a block.
__device__ void move_tails(const HeadProductsArgs& args, std::int64_t head, std::int64_t begin,
                           std::int64_t end) {
  const std::int64_t half = args.tail / 2;
  for (std::int64_t i = threadIdx.x; i < (end - begin) * half; i += blockDim.x) {
    const std::int64_t row = begin + i / half, pair = i % half;
    const bool turned = args.cos != nullptr;
    turn(x_row(args, row) + head * args.x_head_stride + args.k, pair,
         turned ? args.cos[row * half + pair] : 1.0f, turned ? args.sin[row * half + pair] : 0.0f,
         bf16_elements(y_row(args, row, head) + args.n));
  }
}

/// A warp multiplies 16 rows of a head's weights with kGroups · 8 rows of x. Weights are the left
/// operand, so that few rows of x fill the other. kSplit warps share the k of their rows. Lane (g,
/// t) reads 16 bytes of rows g and g + 8: the order of k inside 32 is the lanes'.
template <int kSplit, int kGroups>
__global__ void __launch_bounds__(kFewThreads) few_rows_kernel(HeadProductsArgs args) {
  constexpr int kTiles = kFewThreads / kWarp / kSplit, kDeep = kGroups > 2 ? 2 : 4;
  __shared__ float shared[kSplit > 1 ? kSplit - 1 : 1][kTiles][kGroups * 4][kWarp];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int split = warp % kSplit, tile = warp / kSplit;
  const std::int64_t head = blockIdx.y, first = static_cast<std::int64_t>(blockIdx.z) * 8 * kGroups;
  const std::int64_t row = (static_cast<std::int64_t>(blockIdx.x) * kTiles + tile) * 16;
  start_next();
  if (args.tail > 0 && blockIdx.x == gridDim.x - 1) {
    await_previous();
    move_tails(args, head, first, min(first + 8 * kGroups, args.m));
    return;
  }
  if (args.pages != nullptr) await_previous();
  const auto* w = static_cast<const std::uint16_t*>(args.w) + head * args.n * args.k;
  const std::uint16_t* rows[2] = {w + min(row + g, args.n - 1) * args.k,
                                  w + min(row + g + 8, args.n - 1) * args.k};
  const std::uint16_t* x[kGroups];
#pragma unroll
  for (int j = 0; j < kGroups; ++j)
    x[j] = x_row(args, min(first + 8 * j + g, args.m - 1)) + head * args.x_head_stride;

  float c[kGroups][4] = {};
  const std::int64_t part = div_up<std::int64_t>(div_up<std::int64_t>(args.k, 32), kSplit) * 32;
  const std::int64_t end = min((split + 1) * part, args.k);
  for (std::int64_t k = split * part; k < end; k += 32 * kDeep) {
    const uint4 zeros = make_uint4(0, 0, 0, 0);
    uint4 a[kDeep][2], b[kDeep][kGroups];  // all on their way before the first is used
#pragma unroll
    for (int i = 0; i < kDeep; ++i) {
      const std::int64_t at = k + 32 * i + 8 * t;
#pragma unroll
      for (int h = 0; h < 2; ++h) a[i][h] = at < end ? load_once(rows[h] + at) : zeros;
    }
    await_previous();  // the first time; the first weights are on their way
#pragma unroll
    for (int i = 0; i < kDeep; ++i) {
      const std::int64_t at = k + 32 * i + 8 * t;
#pragma unroll
      for (int j = 0; j < kGroups; ++j)
        b[i][j] = at < end ? *reinterpret_cast<const uint4*>(x[j] + at) : zeros;
    }
#pragma unroll
    for (int i = 0; i < kDeep; ++i) {
      const std::uint32_t low[4] = {a[i][0].x, a[i][1].x, a[i][0].y, a[i][1].y};
      const std::uint32_t high[4] = {a[i][0].z, a[i][1].z, a[i][0].w, a[i][1].w};
#pragma unroll
      for (int j = 0; j < kGroups; ++j) {
        mma_bf16(c[j], low, b[i][j].x, b[i][j].y);
        mma_bf16(c[j], high, b[i][j].z, b[i][j].w);
      }
    }
  }
  await_previous();  // a part may be empty
  if constexpr (kSplit > 1) {
    if (split > 0) {
#pragma unroll
      for (int i = 0; i < kGroups * 4; ++i) shared[split - 1][tile][i][lane] = c[i / 4][i % 4];
    }
    __syncthreads();
    if (split > 0) return;
#pragma unroll
    for (int i = 0; i < kGroups * 4; ++i) {
      for (int s = 0; s < kSplit - 1; ++s) c[i / 4][i % 4] += shared[s][tile][i][lane];
    }
  }
#pragma unroll
  for (int i = 0; i < kGroups * 4; ++i) {
    const std::int64_t to = first + i / 4 * 8 + 2 * t + i % 2, at = row + g + i % 4 / 2 * 8;
    if (to < args.m && at < args.n) y_row(args, to, head)[at] = to_bf16(c[i / 4][i % 4]);
  }
}

/// Tiles of x and of the weights in shared memory, for kStages steps of k.
template <bool kTransposed>
struct Tiles {
  static constexpr int kRows = 128, kCols = 128, kDepth = 32, kStages = 4;
  static constexpr int kXStride = kDepth + kPad, kWRows = kTransposed ? kDepth : kCols,
                       kWStride = (kTransposed ? kCols : kDepth) + kPad;
  std::uint16_t x[kStages][kRows * kXStride], w[kStages][kWRows * kWStride];
};

/// A block multiplies 128 rows of x with 128 rows of a head's weights (columns, when transposed);
/// each of 8 warps has 32 by 64 of the results. The next steps of k are on their way meanwhile.
template <bool kTransposed>
__global__ void __launch_bounds__(kTileThreads) tile_kernel(HeadProductsArgs args) {
  using S = Tiles<kTransposed>;
  constexpr int kRows = S::kRows, kCols = S::kCols, kDepth = S::kDepth, kStages = S::kStages,
                kXStride = S::kXStride, kWRows = S::kWRows, kWStride = S::kWStride;
  extern __shared__ __align__(16) unsigned char shared_memory[];
  auto& [xs, ws] = *reinterpret_cast<S*>(shared_memory);
  start_next();
  await_previous();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const std::int64_t head = blockIdx.z;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kRows;
  const std::int64_t col = static_cast<std::int64_t>(blockIdx.y) * kCols;
  if (col >= args.n) {  // the block behind the products
    move_tails(args, head, first, min(first + kRows, args.m));
    return;
  }
  const auto* w = static_cast<const std::uint16_t*>(args.w) + head * args.n * args.k;

  // What a thread copies of each step: 16 bytes of these rows, from here on.
  constexpr int kChunks = kDepth / 8, kXCopies = kRows * kChunks / kTileThreads,
                kWChunks = kTransposed ? kCols / 8 : kChunks,
                kWCopies = kWRows * kWChunks / kTileThreads;
  const std::uint16_t *x_from[kXCopies], *w_from[kWCopies];
  bool x_valid[kXCopies], w_valid[kWCopies];
#pragma unroll
  for (int i = 0; i < kXCopies; ++i) {
    const int at = threadIdx.x + i * kTileThreads, r = at / kChunks, chunk = at % kChunks;
    x_valid[i] = first + r < args.m;
    x_from[i] = x_row(args, min(first + r, args.m - 1)) + head * args.x_head_stride + 8 * chunk;
  }
#pragma unroll
  for (int i = 0; i < kWCopies; ++i) {
    const int at = threadIdx.x + i * kTileThreads, r = at / kWChunks, chunk = at % kWChunks;
    const std::int64_t n = col + (kTransposed ? 8 * chunk : r);
    w_valid[i] = n < args.n;
    w_from[i] = w + (!w_valid[i] ? 0 : kTransposed ? r * args.n + n : n * args.k + 8 * chunk);
  }
  const int depth = static_cast<int>(args.k);
  const auto load = [&](int stage, int k) {
#pragma unroll
    for (int i = 0; i < kXCopies; ++i) {
      const int at = threadIdx.x + i * kTileThreads, r = at / kChunks, chunk = at % kChunks;
      const bool valid = x_valid[i] && k + 8 * chunk < depth;
      copy_async(&xs[stage][r * kXStride + 8 * chunk], x_from[i] + (valid ? k : 0), valid);
    }
#pragma unroll
    for (int i = 0; i < kWCopies; ++i) {
      const int at = threadIdx.x + i * kTileThreads, r = at / kWChunks, chunk = at % kWChunks;
      const bool valid = w_valid[i] && k + (kTransposed ? r : 8 * chunk) < depth;
      const std::int64_t step = kTransposed ? k * args.n : k;
      copy_async(&ws[stage][r * kWStride + 8 * chunk], w_from[i] + (valid ? step : 0), valid);
    }
    commit_copies();
  };

  const int my_row = warp % 4 * 32, my_col = warp / 4 * 64;
  float c[2][8][4] = {};
  // Steps behind the last are zeros, so that every step waits for the same number of groups.
  for (int i = 0; i < kStages - 1; ++i) load(i, i * kDepth);
  int stage = 0;
  for (int k = 0; k < depth; k += kDepth, stage = (stage + 1) % kStages) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
    __syncthreads();
    load((stage + kStages - 1) % kStages, k + (kStages - 1) * kDepth);
#pragma unroll
    for (int d = 0; d < kDepth; d += 16) {
      std::uint32_t a[2][4];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        load_matrices(a[r],
                      &xs[stage][(my_row + 16 * r + lane % 16) * kXStride + d + lane / 16 * 8]);
      }
#pragma unroll
      for (int n = 0; n < 64; n += 16) {
        std::uint32_t b[4];
        if constexpr (kTransposed) {
          load_transposed(b, &ws[stage][(d + lane % 16) * kWStride + my_col + n + lane / 16 * 8]);
        } else {
          load_matrices(b, &ws[stage][(my_col + n + lane / 16 * 8 + lane % 8) * kWStride + d +
                                      lane / 8 % 2 * 8]);
        }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          mma_bf16(c[r][n / 8], a[r], b[0], b[1]);
          mma_bf16(c[r][n / 8 + 1], a[r], b[2], b[3]);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int r = i / 2, h = i % 2;
    const std::int64_t row = first + my_row + 16 * r + 8 * h + g;
    if (row >= args.m) continue;
    std::uint16_t* y = y_row(args, row, head);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const std::int64_t at = col + my_col + 8 * n + 2 * t;
      if (at < args.n)
        *reinterpret_cast<std::uint32_t*>(y + at) = bf16_pair(c[r][n][2 * h], c[r][n][2 * h + 1]);
    }
  }
}

/// A block for each row and head.
__global__ void head_reference_kernel(HeadProductsArgs args) {
  const std::int64_t row = blockIdx.x, head = blockIdx.y;
  const auto* w = static_cast<const std::uint16_t*>(args.w) + head * args.n * args.k;
  const std::uint16_t* x = x_row(args, row) + head * args.x_head_stride;
  for (std::int64_t n = threadIdx.x; n < args.n; n += blockDim.x) {
    float sum = 0.0f;
    for (std::int64_t k = 0; k < args.k; ++k) {
      sum += bf16_bits(x[k]) * bf16_bits(w[args.transposed ? k * args.n + n : n * args.k + k]);
    }
    y_row(args, row, head)[n] = to_bf16(sum);
  }
  move_tails(args, head, row, row + 1);
}

bool valid(const HeadProductsArgs& args) {
  const auto eights = [](std::int64_t v) { return v % 8 == 0; };
  return args.m > 0 && args.n_heads > 0 && args.n > 0 && args.k > 0 && args.tail >= 0 &&
         args.tail % 2 == 0 && eights(args.n) && eights(args.k) && eights(args.x_row_stride) &&
         eights(args.x_head_stride) && eights(args.y_row_stride) && eights(args.y_head_stride);
}

unsigned grid_size(std::int64_t n) { return static_cast<unsigned>(n); }

template <int kSplit, int kGroups>
Status launch_few(const HeadProductsArgs& args, Stream stream) {
  constexpr std::int64_t kRows = kFewThreads / kWarp / kSplit * 16;
  const dim3 grid(grid_size(div_up(args.n, kRows) + (args.tail > 0)), grid_size(args.n_heads),
                  grid_size(div_up<std::int64_t>(args.m, 8 * kGroups)));
  return launch(few_rows_kernel<kSplit, kGroups>, grid, kFewThreads, 0, stream, args);
}

/// Long sums are shared by the warps of a block.
template <int kGroups>
Status launch_few(const HeadProductsArgs& args, Stream stream) {
  return args.k >= 256 ? launch_few<4, kGroups>(args, stream)
                       : launch_few<1, kGroups>(args, stream);
}

template <bool kTransposed>
Status launch_tiles(const HeadProductsArgs& args, dim3 grid, Stream stream) {
  constexpr std::size_t kBytes = sizeof(Tiles<kTransposed>);
  const Status status = allow_shared(tile_kernel<kTransposed>, kBytes);
  if (status != Status::kOk) return status;
  return launch(tile_kernel<kTransposed>, grid, kTileThreads, kBytes, stream, args);
}

Status launch_tiles(const HeadProductsArgs& args, Stream stream) {
  const dim3 grid(grid_size(div_up<std::int64_t>(args.m, 128)),
                  grid_size(div_up<std::int64_t>(args.n, 128) + (args.tail > 0)),
                  grid_size(args.n_heads));
  return args.transposed ? launch_tiles<true>(args, grid, stream)
                         : launch_tiles<false>(args, grid, stream);
}

}  // namespace

Status store_latents(const StoreLatentsArgs& args, Stream stream) {
  if (args.n_items <= 0 || args.max_item_rows <= 0 || args.rank <= 0 || args.rope <= 0 ||
      args.rope % 2 != 0)
    return Status::kBadArgument;
  const dim3 grid(grid_size(args.max_item_rows), grid_size(args.n_items));
  return launch(store_latents_kernel, grid, kStoreThreads, 0, stream, args);
}

Status head_products(const HeadProductsArgs& args, Stream stream) {
  if (!valid(args)) return Status::kBadArgument;
  if (args.transposed || args.m > kFewHeadRows) return launch_tiles(args, stream);
  if (args.m <= 8) return launch_few<1>(args, stream);
  if (args.m <= 16) return launch_few<2>(args, stream);
  return launch_few<4>(args, stream);
}

Status head_products_reference(const HeadProductsArgs& args, Stream stream) {
  if (!valid(args)) return Status::kBadArgument;
  const dim3 grid(grid_size(args.m), grid_size(args.n_heads));
  head_reference_kernel<<<grid, 128, 0, stream>>>(args);
  return launched();
}

}  // namespace kt::kernels::cuda
