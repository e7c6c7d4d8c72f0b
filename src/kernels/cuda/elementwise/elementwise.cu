#include <cmath>

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/numbers.cuh"
#include "kernels/cuda/elementwise/elementwise.h"

namespace kt::kernels::cuda {
namespace {

constexpr int kBlock = 256;

__global__ void rope_kernel(RopeArgs args) {
  start_next();
  await_previous();
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
  start_next();
  await_previous();
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= args.m * args.d) return;
  const std::int64_t from = i / args.d * args.stride + i % args.d;
  const float gate = load_as_float(args.gate, args.type, from);
  store_float(args.out, args.out_type, i, silu(gate) * load_as_float(args.up, args.type, from));
}

__global__ void add_kernel(AddArgs args) {
  start_next();
  await_previous();
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= args.m * args.n) return;
  const std::int64_t from = i / args.n * args.x_stride + i % args.n;
  store_float(args.y, args.y_type, i,
              load_as_float(args.y, args.y_type, i) + load_as_float(args.x, args.x_type, from));
}

__global__ void scale_kernel(ScaleArgs args) {
  start_next();
  await_previous();
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  if (i >= args.m * args.n) return;
  const float scale = 1.0f / (1.0f + expf(-args.gate[i / args.n]));
  store_float(args.y, args.y_type, i, load_as_float(args.y, args.y_type, i) * scale);
}

__global__ void scatter_add_kernel(ScatterAddArgs args) {
  start_next();
  await_previous();
  const std::int32_t begin = args.begins[blockIdx.x], end = args.begins[blockIdx.x + 1];
  float* y = args.y + args.rows[blockIdx.x] * args.d;
  for (std::int64_t i = threadIdx.x; i < args.d; i += blockDim.x) {
    float sum = y[i];
    for (std::int64_t r = begin; r < end; ++r) sum += args.x[r * args.d + i];
    y[i] = sum;
  }
}

__global__ void rows_kernel(RowsArgs args) {
  start_next();
  await_previous();
  const std::int64_t row = blockIdx.x;
  for (std::int64_t i = threadIdx.x; i < args.d; i += kBlock) {
    store_float(args.out, args.out_type, row * args.d + i,
                load_as_float(args.table, args.table_type, args.ids[row] * args.d + i));
  }
}

unsigned grid(std::int64_t blocks) { return static_cast<unsigned>(blocks); }

/// One thread for each of n values.
template <class Args>
Status launch_each(void (*kernel)(Args), std::int64_t n, const Args& args, Stream stream) {
  return launch(kernel, grid(div_up<std::int64_t>(n, kBlock)), kBlock, 0, stream, args);
}

}  // namespace

Status rope(const RopeArgs& args, Stream stream) {
  if (args.n_tokens <= 0 || args.n_heads <= 0 || args.d <= 0 || args.d % 2 != 0)
    return Status::kBadArgument;
  return launch(rope_kernel, grid(args.n_tokens), kBlock, 0, stream, args);
}

Status silu_mul(const SiluArgs& args, Stream stream) {
  if (args.m <= 0 || args.d <= 0 || args.stride < args.d) return Status::kBadArgument;
  return launch_each(silu_kernel, args.m * args.d, args, stream);
}

Status add(const AddArgs& args, Stream stream) {
  const bool strides = args.x_stride == 0 || args.x_stride >= args.n;
  if (args.m <= 0 || args.n <= 0 || !strides) return Status::kBadArgument;
  return launch_each(add_kernel, args.m * args.n, args, stream);
}

Status scale_rows(const ScaleArgs& args, Stream stream) {
  if (args.m <= 0 || args.n <= 0) return Status::kBadArgument;
  return launch_each(scale_kernel, args.m * args.n, args, stream);
}

Status gather_rows(const RowsArgs& args, Stream stream) {
  if (args.m <= 0 || args.d <= 0) return Status::kBadArgument;
  return launch(rows_kernel, grid(args.m), kBlock, 0, stream, args);
}

Status scatter_add(const ScatterAddArgs& args, Stream stream) {
  if (args.m <= 0 || args.d <= 0) return Status::kBadArgument;
  return launch(scatter_add_kernel, grid(args.m), kBlock, 0, stream, args);
}

}  // namespace kt::kernels::cuda
