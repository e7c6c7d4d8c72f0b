#include <cfloat>
#include <cmath>

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/numbers.cuh"
#include "kernels/cuda/sampling/sampling.h"

namespace kt::kernels::cuda {
namespace {

constexpr int kSurveyBlock = 64, kChooseBlock = 256, kChooseWarps = kChooseBlock / kWarp;
constexpr int kMostVectors = 32;     // of 4 logits in a group
constexpr int kMostGroups = 8192;    // of a row
constexpr int kGroupRoom = 256;      // groups that may be looked at
constexpr int kCandidateRoom = 512;  // logits in them that reach the bound
constexpr int kBoundSlack = 16;      // groups more than needed that a bound may let through
constexpr float kLog2E = 1.44269504f;
constexpr std::uint32_t kLowestKey = 0x00800000u;  // of -FLT_MAX; below it: no logit

/// A number that grows with v; zeros are equal.
__device__ std::uint32_t key_of(float v) {
  const std::uint32_t bits = __float_as_uint(v + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ float value_of(std::uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

struct BlockStats {
  float largest, sum, scaled_sum;  // sums relative to the block's largest
  std::uint32_t not_finite;
};

/// The work memory of a launch.
struct Plan {
  int vectors;   // of 4 logits in a group
  int n_blocks;  // of the survey, for each row
  int n_groups;
  std::uint32_t* n_done;  // rows
  BlockStats* stats;      // [m, n_blocks]
  std::uint32_t* keys;    // [m, n_groups], of the groups' largest
};

/// Few groups are quick to choose among, many hold fewer of the largest together.
Plan plan_for(const ListArgs& args) {
  constexpr std::int64_t kEnoughGroups = 8 * kListed;
  Plan plan = {};
  plan.vectors = 8;
  while (plan.vectors > 1 && args.n < 4 * plan.vectors * kEnoughGroups) plan.vectors /= 2;
  while (args.n > std::int64_t{4} * plan.vectors * kMostGroups) plan.vectors *= 2;
  plan.n_blocks =
      static_cast<int>(div_up<std::int64_t>(args.n, std::int64_t{4} * plan.vectors * kSurveyBlock));
  plan.n_groups = plan.n_blocks * kSurveyBlock;
  auto* memory = static_cast<std::byte*>(args.workspace);
  plan.n_done = reinterpret_cast<std::uint32_t*>(memory);
  plan.stats = reinterpret_cast<BlockStats*>(memory + sizeof(BlockStats));
  plan.keys = reinterpret_cast<std::uint32_t*>(plan.stats + args.m * plan.n_blocks);
  return plan;
}

/// Logits 4·i to 4·i + 3 of a row; -inf behind its end.
__device__ float4 load_vector(const float* row, std::int64_t n, std::int64_t i, bool aligned) {
  if (aligned && 4 * i + 4 <= n) return reinterpret_cast<const float4*>(row)[i];
  const auto at = [&](std::int64_t j) { return j < n ? row[j] : -INFINITY; };
  return {at(4 * i), at(4 * i + 1), at(4 * i + 2), at(4 * i + 3)};
}
/// Of a group, which is what one thread of the survey reads.
template <int kVectors>
__device__ std::int64_t vector_of(int group, int j) {
  return std::int64_t{group / kSurveyBlock} * (kSurveyBlock * kVectors) + j * kSurveyBlock +
         group % kSurveyBlock;
}
__device__ bool rows_aligned(const ListArgs& args) {
  return (reinterpret_cast<std::uintptr_t>(args.logits) |
          static_cast<std::uintptr_t>(args.stride * 4)) %
             16 ==
         0;
}

/// Of all groups of a row the largest logit, and what blocks know of the sums.
template <int kVectors>
__global__ void __launch_bounds__(kSurveyBlock) survey_kernel(ListArgs args, Plan plan) {
  __shared__ float shared[3][kSurveyBlock / kWarp];
  __shared__ bool bad_warp[kSurveyBlock / kWarp];
  start_next();
  await_previous();
  const std::int64_t row = blockIdx.y;
  const int group = static_cast<int>(blockIdx.x * kSurveyBlock + threadIdx.x);
  const float* logits = args.logits + row * args.stride;
  const bool aligned = rows_aligned(args);
  float4 v[kVectors];
#pragma unroll
  for (int j = 0; j < kVectors; ++j)
    v[j] = load_vector(logits, args.n, vector_of<kVectors>(group, j), aligned);
  const float scale = args.scales[row] * kLog2E;
  if (blockIdx.x == 0 && row == 0 && threadIdx.x == 0) *plan.n_done = 0;

  bool bad = false;
  float largest = -INFINITY;
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const std::int64_t at = 4 * vector_of<kVectors>(group, j);
    const float each[4] = {v[j].x, v[j].y, v[j].z, v[j].w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      bad |= at + i < args.n && !(fabsf(each[i]) <= FLT_MAX);
      largest = fmaxf(largest, each[i]);
    }
  }
  plan.keys[row * plan.n_groups + group] = key_of(largest);
  const int warp = threadIdx.x / kWarp;
  largest = warp_max(largest);
  bad = __any_sync(~0u, bad);
  if (threadIdx.x % kWarp == 0) {
    shared[0][warp] = largest;
    bad_warp[warp] = bad;
  }
  __syncthreads();
  largest = fmaxf(shared[0][0], shared[0][1]);
  float sum = 0.0f, scaled_sum = 0.0f;
#pragma unroll
  for (int j = 0; j < kVectors; ++j) {
    const float each[4] = {v[j].x, v[j].y, v[j].z, v[j].w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      sum += exp2f((each[i] - largest) * kLog2E);
      scaled_sum += exp2f((each[i] - largest) * scale);
    }
  }
  sum = warp_sum(sum);
  scaled_sum = warp_sum(scaled_sum);
  if (threadIdx.x % kWarp == 0) {
    shared[1][warp] = sum;
    shared[2][warp] = scaled_sum;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    plan.stats[row * plan.n_blocks + blockIdx.x] = {
        largest, shared[1][0] + shared[1][1], shared[2][0] + shared[2][1],
        static_cast<std::uint32_t>(bad_warp[0] || bad_warp[1])};
  }
}

/// What a row's blocks found, as the lanes of a warp share it.
struct RowStats {
  static constexpr int kEach = kMostGroups / kSurveyBlock / kWarp;
  BlockStats blocks[kEach];

  __device__ RowStats(const Plan& plan, std::int64_t row) {
    const auto* from = reinterpret_cast<const float4*>(plan.stats + row * plan.n_blocks);
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int b = static_cast<int>(threadIdx.x) % kWarp + j * kWarp;
      const float4 v = b < plan.n_blocks ? from[b] : float4{-INFINITY, 0.0f, 0.0f, 0.0f};
      blocks[j] = {v.x, v.y, v.z, __float_as_uint(v.w)};
    }
  }

  /// Sums up; n is 0 when a logit is not finite.
  __device__ void write(float scale, int n, RowList& list) const {
    float largest = -INFINITY;
    std::uint32_t bad = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      largest = fmaxf(largest, blocks[j].largest);
      bad |= blocks[j].not_finite;
    }
    largest = warp_max(largest);
    double sum = 0.0, scaled_sum = 0.0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const float below = blocks[j].largest - largest;
      sum += blocks[j].sum * exp2f(below * kLog2E);
      scaled_sum += blocks[j].scaled_sum * exp2f(below * (scale * kLog2E));
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      sum += __shfl_xor_sync(~0u, sum, step);
      scaled_sum += __shfl_xor_sync(~0u, scaled_sum, step);
    }
    bad = __any_sync(~0u, bad != 0);
    if (threadIdx.x % kWarp != 0) return;
    list.sum = sum;
    list.scaled_sum = scaled_sum;
    list.largest = largest;
    list.n = bad ? 0 : n;
  }
};

struct Shared {
  RowList list;
  std::uint32_t parts[2][kChooseWarps];
  std::uint16_t groups[kGroupRoom];
  __align__(
      16) unsigned long long candidates[kCandidateRoom];  // key and, turned, id: larger is better
};

/// Sums and places over the block, by one barrier each.
struct Block {
  Shared& s;
  int turn = 0;  // so that nobody writes what others still read

