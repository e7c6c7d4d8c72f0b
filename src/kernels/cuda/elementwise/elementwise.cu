#include <cmath>

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/numbers.cuh"
#include "kernels/cuda/elementwise/elementwise.h"

namespace kt::kernels::cuda {
namespace {

constexpr int kBlock = 256;

/// The sum over a block of kBlock threads; every thread gets it.
__device__ float block_sum(float v) {
  __shared__ float parts[kBlock / kWarp];
  v = warp_sum(v);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = v;
  __syncthreads();
  float sum = 0.0f;
  for (float part : parts) sum += part;
  return sum;
}

__global__ void norm_kernel(NormArgs args) {
  const std::int64_t row = blockIdx.x;
  const std::int64_t at = row * args.residual_stride;
  float squares = 0.0f;
  for (std::int64_t i = threadIdx.x; i < args.d; i += kBlock) {
    float v = load_as_float(args.residual, args.residual_type, at + i);
    if (args.delta != nullptr) {
      v += load_as_float(args.delta, args.delta_type, row * args.delta_stride + i);
      store_float(args.residual, args.residual_type, at + i, v);
      v = load_as_float(args.residual, args.residual_type, at + i);
    }
    squares += v * v;
  }
  const float scale = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(args.d) + args.eps);
  for (std::int64_t i = threadIdx.x; i < args.d; i += kBlock) {
    const float v = load_as_float(args.residual, args.residual_type, at + i);
    store_float(args.out, args.out_type, row * args.out_stride + i, v * scale * args.weight[i]);
  }
}

__global__ void rope_kernel(RopeArgs args) {
  const std::int64_t half = args.d / 2;
  const std::int64_t token = blockIdx.x;
  const std::int64_t table = args.positions[token] * half;
  for (std::int64_t i = threadIdx.x; i < args.n_heads * half; i += blockDim.x) {
    const std::int64_t head = i / half, pair = i % half;
    const std::int64_t at = token * args.token_stride + head * args.head_stride;
    const std::int64_t first = at + (args.interleaved ? 2 * pair : pair);
    const std::int64_t second = args.interleaved ? first + 1 : first + half;
    const float a = load_as_float(args.x, args.type, first),
                b = load_as_float(args.x, args.type, second);
    const float c = args.cos[table + pair], s = args.sin[table + pair];
    store_float(args.x, args.type, first, a * c - b * s);
    store_float(args.x, args.type, second, b * c + a * s);
  }
}

__global__ void silu_kernel(SiluArgs args) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= args.m * args.d) return;
  const std::int64_t from = i / args.d * args.stride + i % args.d;
  const float gate = load_as_float(args.gate, args.type, from);
  store_float(args.out, args.out_type, i, silu(gate) * load_as_float(args.up, args.type, from));
}

__global__ void add_kernel(AddArgs args) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= args.m * args.n) return;
  const std::int64_t from = i / args.n * args.x_stride + i % args.n;
  store_float(args.y, args.y_type, i,
              load_as_float(args.y, args.y_type, i) + load_as_float(args.x, args.x_type, from));
}

__global__ void scale_kernel(ScaleArgs args) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= args.m * args.n) return;
  const float scale = 1.0f / (1.0f + expf(-args.gate[i / args.n]));
  store_float(args.y, args.y_type, i, load_as_float(args.y, args.y_type, i) * scale);
}

/// The best of a warp's candidates, ties to the lower id; all lanes get it.
__device__ void warp_best(float& value, int& id) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(~0u, value, step);
    const int other_id = __shfl_xor_sync(~0u, id, step);
    if (other > value || (other == value && other_id < id)) {
      value = other;
      id = other_id;
    }
  }
}

/// Index of the largest of n values in shared memory.
__device__ int largest(const float* values, int n) {
  float best = -INFINITY;
  int id = 0x7fffffff;
  for (int i = threadIdx.x; i < n; i += kWarp) {
    if (values[i] > best || id == 0x7fffffff) {
      best = values[i];
      id = i;
    }
  }
  warp_best(best, id);
  return id;
}

