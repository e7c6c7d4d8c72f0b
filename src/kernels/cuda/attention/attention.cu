#include <algorithm>

#include "kernels/cuda/attention/attention.cuh"
#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/attention/hopper.cuh"
#include "kernels/cuda/device/hopper.h"

namespace kt::kernels::cuda {
namespace {

using Launch = Status (*)(const AttentionArgs& args, const HeadsArgs* heads, Stream stream);

Launch find(std::int64_t dim_qk, std::int64_t dim_v) {
#define ATTENTION(qk, v, launch) \
  if (dim_qk == (qk) && dim_v == (v)) return launch;
#include "kernels/cuda/attention/kernels.inc"
#undef ATTENTION
  return nullptr;
}

__host__ __device__ bool is_mla(const AttentionArgs& args) { return args.dim_qk == 576; }

/// Rows of one sequence and kv head.
std::int64_t rows_of(const AttentionArgs& args) {
  return args.max_item_rows * (args.n_heads / args.n_kv_heads);
}

/// Whether hopper_*.cu serve: enough rows to fill half of their tiles; MLA, queries without gaps.
bool on_hopper(const AttentionArgs& args) {
  const bool fits =
      is_mla(args) ? rows_of(args) > 16 && args.q_token_stride == args.n_heads * args.q_head_stride
                   : rows_of(args) > 64;
  return fits && !args.portable && !args.small && args.scale > 0.0f && has_wgmma();
}

bool valid(const AttentionArgs& args) {
  const auto cache_fits = [](const KvCache& cache) {
    return cache.base != nullptr && cache.row_stride % 8 == 0 && cache.head_stride % 8 == 0;
  };
  const bool one_type = is_mla(args) || args.k.type == args.v.type;
  return one_type && args.n_items > 0 && args.n_rows > 0 && args.max_item_rows > 0 &&
         args.max_keys > 0 && args.n_kv_heads > 0 && args.n_heads % args.n_kv_heads == 0 &&
         args.q_token_stride % 8 == 0 && args.q_head_stride % 8 == 0 && args.split_keys > 0 &&
         args.split_keys % kPageLen == 0 && cache_fits(args.k) &&
         (is_mla(args) ? args.n_kv_heads == 1 : cache_fits(args.v));
}

/// Rows that can be read 16 bytes at a time.
bool aligned(const KvCache& cache) {
  const std::int64_t bytes = cache_bytes(cache.type);
  return cache.row_stride * bytes % 16 == 0 && cache.head_stride * bytes % 16 == 0;
}

/// Results that a launch leaves for combine_kernel().
std::int64_t parts_of(const AttentionArgs& args) {
  return is_mla(args) && on_hopper(args) ? mla_splits(args).clusters : split_count(args);
}

constexpr int kCombineThreads = 128;
constexpr int kCombineSplits = 512;  // whose weights shared memory holds at a time

/// The largest of a block's values; every thread gets it. parts: one for each warp.
__device__ float block_max(float v, float* parts) {
  v = warp_max(v);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = v;
  __syncthreads();
  for (int w = 0; w < kCombineThreads / kWarp; ++w) v = fmaxf(v, parts[w]);
  return v;
}

/// One block for each (row, head): its splits, weighted by their sums of exponentials. A thread
/// adds every `groups`-th split for four values of the row; then the groups are added in order.
__global__ void __launch_bounds__(kCombineThreads)
    combine_kernel(AttentionArgs args, std::int64_t n_splits) {
  __shared__ float weights[kCombineSplits], tops[kCombineThreads / kWarp];
  __shared__ float4 parts[kCombineThreads];
  start_next();
  await_previous();
  const int splits = static_cast<int>(n_splits), tid = threadIdx.x;
  const int fours = static_cast<int>(args.dim_v / 4), groups = kCombineThreads / fours;
  const std::int64_t index = blockIdx.x, n = args.n_rows * args.n_heads;
  const auto* lse = static_cast<const float*>(args.workspace);
  const auto* partial =
      reinterpret_cast<const float4*>(lse + (n_splits * n + 3) / 4 * 4) + tid % fours;
  float top = -INFINITY, total = 0.0f;
#pragma unroll 1
  for (int s = tid; s < splits; s += kCombineThreads) top = fmaxf(top, lse[s * n + index]);
  top = block_max(top, tops);
  float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  for (int begin = 0; begin < splits; begin += kCombineSplits) {
    const int count = min(splits - begin, kCombineSplits);
    __syncthreads();
#pragma unroll 1
    for (int s = tid; s < count; s += kCombineThreads)
      weights[s] = top == -INFINITY ? 0.0f : exp2f(lse[(begin + s) * n + index] - top);
    __syncthreads();
    for (int s = 0; s < count; ++s) total += weights[s];
    constexpr int kBatch = 8;  // loads under way
    for (int s = tid / fours; s < count; s += kBatch * groups) {
      float w[kBatch];
      float4 v[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int at = min(s + j * groups, count - 1);
        w[j] = s + j * groups < count ? weights[at] : 0.0f;
        v[j] = partial[((begin + at) * n + index) * fours];
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (w[j] == 0.0f) continue;  // a split that saw no key wrote nothing
        sum = make_float4(sum.x + w[j] * v[j].x, sum.y + w[j] * v[j].y, sum.z + w[j] * v[j].z,
                          sum.w + w[j] * v[j].w);
      }
    }
  }
  parts[tid] = sum;
  __syncthreads();
  if (tid >= fours) return;
  for (int g = 1; g < groups; ++g) {
    const float4 v = parts[g * fours + tid];
    sum = make_float4(sum.x + v.x, sum.y + v.y, sum.z + v.z, sum.w + v.w);
  }
  const float results[] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    store_float(args.out, args.out_type, index * args.dim_v + 4 * tid + i,
                total == 0.0f ? 0.0f : results[i] / total);
  }
}

/// One warp for each (row, head): scores to the work memory, then weights times values, in f32.
__global__ void reference_kernel(AttentionArgs args) {
  const SequenceItem item = item_of(args, blockIdx.z);
  const std::int64_t token = blockIdx.y, head = blockIdx.x;
  if (token >= item.n_rows) return;
  const std::int64_t row = item.row_begin + token, position = item.position + token;
  const std::int64_t kv_head = head / (args.n_heads / args.n_kv_heads);
  const auto* q = static_cast<const std::uint16_t*>(args.q) + row * args.q_token_stride +
                  head * args.q_head_stride;
  const KvCache& values = is_mla(args) ? args.k : args.v;
  float* scores = static_cast<float*>(args.workspace) + (row * args.n_heads + head) * args.max_keys;
  const std::int64_t begin = args.window > 0 ? max(position - args.window + 1, std::int64_t{0}) : 0;

  float top = -INFINITY;
  for (std::int64_t p = begin + threadIdx.x; p <= position; p += kWarp) {
    const CacheElements key = cache_head(args.k, args.table, item.table, p, kv_head);
    float sum = 0.0f;
    for (std::int64_t d = 0; d < args.dim_qk; ++d) sum += bf16_bits(q[d]) * key[d];
    scores[p] = sum * args.scale;
    top = fmaxf(top, scores[p]);
  }
  top = warp_max(top);
  float total = 0.0f;
  for (std::int64_t p = begin + threadIdx.x; p <= position; p += kWarp) {
    scores[p] = expf(scores[p] - top);
    total += scores[p];
  }
  total = warp_sum(total);
  __syncwarp();
  for (std::int64_t d = threadIdx.x; d < args.dim_v; d += kWarp) {
    float sum = 0.0f;
    for (std::int64_t p = begin; p <= position; ++p) {
      sum += scores[p] * cache_head(values, args.table, item.table, p, kv_head)[d];
    }
    store_float(args.out, args.out_type, (row * args.n_heads + head) * args.dim_v + d,
                total == 0.0f ? 0.0f : sum / total);
  }
}

constexpr int kWidenThreads = 256;

/// A block for each page of an item.
__global__ void __launch_bounds__(kWidenThreads) widen_kernel(WidenArgs args) {
  start_next();
  await_previous();
  const SequenceItem item = args.items[blockIdx.y];
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kPageLen;
  const bool behind = first >= item.position + item.n_rows;
  // Tiles begin up to a page before the first key that is seen, and weigh what is there with 0.
  const bool before = args.window > 0 && first + 2 * kPageLen <= item.position - args.window + 1;
  if (behind || before) return;
  const std::int64_t chunks = kPageLen * args.from.row_stride / 16;
  const std::int64_t page = cache_row(args.table, item.table, first) / kPageLen * chunks;
  const uint4* from = static_cast<const uint4*>(args.from.base) + page;
  uint4* to = static_cast<uint4*>(args.to) + 2 * page;
  constexpr int kBatch = 4;  // loads under way
  for (std::int64_t i = threadIdx.x; i < chunks; i += kBatch * kWidenThreads) {
    uint4 codes[kBatch];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) codes[j] = from[min(i + j * kWidenThreads, chunks - 1)];
#pragma unroll
    for (int j = 0; j < kBatch; ++j) {
      const std::int64_t at = i + j * kWidenThreads;
      if (at < chunks) widen(codes[j], to[2 * at], to[2 * at + 1]);
    }
  }
}

