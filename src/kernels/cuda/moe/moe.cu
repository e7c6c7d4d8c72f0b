#include <algorithm>

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/numbers.cuh"
#include "kernels/cuda/gemm/gemm.h"
#include "kernels/cuda/gemm/many_rows.h"
#include "kernels/cuda/moe/grouped.h"
#include "kernels/cuda/moe/moe.h"

namespace kt::kernels::cuda {
namespace {

constexpr std::int64_t kMostHidden = 40 * 1024;  // values of a token that shared memory holds
constexpr int kSortThreads = 1024;
constexpr std::int64_t kMaxSorted = kSortThreads;  // experts: one for each thread of the sort
constexpr std::int64_t kReferenceTokens = 64;

const ExpertKernels* find(formats::Format format) {
  switch (format) {
#define EXPERTS(id) \
  case formats::Format::id: return &expert_kernels<formats::Format::id>();
#include "kernels/cuda/moe/kernels.inc"
#undef EXPERTS
    default: return nullptr;
  }
}

/// The parts of the work memory.
struct Layout {
  std::size_t hidden = 0, results = 0, pairs = 0, pieces = 0, count = 0, total = 0;

  explicit Layout(const MoeArgs& args) {
    const std::int64_t n_pairs = args.m * args.n_active;
    const std::int64_t max_pieces = std::min(n_pairs, args.n_experts + n_pairs / kPieceRows);
    const auto take = [&](std::size_t* at, std::int64_t bytes) {
      *at = total;
      total += (static_cast<std::size_t>(bytes) + 255) / 256 * 256;
    };
    take(&hidden, n_pairs * args.d_ff * 2);
    take(&results, n_pairs * args.d_model * 4);
    take(&pairs, n_pairs * 4);
    take(&pieces, max_pieces * static_cast<std::int64_t>(sizeof(Piece)));
    take(&count, 8);
  }
};

/// How an expert's pairs become pieces: of piece_rows, what is left in one of its own, which counts
/// as small up to small_rows.
struct Cut {
  int piece_rows, small_rows;
};

/// Groups pairs by expert: one block. Small pieces come after the others, n_pieces[1] after
/// n_pieces[0]. The order of pairs inside a piece does not change any result.
__global__ void sort_kernel(const std::int32_t* ids, int n_pairs, int n_experts, Cut cut,
                            std::int32_t* pairs, Piece* pieces, std::int32_t* n_pieces) {
  start_next();
  await_previous();
  __shared__ int counts[kMaxSorted], begins[kMaxSorted], large[kMaxSorted], small[kMaxSorted];
  const int e = threadIdx.x;
  counts[e] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < n_pairs; i += kSortThreads) {
    const int id = ids[i];
    if (id >= 0 && id < n_experts) atomicAdd(&counts[id], 1);
  }
  __syncthreads();
  const int count = counts[e], left = count % cut.piece_rows;
  const int n_small = left > 0 && left <= cut.small_rows ? 1 : 0;
  const int n_large = count / cut.piece_rows + (left > cut.small_rows ? 1 : 0);
  begins[e] = count;
  large[e] = n_large;
  small[e] = n_small;
  for (int step = 1; step < kSortThreads; step *= 2) {  // inclusive sums
    __syncthreads();
    const int a = e >= step ? begins[e - step] : 0, b = e >= step ? large[e - step] : 0,
              c = e >= step ? small[e - step] : 0;
    __syncthreads();
    begins[e] += a;
    large[e] += b;
    small[e] += c;
  }
  __syncthreads();
  const int begin = begins[e] - count, all_large = large[kSortThreads - 1];
  for (int i = 0; i < n_large; ++i) {
    pieces[large[e] - n_large + i] = {e, begin + i * cut.piece_rows,
                                      min(cut.piece_rows, count - i * cut.piece_rows)};
  }
  if (n_small > 0) pieces[all_large + small[e] - 1] = {e, begin + count - left, left};
  if (e == kSortThreads - 1) {
    n_pieces[0] = all_large;
    n_pieces[1] = small[e];
  }
  __syncthreads();
  counts[e] = begin;
  __syncthreads();
  for (int i = threadIdx.x; i < n_pairs; i += kSortThreads) {
    const int id = ids[i];
    if (id >= 0 && id < n_experts) pairs[atomicAdd(&counts[id], 1)] = i;
  }
}

__global__ void combine_kernel(MoeArgs args, const void* results, Type type) {
  start_next();
  await_previous();
  const std::int64_t token = blockIdx.x;
  const std::int64_t d = static_cast<std::int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  if (d >= args.d_model) return;
  const std::int64_t at = token * args.y_stride + d;
  float sum = args.add ? load_as_float(args.y, args.y_type, at) : 0.0f;
  for (std::int64_t j = 0; j < args.n_active; ++j) {
    const std::int64_t pair = token * args.n_active + j;
    const std::int32_t id = args.ids[pair];
    if (id >= 0 && id < args.n_experts)
      sum += args.weights[pair] * load_as_float(results, type, pair * args.d_model + d);
  }
  store_float(args.y, args.y_type, at, sum);
}

/// One warp for each result of one pair, weights decoded to `w` before.
__global__ void reference_gate_kernel(MoeArgs args, const float* gate, const float* up,
                                      std::int64_t expert, float* hidden) {
  const std::int64_t pair = blockIdx.y, row = blockIdx.x;
  if (args.ids[pair] != expert) return;
  const std::int64_t x = pair / args.n_active * args.x_stride;
  float g = 0.0f, u = 0.0f;
  for (std::int64_t i = threadIdx.x; i < args.d_model; i += kWarp) {
    const float v = load_as_float(args.x, Type::kBF16, x + i);
    g += gate[row * args.d_model + i] * v;
    u += up[row * args.d_model + i] * v;
  }
  g = warp_sum(g);
  u = warp_sum(u);
  if (threadIdx.x == 0) hidden[pair * args.d_ff + row] = g / (1.0f + expf(-g)) * u;
}

__global__ void reference_down_kernel(MoeArgs args, const float* down, std::int64_t expert,
                                      const float* hidden, float* results) {
  const std::int64_t pair = blockIdx.y, row = blockIdx.x;
  if (args.ids[pair] != expert) return;
  float sum = 0.0f;
  for (std::int64_t i = threadIdx.x; i < args.d_ff; i += kWarp) {
    sum += down[row * args.d_ff + i] * hidden[pair * args.d_ff + i];
  }
  sum = warp_sum(sum);
  if (threadIdx.x == 0) results[pair * args.d_model + row] = sum;
}

bool valid(const MoeArgs& args) {
  return args.m > 0 && args.n_active > 0 && args.n_experts > 0 && args.d_model > 0 &&
         args.d_ff > 0 && args.gate.format == args.up.format && args.x_stride >= args.d_model &&
         args.y_stride >= args.d_model;
}

/// results: [m · n_active, d_model].
Status combine(const MoeArgs& args, const void* results, Type type, Stream stream) {
  constexpr int kBlock = 256;
  const dim3 grid(static_cast<unsigned>(args.m),
                  static_cast<unsigned>(div_up<std::int64_t>(args.d_model, kBlock)));
  return launch(combine_kernel, grid, kBlock, 0, stream, args, results, type);
}

/// Whether every pair is by itself: experts are rarely shared. Measured on an H100: experts that
/// are shared take less time from 1.1 (Qwen3-30B) to 1.7 (Mixtral) pairs an expert on.
bool has_few_pairs(const MoeArgs& args) {
  constexpr std::int64_t kFewTokens = 4;
  return args.n_active * args.d_ff <= kMostHidden &&
         (args.m <= kFewTokens || 4 * args.m * args.n_active <= 5 * args.n_experts);
}

Status moe_few(const MoeArgs& args, const ExpertKernels& gate, const ExpertKernels& down,
               Stream stream) {
  auto* hidden = static_cast<std::uint16_t*>(args.workspace);
  FewArgs work;
  work.first = args.gate.tiles;
  work.second = args.up.tiles;
  work.n_experts = args.n_experts;
  work.n = args.d_ff;
  work.k = args.d_model;
  work.m = args.m;
  work.n_active = static_cast<int>(args.n_active);
  work.x = static_cast<const std::uint16_t*>(args.x);
  work.x_stride = args.x_stride;
  work.ids = args.ids;
  work.weights = args.weights;
  work.out = hidden;
  FewArgs then = work;
  then.first = args.down.tiles;
  then.second = nullptr;
  then.n = args.d_model;
  then.k = args.d_ff;
  then.x = hidden;
  then.x_stride = args.d_ff;
  then.out = args.y;
  then.out_type = args.y_type;
  then.out_stride = args.y_stride;
  then.add = args.add;
  if (!down.few_fit(then)) return Status::kUnsupported;
  const Status status = gate.few(work, stream);
  return status == Status::kOk ? down.few(then, stream) : status;
}

bool decodes_beside(const MoeArgs& args) {
  const bool aligned = reinterpret_cast<std::uintptr_t>(args.x) % 16 == 0 &&
                       args.x_stride % 8 == 0 && args.d_model % 8 == 0 && args.d_ff % 8 == 0;
  return !args.portable && aligned && has_many_rows(args.gate.format) &&
         has_many_rows(args.down.format);
}

/// gate and up, then down, of the pieces in `work`; results in bf16, which is what they cost.
Status multiply_beside(const MoeArgs& args, const Layout& layout, const GroupedArgs& pieces,
                       Stream stream) {
  auto* base = static_cast<std::byte*>(args.workspace);
  ManyArgs work;
  work.pairs = pieces.pairs;
  work.pieces = pieces.pieces;
  work.n_pieces = pieces.n_pieces;
  work.max_pieces = pieces.max_pieces;
  work.first = args.gate.tiles;
  work.second = args.up.tiles;
  work.n = args.d_ff;
  work.k = args.d_model;
  work.x = static_cast<const std::uint16_t*>(args.x);
  work.x_stride = args.x_stride;
  work.rows_of_x = args.n_active;
  work.out = base + layout.hidden;
  work.out_type = Type::kBF16;
  work.out_stride = args.d_ff;
  const Status status = multiply_experts(args.gate.format, work, stream);
  if (status != Status::kOk) return status;
  work.first = args.down.tiles;
  work.second = nullptr;
  work.n = args.d_model;
  work.k = args.d_ff;
  work.x = reinterpret_cast<const std::uint16_t*>(base + layout.hidden);
  work.x_stride = args.d_ff;
  work.rows_of_x = 1;
  work.out = base + layout.results;
  work.out_type = Type::kBF16;
  work.out_stride = args.d_model;
  return multiply_experts(args.down.format, work, stream);
}

Status multiply_grouped(const MoeArgs& args, const ExpertKernels& gate, const ExpertKernels& down,
                        const Layout& layout, GroupedArgs work, Stream stream) {
  auto* base = static_cast<std::byte*>(args.workspace);
  work.first = args.gate.tiles;
  work.second = args.up.tiles;
  work.n = args.d_ff;
  work.k = args.d_model;
  work.x = static_cast<const std::uint16_t*>(args.x);
  work.x_stride = args.x_stride;
  work.rows_of_x = static_cast<std::int32_t>(args.n_active);
  work.out = base + layout.hidden;
  const Status status = gate.grouped(work, stream);
  if (status != Status::kOk) return status;
  work.first = args.down.tiles;
  work.second = nullptr;
  work.n = args.d_model;
  work.k = args.d_ff;
  work.x = reinterpret_cast<const std::uint16_t*>(base + layout.hidden);
  work.x_stride = args.d_ff;
  work.rows_of_x = 1;
  work.out = base + layout.results;
  return down.grouped(work, stream);
}

Status moe_grouped(const MoeArgs& args, const ExpertKernels& gate, const ExpertKernels& down,
                   Stream stream) {
  const Layout layout(args);
  auto* base = static_cast<std::byte*>(args.workspace);
  auto* pairs = reinterpret_cast<std::int32_t*>(base + layout.pairs);
  auto* pieces = reinterpret_cast<Piece*>(base + layout.pieces);
  auto* count = reinterpret_cast<std::int32_t*>(base + layout.count);
  const bool beside = decodes_beside(args);
  const std::int64_t n_pairs = args.m * args.n_active;
  const Cut cut = beside ? Cut{kManyPairs, kSmallPairs} : Cut{kPieceRows, 0};
  Status status =
      launch(sort_kernel, 1, kSortThreads, 0, stream, args.ids, static_cast<int>(n_pairs),
             static_cast<int>(args.n_experts), cut, pairs, pieces, count);
  if (status != Status::kOk) return status;
  GroupedArgs work;
  work.n_experts = args.n_experts;
  work.pairs = pairs;
  work.pieces = pieces;
  work.n_pieces = count;
  work.max_pieces = std::min(n_pairs, args.n_experts + n_pairs / cut.piece_rows);
  status = beside ? multiply_beside(args, layout, work, stream)
                  : multiply_grouped(args, gate, down, layout, work, stream);
  if (status != Status::kOk) return status;
  return combine(args, base + layout.results, beside ? Type::kBF16 : Type::kF32, stream);
}

}  // namespace