  __device__ std::uint32_t exchange(std::uint32_t of_warp) {
    turn ^= 1;
    const int lane = threadIdx.x % kWarp;
    if (lane == kWarp - 1) s.parts[turn][threadIdx.x / kWarp] = of_warp;
    __syncthreads();
    return lane < kChooseWarps ? s.parts[turn][lane] : 0;
  }
  __device__ std::uint32_t sum(std::uint32_t v) {
    return __reduce_add_sync(~0u, exchange(__reduce_add_sync(~0u, v)));
  }
  __device__ std::uint32_t largest(std::uint32_t v) {
    return __reduce_max_sync(~0u, exchange(__reduce_max_sync(~0u, v)));
  }
  /// The first of the n places of this thread, behind those of the threads before it.
  __device__ int places(int n, int* all) {
    const int lane = threadIdx.x % kWarp;
    int end = n;
#pragma unroll
    for (int step = 1; step < kWarp; step *= 2) {
      const int before = __shfl_up_sync(~0u, end, step);
      end += lane >= step ? before : 0;
    }
    const std::uint32_t part = exchange(static_cast<std::uint32_t>(end));
    *all = static_cast<int>(__reduce_add_sync(~0u, part));
    const bool before = lane < static_cast<int>(threadIdx.x) / kWarp;
    return static_cast<int>(__reduce_add_sync(~0u, before ? part : 0)) + end - n;
  }
};

template <int kEach>
__device__ std::uint32_t count(const std::uint32_t (&keys)[kEach], std::uint32_t bound) {
  std::uint32_t n = 0;
#pragma unroll
  for (int j = 0; j < kEach; ++j) n += keys[j] >= bound ? 1 : 0;
  return n;
}

/// A key that at least kListed of the block's keys reach, and few more where there is one; else the
/// key that too many share. The lowest when there are not so many.
template <int kEach>
__device__ std::uint32_t find_bound(const std::uint32_t (&keys)[kEach], Block& block,
                                    bool* shared) {
  constexpr int kGuesses = 8;  // of values, before keys are halved
  const float wanted = __logf(kListed + kBoundSlack / 2);
  std::uint32_t most = 0;
#pragma unroll
  for (int j = 0; j < kEach; ++j) most = max(most, keys[j]);
  std::uint32_t low = kLowestKey, high = block.largest(most) + 1;
  *shared = false;
  float log_low = 0.0f, log_high = __logf(0.5f);  // of how many reach them
  for (int round = 1; high - low > 1; ++round) {
    std::uint32_t middle = low + (high - low) / 2;
    if (round <= kGuesses) {
      // First steps down from the largest that grow; then as if the logarithm were linear.
      const float top = value_of(high - 1), bottom = value_of(low);
      const float guess = low == kLowestKey
                              ? top - static_cast<float>(1 << round)
                              : top - (top - bottom) * ((wanted - log_high) / (log_low - log_high));
      middle = min(max(key_of(guess), low + 1), high - 1);
    }
    const std::uint32_t n = block.sum(count(keys, middle));
    if (n < kListed) {
      high = middle;
      log_high = __logf(fmaxf(static_cast<float>(n), 0.5f));
      continue;
    }
    low = middle;
    log_low = __logf(static_cast<float>(n));
    *shared = n > kListed + kBoundSlack;
    if (!*shared) break;
  }
  return low;
}

/// Lists the groups whose key reaches the bound; how many there are.
template <int kEach>
__device__ int list_groups(const std::uint32_t (&keys)[kEach], std::uint32_t bound, Block& block) {
  int n = 0;
  int place = block.places(static_cast<int>(count(keys, bound)), &n);
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    if (keys[j] < bound) continue;
    if (place < kGroupRoom)
      block.s.groups[place] = static_cast<std::uint16_t>(threadIdx.x + j * kChooseBlock);
    ++place;
  }
  __syncthreads();
  return n;
}

