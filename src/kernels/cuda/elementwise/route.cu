#include <cmath>

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/numbers.cuh"
#include "kernels/cuda/elementwise/elementwise.h"

namespace kt::kernels::cuda {
namespace {

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

/// A number that grows with v; NaN is the smallest.
__device__ std::uint32_t sort_key(float v) {
  const std::uint32_t bits = __float_as_uint(v);
  if (v != v) return 0;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/// The scores of a row that a lane looks after, of experts lane, lane + 32, …: those to choose by
/// as keys, those that become weights, and the best not taken.
template <int kEach>
struct LaneChoices {
  std::uint32_t keys[kEach], best;
  float scores[kEach], best_score;
  int best_id;

  __device__ void choose_by(int j, float choice) {
    keys[j] = max(sort_key(choice), 1u);  // 0: none or taken
  }
  __device__ void find() {
    best = 0;
    best_id = threadIdx.x;
    best_score = scores[0];
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      if (keys[j] <= best) continue;
      best = keys[j];
      best_id = threadIdx.x + j * kWarp;
      best_score = scores[j];
    }
  }
  /// The best of the warp's, ties to the lower id; it is taken.
  __device__ int take(float* score) {
    const std::uint32_t top = __reduce_max_sync(~0u, best);
    const int id = static_cast<int>(
        __reduce_min_sync(~0u, best == top ? static_cast<unsigned>(best_id) : 0xffffffffu));
    *score = __shfl_sync(~0u, best_score, id % kWarp);
    if (id == best_id) {
#pragma unroll
      for (int j = 0; j < kEach; ++j) {
        if (id == threadIdx.x + j * kWarp) keys[j] = 0;
      }
      find();
    }
    return id;
  }
};

/// Writes the n_active best of the row, whose choices are set.
template <int kEach>
__device__ void write_best(const RouteArgs& args, LaneChoices<kEach>& choices) {
  const int n_active = static_cast<int>(args.n_active), lane = threadIdx.x;
  std::int32_t* ids = args.ids + blockIdx.x * n_active;
  float* weights = args.weights + blockIdx.x * n_active;
  float sum = 0.0f, mine = 0.0f;
  choices.find();
#pragma unroll 1
  for (int i = 0; i < n_active; ++i) {
    float score;
    const int best = choices.take(&score);
    sum += score;
    if (lane != i % kWarp) continue;
    ids[i] = best;
    if (i + kWarp < n_active) weights[i] = score;
    mine = score;
  }
  const float divisor = args.normalize ? sum + 1e-20f : 1.0f;
#pragma unroll 1
  for (int i = lane; i < n_active; i += kWarp) {
    const float weight = i + kWarp < n_active ? weights[i] : mine;
    weights[i] = weight / divisor * args.weight_scale;
  }
}

/// One warp for each row; without groups all is in registers.
template <int kEach>
__global__ void __launch_bounds__(kWarp) route_kernel(RouteArgs args) {
  start_next();
  await_previous();
  const int n = static_cast<int>(args.n_experts), lane = threadIdx.x;
  const float* from = args.scores + blockIdx.x * n;
  LaneChoices<kEach> choices;
  float top = -INFINITY, sum = 0.0f;
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    choices.scores[j] = lane + j * kWarp < n ? from[lane + j * kWarp] : -INFINITY;
    top = fmaxf(top, choices.scores[j]);
  }
  top = args.sigmoid ? 0.0f : warp_max(top);
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    float& score = choices.scores[j];
    score = args.sigmoid ? 1.0f / (1.0f + expf(-score)) : expf(score - top);
    sum += score;
  }
  const float scale = args.sigmoid ? 1.0f : 1.0f / warp_sum(sum);
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int e = lane + j * kWarp;
    choices.scores[j] *= scale;
    choices.keys[j] = 0;
    if (e < n)
      choices.choose_by(j, choices.scores[j] + (args.bias != nullptr ? args.bias[e] : 0.0f));
  }
  write_best(args, choices);
}

/// The same with groups, of which the best are found first.
__global__ void __launch_bounds__(kWarp) route_groups_kernel(RouteArgs args) {
  __shared__ float scores[kMaxExperts], choice[kMaxExperts], group[kMaxGroups];
  __shared__ bool keep[kMaxGroups];
  start_next();
  await_previous();
  const int n = static_cast<int>(args.n_experts), lane = threadIdx.x;
  softmax_or_sigmoid(args, args.scores + static_cast<std::int64_t>(blockIdx.x) * n, scores);
  __syncwarp();
  for (int e = lane; e < n; e += kWarp)
    choice[e] = scores[e] + (args.bias != nullptr ? args.bias[e] : 0.0f);
  __syncwarp();
  drop_groups(args, choice, group, keep);
  LaneChoices<kMaxExperts / kWarp> choices;
#pragma unroll
  for (int j = 0; j < kMaxExperts / kWarp; ++j) {
    const int e = lane + j * kWarp;
    choices.keys[j] = 0;
    choices.scores[j] = 0.0f;
    if (e >= n) continue;
    choices.scores[j] = scores[e];
    choices.choose_by(j, choice[e]);
  }
  write_best(args, choices);
}

}  // namespace

Status route(const RouteArgs& args, Stream stream) {
  if (args.n_experts > kMaxExperts || args.n_groups > kMaxGroups) return Status::kUnsupported;
  const bool sizes = args.m > 0 && args.n_active > 0 && args.n_active <= args.n_experts &&
                     args.n_groups > 0 && args.n_experts % args.n_groups == 0 &&
                     args.n_groups_used <= args.n_groups;
  if (!sizes) return Status::kBadArgument;
  void (*kernel)(RouteArgs) = args.n_groups > 1       ? route_groups_kernel
                              : args.n_experts <= 128 ? route_kernel<4>
                              : args.n_experts <= 256 ? route_kernel<8>
                              : args.n_experts <= 512 ? route_kernel<16>
                                                      : route_kernel<kMaxExperts / kWarp>;
  return launch(kernel, static_cast<unsigned>(args.m), kWarp, 0, stream, args);
}

}  // namespace kt::kernels::cuda