__device__ void softmax_or_sigmoid(const RouteArgs& args, const float* from, float* scores) {
  const int n = static_cast<int>(args.n_experts);
  if (args.sigmoid) {
    for (int e = threadIdx.x; e < n; e += kWarp) scores[e] = 1.0f / (1.0f + expf(-from[e]));
    return;
  }
  float top = -INFINITY, sum = 0.0f;
  for (int e = threadIdx.x; e < n; e += kWarp) top = fmaxf(top, from[e]);
  top = warp_max(top);
  for (int e = threadIdx.x; e < n; e += kWarp) {
    scores[e] = expf(from[e] - top);
    sum += scores[e];
  }
  sum = warp_sum(sum);
  for (int e = threadIdx.x; e < n; e += kWarp) scores[e] /= sum;
}

/// Experts outside the best groups get -inf, so that they cannot be chosen.
__device__ void drop_groups(const RouteArgs& args, float* choice, float* group, bool* keep) {
  const int n_groups = static_cast<int>(args.n_groups);
  const int size = static_cast<int>(args.n_experts / args.n_groups);
  for (int g = threadIdx.x; g < n_groups; g += kWarp) {
    float first = -INFINITY, second = -INFINITY;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      const float v = choice[e];
      if (v > first) {
        second = first;
        first = v;
      } else if (v > second) {
        second = v;
      }
    }
    group[g] = args.group_top2 ? first + second : first;
    keep[g] = false;
  }
  __syncwarp();
  for (int i = 0; i < args.n_groups_used; ++i) {
    const int best = largest(group, n_groups);
    __syncwarp();
    if (threadIdx.x == 0) {
      keep[best] = true;
      group[best] = -INFINITY;
    }
    __syncwarp();
  }
  for (int e = threadIdx.x; e < args.n_experts; e += kWarp) {
    if (!keep[e / size]) choice[e] = -INFINITY;
  }
  __syncwarp();
}

/// One warp for each row.
__global__ void route_kernel(RouteArgs args) {
  __shared__ float scores[kMaxExperts], choice[kMaxExperts], group[kMaxGroups];
  __shared__ bool keep[kMaxGroups];
  const std::int64_t row = blockIdx.x;
  const int n = static_cast<int>(args.n_experts);
  softmax_or_sigmoid(args, args.scores + row * args.n_experts, scores);
  __syncwarp();
  for (int e = threadIdx.x; e < n; e += kWarp) {
    choice[e] = scores[e] + (args.bias != nullptr ? args.bias[e] : 0.0f);
  }
  __syncwarp();
  if (args.n_groups > 1) drop_groups(args, choice, group, keep);
  std::int32_t* ids = args.ids + row * args.n_active;
  float* weights = args.weights + row * args.n_active;
  float sum = 0.0f;
  for (int i = 0; i < args.n_active; ++i) {
    const int best = largest(choice, n);
    __syncwarp();
    sum += scores[best];
    if (threadIdx.x == 0) {
      ids[i] = best;
      weights[i] = scores[best];
      choice[best] = -INFINITY;
    }
    __syncwarp();
  }
  const float divisor = args.normalize ? sum + 1e-20f : 1.0f;
  for (int i = threadIdx.x; i < args.n_active; i += kWarp)
    weights[i] = weights[i] / divisor * args.weight_scale;
}

__global__ void rows_kernel(RowsArgs args) {
  const std::int64_t row = blockIdx.x;
  for (std::int64_t i = threadIdx.x; i < args.d; i += kBlock) {
    store_float(args.out, args.out_type, row * args.d + i,
                load_as_float(args.table, args.table_type, args.ids[row] * args.d + i));
  }
}

__global__ void argmax_kernel(ArgmaxArgs args) {
  __shared__ float bests[kBlock / kWarp];
  __shared__ int best_ids[kBlock / kWarp];
  const float* logits = args.logits + blockIdx.x * args.stride;
  const int n = static_cast<int>(args.n);
  float best = -INFINITY;
  int id = 0x7fffffff;
  for (int i = threadIdx.x; i < n; i += kBlock) {
    const float v = logits[i];
    if (v > best) {
      best = v;
      id = i;
    }
  }
  warp_best(best, id);
  if (threadIdx.x % kWarp == 0) {
    bests[threadIdx.x / kWarp] = best;
    best_ids[threadIdx.x / kWarp] = id;
  }
  __syncthreads();
  best = bests[0];
  id = best_ids[0];
  for (int w = 1; w < kBlock / kWarp; ++w) {
    if (bests[w] > best || (bests[w] == best && best_ids[w] < id)) {
      best = bests[w];
      id = best_ids[w];
    }
  }
  if (threadIdx.x == 0) args.ids[blockIdx.x] = id == 0x7fffffff ? 0 : id;
  if (args.logprob == nullptr) return;
  float sum = 0.0f;
  for (int i = threadIdx.x; i < n; i += kBlock) sum += expf(logits[i] - best);
  sum = block_sum(sum);
  if (threadIdx.x == 0) args.logprob[blockIdx.x] = -logf(sum);
}