/// The logits of the listed groups that reach the bound; how many there are.
template <int kVectors>
__device__ int collect(const ListArgs& args, std::int64_t row, int n_groups, std::uint32_t bound,
                       Block& block) {
  constexpr int kEach = 8;  // vectors at once
  const float* logits = args.logits + row * args.stride;
  const bool aligned = rows_aligned(args);
  int n_found = 0;
  for (int begin = 0; begin < n_groups * kVectors; begin += kEach * kChooseBlock) {
    std::uint32_t keys[4 * kEach];
    std::int64_t at[kEach];
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const int i = begin + j * kChooseBlock + static_cast<int>(threadIdx.x);
      const bool there = i < n_groups * kVectors;
      at[j] = there ? vector_of<kVectors>(block.s.groups[i / kVectors], i % kVectors) : args.n;
      const float4 v = there ? load_vector(logits, args.n, at[j], aligned)
                             : float4{-INFINITY, -INFINITY, -INFINITY, -INFINITY};
      keys[4 * j] = key_of(v.x);
      keys[4 * j + 1] = key_of(v.y);
      keys[4 * j + 2] = key_of(v.z);
      keys[4 * j + 3] = key_of(v.w);
    }
    int n = 0;
    int place = n_found + block.places(static_cast<int>(count(keys, bound)), &n);
    n_found += n;
#pragma unroll
    for (int j = 0; j < 4 * kEach; ++j) {
      if (keys[j] < bound) continue;
      const auto id = static_cast<std::uint32_t>(4 * at[j / 4] + j % 4);
      if (place < kCandidateRoom)
        block.s.candidates[place] = static_cast<unsigned long long>(keys[j]) << 32 | ~id;
      ++place;
    }
  }
  return n_found;
}