/// Whether a cache in E4M3 is made bf16 first.
bool widens(const AttentionArgs& args) {
  return args.k.type == CacheType::kE4M3 && !is_mla(args) && on_hopper(args);
}

std::size_t split_bytes(const AttentionArgs& args) {
  const std::int64_t parts = parts_of(args), rows = parts * args.n_rows * args.n_heads;
  if (parts == 1) return 0;
  return static_cast<std::size_t>((rows + 3) / 4 * 4 + rows * args.dim_v) * 4;
}

/// Makes bf16 of the streams, behind the sums of splits, and args of that.
Status widen_streams(AttentionArgs& args, Stream stream) {
  auto* to = static_cast<std::byte*>(args.workspace) + (split_bytes(args) + 255) / 256 * 256;
  for (KvCache* cache : {&args.k, &args.v}) {
    const Status status = widen_cache(
        {*cache, to, args.table, args.items, args.n_items, args.max_keys, args.window}, stream);
    if (status != Status::kOk) return status;
    const std::size_t bytes = widened_bytes(*cache);
    *cache = widened(*cache, to);
    to += bytes;
  }
  return Status::kOk;
}

Status attend(AttentionArgs args, const HeadsArgs* heads, Stream stream) {
  const Launch kernel = find(args.dim_qk, args.dim_v);
  if (kernel == nullptr) return Status::kUnsupported;
  if (!valid(args) || !aligned(args.k) || !aligned(args.v) ||
      (heads != nullptr && args.first_row != 0))
    return Status::kBadArgument;
  if (args.workspace_bytes < attention_workspace(args)) return Status::kNoWorkspace;
  const std::int64_t n_parts = parts_of(args);
  Status status = Status::kOk;
  if (widens(args))
    status = args.k.n_pages > 0 && args.v.n_pages > 0 ? widen_streams(args, stream)
                                                      : Status::kBadArgument;
  if (status != Status::kOk) return status;
  status = !on_hopper(args) ? kernel(args, heads, stream)
           : is_mla(args)   ? launch_mla(args, stream)
                            : launch_prompt(args, stream);
  if (status != Status::kOk || n_parts == 1) return status;
  const std::int64_t results = args.n_rows * args.n_heads;
  return launch(combine_kernel, static_cast<unsigned>(results), kCombineThreads, 0, stream, args,
                n_parts);
}

