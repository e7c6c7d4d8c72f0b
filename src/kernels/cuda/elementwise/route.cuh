// The best experts of a row of scores, by the first warp of a block, all in its registers.
// Thread rule: device code, called by whole warps.
#pragma once
#include <cmath>

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/numbers.cuh"
#include "kernels/cuda/elementwise/elementwise.h"

namespace kt::kernels::cuda {

/// A number that grows with v; NaN is the smallest.
__device__ inline std::uint32_t sort_key(float v) {
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

/// Writes the n_active best of a row, whose choices are set.
template <int kEach>
__device__ void write_best(const RouteArgs& args, LaneChoices<kEach>& choices, int row) {
  const int n_active = static_cast<int>(args.n_active), lane = threadIdx.x;
  std::int32_t* ids = args.ids + row * n_active;
  float* weights = args.weights + row * n_active;
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

/// Chooses for `row` of ids and weights by its scores, when there is one group of at most 32 ·
/// kEach experts.
template <int kEach>
__device__ void choose_experts(const RouteArgs& args, const float* from, int row) {
  const int n = static_cast<int>(args.n_experts), lane = threadIdx.x;
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
  write_best(args, choices, row);
}

}  // namespace kt::kernels::cuda