/// Adds the first logits with this key, until kListed are found; how many there are then.
__device__ int collect_equals(const ListArgs& args, std::int64_t row, int n_found,
                              std::uint32_t key, Block& block) {
  constexpr int kEach = 8;  // vectors of a thread, one after the other
  const float* logits = args.logits + row * args.stride;
  const bool aligned = rows_aligned(args);
  for (std::int64_t begin = 0; begin < args.n && n_found < kListed;
       begin += 4 * kEach * kChooseBlock) {
    const std::int64_t first = begin / 4 + static_cast<std::int64_t>(threadIdx.x) * kEach;
    std::uint32_t equal = 0;  // a bit for each logit
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      const float4 v = load_vector(logits, args.n, first + j, aligned);
      const float each[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) equal |= (key_of(each[i]) == key ? 1u : 0u) << (4 * j + i);
    }
    int n = 0;
    int place = n_found + block.places(__popc(equal), &n);
    for (; equal != 0 && place < kListed; equal &= equal - 1, ++place) {
      const auto id = static_cast<std::uint32_t>(4 * first + __ffs(static_cast<int>(equal)) - 1);
      block.s.candidates[place] = static_cast<unsigned long long>(key) << 32 | ~id;
    }
    n_found = min(n_found + n, static_cast<int>(kListed));
  }
  return n_found;
}

/// Each candidate goes to the place that as many better ones leave it.
__device__ void sort_into(int n, Shared& s) {
  for (int i = threadIdx.x; i < n; i += kChooseBlock) {
    const unsigned long long mine = s.candidates[i];
    int rank = 0;
#pragma unroll 4
    for (int j = 0; j < n; j += 2) {
      const ulonglong2 other = *reinterpret_cast<const ulonglong2*>(&s.candidates[j]);
      rank += (other.x > mine ? 1 : 0) + (other.y > mine ? 1 : 0);
    }
    if (rank >= kListed) continue;
    s.list.ids[rank] = static_cast<std::int32_t>(~static_cast<std::uint32_t>(mine));
    s.list.logits[rank] = value_of(static_cast<std::uint32_t>(mine >> 32));
  }
}

