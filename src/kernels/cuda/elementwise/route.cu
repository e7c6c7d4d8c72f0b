#include <cmath>

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/elementwise/route.cuh"

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

/// One warp for each row; without groups all is in registers.
template <int kEach>
__global__ void __launch_bounds__(kWarp) route_kernel(RouteArgs args) {
  start_next();
  await_previous();
  choose_experts<kEach>(args, args.scores + blockIdx.x * args.n_experts, blockIdx.x);
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
  write_best(args, choices, blockIdx.x);
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