/// A multiprocessor takes one block of hopper_prompt.cu. As many splits as take the least time,
/// counted in pages that a block walks over, four more for each wave.
std::int64_t prompt_split_keys(const AttentionArgs& args, const DeviceInfo& device) {
  const std::int64_t n_sms = device.n_sms;
  const std::int64_t blocks =
      args.n_items * args.n_kv_heads * div_up(rows_of(args), std::int64_t{128});
  const std::int64_t pages = div_up(args.max_keys, kPageLen);
  const std::int64_t most = std::max<std::int64_t>(2 * n_sms / blocks, 1);
  std::int64_t best = pages, least = INT64_MAX;
  for (std::int64_t splits = 1; splits <= std::min(most, pages); ++splits) {
    const std::int64_t length = div_up(div_up(pages, splits), std::int64_t{2}) * 2;
    const std::int64_t waves = div_up(blocks * div_up(pages, length), n_sms);
    const std::int64_t time = waves * (length + 4);
    if (time >= least) continue;
    least = time;
    best = length;
  }
  return best * kPageLen;
}

}  // namespace

bool has_attention(std::int64_t dim_qk, std::int64_t dim_v) {
  return find(dim_qk, dim_v) != nullptr;
}

std::int64_t attention_split_keys(const AttentionArgs& args, const DeviceInfo& device) {
  constexpr std::int64_t kFewest = 4 * kPageLen;  // shorter ones cost more to add than they save
  const std::int64_t rows = rows_of(args);
  if (on_hopper(args)) return is_mla(args) ? mla_split_keys(args) : prompt_split_keys(args, device);
  const std::int64_t blocks =
      args.n_items * args.n_kv_heads * div_up<std::int64_t>(rows, rows <= 16 ? 16 : 64);
  // A block of few rows keeps more of a multiprocessor busy, and walks over keys for as long as a
  // launch to add splits would take.
  const bool few = rows <= kFewRows && args.dim_qk == args.dim_v && args.dim_v <= 128;
  if (few && args.max_keys <= 2 * kFewest) return 2 * kFewest;
  const std::int64_t at_once = (few ? 1 : 2) * device.n_sms;
  const std::int64_t wanted = std::max<std::int64_t>(at_once / blocks, 1);
  const std::int64_t keys = div_up(div_up(args.max_keys, wanted), kPageLen) * kPageLen;
  return std::max(keys, kFewest);
}