bool has_moe(formats::Format format) { return find(format) != nullptr; }

std::size_t moe_workspace(const MoeArgs& args) { return Layout(args).total; }

// Decoded matrices of one expert, hidden rows and results in f32.
std::size_t moe_reference_workspace(const MoeArgs& args) {
  const std::int64_t n_pairs = args.m * args.n_active;
  return static_cast<std::size_t>(3 * args.d_ff * args.d_model +
                                  n_pairs * (args.d_ff + args.d_model)) *
         4;
}

Status moe(const MoeArgs& args, Stream stream) {
  const ExpertKernels *gate = find(args.gate.format), *down = find(args.down.format);
  if (gate == nullptr || down == nullptr || args.n_experts > kMaxSorted)
    return Status::kUnsupported;
  if (!valid(args)) return Status::kBadArgument;
  if (args.workspace_bytes < Layout(args).total) return Status::kNoWorkspace;
  if (has_few_pairs(args)) {
    const Status status = moe_few(args, *gate, *down, stream);
    if (status != Status::kUnsupported) return status;  // y is as it was
  }
  return moe_grouped(args, *gate, *down, stream);
}

Status moe_reference(const MoeArgs& args, Stream stream) {
  if (!has_gemm(args.gate.format) || !has_gemm(args.down.format)) return Status::kUnsupported;
  if (!valid(args) || args.m > kReferenceTokens) return Status::kBadArgument;
  if (args.workspace_bytes < moe_reference_workspace(args)) return Status::kNoWorkspace;
  const std::int64_t n_pairs = args.m * args.n_active, size = args.d_ff * args.d_model;
  auto* gate = static_cast<float*>(args.workspace);
  float *up = gate + size, *down = up + size, *hidden = down + size;
  float* results = hidden + n_pairs * args.d_ff;
  const dim3 gate_grid(static_cast<unsigned>(args.d_ff), static_cast<unsigned>(n_pairs));
  const dim3 down_grid(static_cast<unsigned>(args.d_model), static_cast<unsigned>(n_pairs));
  for (std::int64_t e = 0; e < args.n_experts; ++e) {
    const auto matrix = [&](const ExpertMatrices& all, std::int64_t n, std::int64_t k) {
      const auto bytes = static_cast<std::size_t>(e) * packed_bytes(all.format, n, k);
      return Matrix{all.format, static_cast<const std::byte*>(all.tiles) + bytes, n, k};
    };
    const UnpackArgs parts[] = {
        {matrix(args.gate, args.d_ff, args.d_model), 0, args.d_ff, gate, Type::kF32},
        {matrix(args.up, args.d_ff, args.d_model), 0, args.d_ff, up, Type::kF32},
        {matrix(args.down, args.d_model, args.d_ff), 0, args.d_model, down, Type::kF32}};
    for (const UnpackArgs& part : parts) {
      const Status status = unpack(part, stream);
      if (status != Status::kOk) return status;
    }
    reference_gate_kernel<<<gate_grid, kWarp, 0, stream>>>(args, gate, up, e, hidden);
    reference_down_kernel<<<down_grid, kWarp, 0, stream>>>(args, down, e, hidden, results);
  }
  const Status status = launched();
  return status == Status::kOk ? combine(args, results, Type::kF32, stream) : status;
}

}  // namespace kt::kernels::cuda