/// The list to where it is wanted, which may be host memory; the last row's block sets the flag.
__device__ void write_list(const ListArgs& args, const Plan& plan, std::int64_t row, Shared& s) {
  const auto* from = reinterpret_cast<const uint4*>(&s.list);
  auto* to = reinterpret_cast<uint4*>(args.lists + row);
  constexpr int kVectors = sizeof(RowList) / sizeof(uint4);
  static_assert(kVectors <= kChooseBlock);
  if (threadIdx.x < kVectors) to[threadIdx.x] = from[threadIdx.x];
  if (args.flag == nullptr) return;
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (args.m > 1) {
    __threadfence_system();
    if (atomicAdd(plan.n_done, 1) + 1 != args.m) return;
    __threadfence_system();
  }
  asm volatile("st.release.sys.u32 [%0], %1;" ::"l"(args.flag), "r"(args.value) : "memory");
}

/// A block for each row.
template <int kVectors, int kEach>
__global__ void __launch_bounds__(kChooseBlock) choose_kernel(ListArgs args, Plan plan) {
  __shared__ __align__(16) unsigned char memory[sizeof(Shared)];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  Block block{s};
  start_next();
  await_previous();
  const std::int64_t row = blockIdx.x;
  std::uint32_t keys[kEach];
#pragma unroll
  for (int j = 0; j < kEach; ++j) {
    const int group = static_cast<int>(threadIdx.x) + j * kChooseBlock;
    keys[j] = group < plan.n_groups ? plan.keys[row * plan.n_groups + group] : 0;
  }
  const RowStats stats(plan, row);
  const float scale = args.scales[row];
  bool shared = false;
  const std::uint32_t key = find_bound(keys, block, &shared), bound = shared ? key + 1 : key;
  const int n_groups = list_groups(keys, bound, block);
  int n = n_groups <= kGroupRoom ? collect<kVectors>(args, row, n_groups, bound, block) : 0;
  if (n >= kCandidateRoom || n_groups > kGroupRoom) {
    n = 0;
  } else if (shared && n < kListed) {
    n = collect_equals(args, row, n, key, block);
  }
  if (threadIdx.x == 0) s.candidates[n] = 0;  // pads the last pair
  __syncthreads();
  sort_into(n, s);
  // The last warp has the least to sort.
  if (threadIdx.x / kWarp == kChooseWarps - 1)
    stats.write(scale, min(n, static_cast<int>(kListed)), s.list);
  __syncthreads();
  write_list(args, plan, row, s);
}

template <int kVectors>
Status run(const ListArgs& args, const Plan& plan, Stream stream) {
  const dim3 grid(static_cast<unsigned>(plan.n_blocks), static_cast<unsigned>(args.m));
  const Status status = launch(survey_kernel<kVectors>, grid, kSurveyBlock, 0, stream, args, plan);
  if (status != Status::kOk) return status;
  constexpr int kFew = 20, kMany = kMostGroups / kChooseBlock;
  void (*choose)(ListArgs, Plan) = plan.n_groups <= kFew * kChooseBlock
                                       ? choose_kernel<kVectors, kFew>
                                       : choose_kernel<kVectors, kMany>;
  return launch(choose, static_cast<unsigned>(args.m), kChooseBlock, 0, stream, args, plan);
}

bool sizes_match(const ListArgs& args) {
  constexpr std::int64_t kMostRows = 65535;
  return args.m > 0 && args.m <= kMostRows && args.n > 0 && args.stride >= args.n;
}

constexpr std::int64_t kMostLogits = std::int64_t{4} * kMostVectors * kMostGroups;
constexpr int kReferenceBlock = 512;

/// The best of the block's, by keys as in Shared; every thread gets it.
__device__ unsigned long long best_of_block(unsigned long long mine) {
  __shared__ unsigned long long bests[kReferenceBlock];
  bests[threadIdx.x] = mine;
  __syncthreads();
  for (int step = kReferenceBlock / 2; step > 0; step /= 2) {
    if (threadIdx.x < step) bests[threadIdx.x] = max(bests[threadIdx.x], bests[threadIdx.x + step]);
    __syncthreads();
  }
  const unsigned long long best = bests[0];
  __syncthreads();
  return best;
}