std::size_t attention_workspace(const AttentionArgs& args) {
  const std::size_t splits = split_bytes(args);
  if (!widens(args)) return splits;
  return (splits + 255) / 256 * 256 + widened_bytes(args.k) + widened_bytes(args.v);
}

std::size_t attention_reference_workspace(const AttentionArgs& args) {
  return static_cast<std::size_t>(args.n_rows * args.n_heads * args.max_keys) * 4;
}

Status attention(const AttentionArgs& args, Stream stream) { return attend(args, nullptr, stream); }

Status attention_of_heads(const HeadsArgs& heads, const AttentionArgs& args, Stream stream) {
  const bool in_one = args.max_item_rows == 1 && args.dim_qk == args.dim_v && args.dim_v <= 128 &&
                      args.n_heads <= kFewRows * args.n_kv_heads && heads.d == args.dim_v &&
                      find(args.dim_qk, args.dim_v) != nullptr;
  if (in_one) return attend(args, &heads, stream);
  const Status status = prepare_heads(heads, stream);
  return status == Status::kOk ? attention(args, stream) : status;
}

Status attention_reference(const AttentionArgs& args, Stream stream) {
  if (!valid(args)) return Status::kBadArgument;
  if (args.workspace_bytes < attention_reference_workspace(args)) return Status::kNoWorkspace;
  const dim3 grid(static_cast<unsigned>(args.n_heads), static_cast<unsigned>(args.max_item_rows),
                  static_cast<unsigned>(args.n_items));
  reference_kernel<<<grid, kWarp, 0, stream>>>(args);
  return launched();
}

Status widen_cache(const WidenArgs& args, Stream stream) {
  if (args.from.base == nullptr || args.to == nullptr || args.from.type != CacheType::kE4M3 ||
      args.n_items <= 0 || args.max_keys <= 0 || args.from.row_stride <= 0) {
    return Status::kBadArgument;
  }
  const dim3 grid(static_cast<unsigned>(div_up(args.max_keys, kPageLen)),
                  static_cast<unsigned>(args.n_items));
  return launch(widen_kernel, grid, kWidenThreads, 0, stream, args);
}

}  // namespace kt::kernels::cuda