__global__ void finite_kernel(const void* x, Type type, std::int64_t n, std::int32_t* flags) {
  bool bad = false;
  for (std::int64_t i = threadIdx.x; i < n; i += kBlock) {
    bad |= !isfinite(load_as_float(x, type, blockIdx.x * n + i));
  }
  if (bad) flags[blockIdx.x] = 1;
}

unsigned grid(std::int64_t blocks) { return static_cast<unsigned>(blocks); }

}  // namespace

Status add_rms_norm(const NormArgs& args, Stream stream) {
  if (args.m <= 0 || args.d <= 0) return Status::kBadArgument;
  norm_kernel<<<grid(args.m), kBlock, 0, stream>>>(args);
  return launched();
}

Status rope(const RopeArgs& args, Stream stream) {
  if (args.n_tokens <= 0 || args.n_heads <= 0 || args.d <= 0 || args.d % 2 != 0)
    return Status::kBadArgument;
  rope_kernel<<<grid(args.n_tokens), kBlock, 0, stream>>>(args);
  return launched();
}

Status silu_mul(const SiluArgs& args, Stream stream) {
  if (args.m <= 0 || args.d <= 0 || args.stride < args.d) return Status::kBadArgument;
  silu_kernel<<<grid(div_up<std::int64_t>(args.m * args.d, kBlock)), kBlock, 0, stream>>>(args);
  return launched();
}

Status add(const AddArgs& args, Stream stream) {
  const bool strides = args.x_stride == 0 || args.x_stride >= args.n;
  if (args.m <= 0 || args.n <= 0 || !strides) return Status::kBadArgument;
  add_kernel<<<grid(div_up<std::int64_t>(args.m * args.n, kBlock)), kBlock, 0, stream>>>(args);
  return launched();
}

Status scale_rows(const ScaleArgs& args, Stream stream) {
  if (args.m <= 0 || args.n <= 0) return Status::kBadArgument;
  scale_kernel<<<grid(div_up<std::int64_t>(args.m * args.n, kBlock)), kBlock, 0, stream>>>(args);
  return launched();
}

Status route(const RouteArgs& args, Stream stream) {
  if (args.n_experts > kMaxExperts || args.n_groups > kMaxGroups) return Status::kUnsupported;
  const bool sizes = args.m > 0 && args.n_active > 0 && args.n_active <= args.n_experts &&
                     args.n_groups > 0 && args.n_experts % args.n_groups == 0 &&
                     args.n_groups_used <= args.n_groups;
  if (!sizes) return Status::kBadArgument;
  route_kernel<<<grid(args.m), kWarp, 0, stream>>>(args);
  return launched();
}

Status gather_rows(const RowsArgs& args, Stream stream) {
  if (args.m <= 0 || args.d <= 0) return Status::kBadArgument;
  rows_kernel<<<grid(args.m), kBlock, 0, stream>>>(args);
  return launched();
}

Status argmax(const ArgmaxArgs& args, Stream stream) {
  if (args.m <= 0 || args.n <= 0 || args.n > 0x7ffffffe || args.stride < args.n)
    return Status::kBadArgument;
  argmax_kernel<<<grid(args.m), kBlock, 0, stream>>>(args);
  return launched();
}

Status check_finite(const void* x, Type type, std::int64_t m, std::int64_t n, std::int32_t* flags,
                    Stream stream) {
  if (m <= 0 || n <= 0) return Status::kBadArgument;
  finite_kernel<<<grid(m), kBlock, 0, stream>>>(x, type, n, flags);
  return launched();
}

}  // namespace kt::kernels::cuda