__device__ double sum_of_block(double mine) {
  __shared__ double sums[kReferenceBlock];
  sums[threadIdx.x] = mine;
  __syncthreads();
  double sum = 0.0;
  for (int i = 0; i < kReferenceBlock; ++i) sum += sums[i];
  __syncthreads();
  return sum;
}

__global__ void __launch_bounds__(kReferenceBlock) reference_kernel(ListArgs args) {
  start_next();
  await_previous();
  const float* logits = args.logits + blockIdx.x * args.stride;
  RowList& list = args.lists[blockIdx.x];
  int bad = 0;
  for (std::int64_t i = threadIdx.x; i < args.n; i += kReferenceBlock) bad |= !isfinite(logits[i]);
  const bool finite = !__syncthreads_or(bad);
  const int wanted = finite ? static_cast<int>(min(args.n, kListed)) : 0;
  unsigned long long before = ~0ull;
  for (int listed = 0; listed < wanted; ++listed) {
    unsigned long long best = 0;
    for (std::int64_t i = threadIdx.x; i < args.n; i += kReferenceBlock) {
      const unsigned long long candidate =
          static_cast<unsigned long long>(key_of(logits[i])) << 32 |
          static_cast<std::uint32_t>(~static_cast<std::uint32_t>(i));
      if (candidate < before) best = max(best, candidate);
    }
    before = best_of_block(best);
    if (threadIdx.x != 0) continue;
    list.ids[listed] = static_cast<std::int32_t>(~static_cast<std::uint32_t>(before));
    list.logits[listed] = value_of(static_cast<std::uint32_t>(before >> 32));
  }
  __syncthreads();
  double sum = 0.0, scaled_sum = 0.0;
  const float largest = wanted > 0 ? list.logits[0] : 0.0f;
  for (std::int64_t i = threadIdx.x; i < args.n; i += kReferenceBlock) {
    const double below = double{logits[i]} - double{largest};
    sum += exp(below);
    scaled_sum += exp(below * double{args.scales[blockIdx.x]});
  }
  sum = sum_of_block(sum);
  scaled_sum = sum_of_block(scaled_sum);
  if (threadIdx.x != 0) return;
  list.sum = sum;
  list.scaled_sum = scaled_sum;
  list.n = wanted;
  list.largest = largest;
}

}  // namespace

std::size_t list_rows_workspace(const ListArgs& args) {
  if (!sizes_match(args) || args.n > kMostLogits) return 0;
  const Plan plan = plan_for(args);
  const std::size_t each = static_cast<std::size_t>(plan.n_blocks) * sizeof(BlockStats) +
                           static_cast<std::size_t>(plan.n_groups) * sizeof(std::uint32_t);
  return sizeof(BlockStats) + static_cast<std::size_t>(args.m) * each;
}

Status list_rows(const ListArgs& args, Stream stream) {
  if (!sizes_match(args)) return Status::kBadArgument;
  if (args.n > kMostLogits) return Status::kUnsupported;
  if (args.workspace_bytes < list_rows_workspace(args)) return Status::kNoWorkspace;
  const Plan plan = plan_for(args);
  switch (plan.vectors) {
    case 1: return run<1>(args, plan, stream);
    case 2: return run<2>(args, plan, stream);
    case 4: return run<4>(args, plan, stream);
    case 8: return run<8>(args, plan, stream);
    case 16: return run<16>(args, plan, stream);
    default: return run<kMostVectors>(args, plan, stream);
  }
}

Status list_rows_reference(const ListArgs& args, Stream stream) {
  if (!sizes_match(args) || args.flag != nullptr) return Status::kBadArgument;
  return launch(reference_kernel, static_cast<unsigned>(args.m), kReferenceBlock, 0, stream, args);
}

}  // namespace kt::kernels::cuda
