#include <algorithm>
#include <cmath>

#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/numbers.cuh"
#include "kernels/cuda/elementwise/elementwise.h"

namespace kt::kernels::cuda {
namespace {

constexpr int kNormBlock = 256;

__global__ void norm_kernel(NormArgs args) {
  start_next();
  await_previous();
  const std::int64_t row = blockIdx.x;
  const std::int64_t at = row * args.residual_stride;
  float squares = 0.0f;
  for (std::int64_t i = threadIdx.x; i < args.d; i += kNormBlock) {
    float v = load_as_float(args.residual, args.residual_type, at + i);
    if (args.delta != nullptr) {
      v += load_as_float(args.delta, args.delta_type, row * args.delta_stride + i);
      store_float(args.residual, args.residual_type, at + i, v);
      v = load_as_float(args.residual, args.residual_type, at + i);
    }
    squares += v * v;
  }
  const float scale = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(args.d) + args.eps);
  for (std::int64_t i = threadIdx.x; i < args.d; i += kNormBlock) {
    const float v = load_as_float(args.residual, args.residual_type, at + i);
    store_float(args.out, args.out_type, row * args.out_stride + i, v * scale * args.weight[i]);
  }
}

__device__ float4 load_four(const void* p, Type type, std::int64_t i) {
  if (type == Type::kF32) return *reinterpret_cast<const float4*>(static_cast<const float*>(p) + i);
  const uint2 v = *reinterpret_cast<const uint2*>(static_cast<const std::uint16_t*>(p) + i);
  return make_float4(low_bf16(v.x), high_bf16(v.x), low_bf16(v.y), high_bf16(v.y));
}
__device__ void store_four(void* p, Type type, std::int64_t i, float4 v) {
  if (type == Type::kF32) {
    *reinterpret_cast<float4*>(static_cast<float*>(p) + i) = v;
  } else {
    *reinterpret_cast<uint2*>(static_cast<std::uint16_t*>(p) + i) =
        make_uint2(bf16_pair(v.x, v.y), bf16_pair(v.z, v.w));
  }
}

constexpr int kNormFours = 4;  // of a thread
constexpr std::int64_t kNormThreads = 1024;

/// Rows of whole fours that a block holds in its registers; a float residual.
__global__ void __launch_bounds__(kNormThreads) norm_rows_kernel(NormArgs args) {
  start_next();
  const std::int64_t row = blockIdx.x;
  float4 weight[kNormFours], v[kNormFours];
#pragma unroll
  for (int j = 0; j < kNormFours; ++j) {
    const std::int64_t i = 4 * (threadIdx.x + j * blockDim.x);
    if (i < args.d) weight[j] = load_four(args.weight, Type::kF32, i);
  }
  await_previous();
  float squares = 0.0f;
#pragma unroll
  for (int j = 0; j < kNormFours; ++j) {
    const std::int64_t i = 4 * (threadIdx.x + j * blockDim.x);
    if (i >= args.d) break;
    v[j] = load_four(args.residual, Type::kF32, row * args.residual_stride + i);
    if (args.delta != nullptr) {
      const float4 delta = load_four(args.delta, args.delta_type, row * args.delta_stride + i);
      v[j] = make_float4(v[j].x + delta.x, v[j].y + delta.y, v[j].z + delta.z, v[j].w + delta.w);
      store_four(args.residual, Type::kF32, row * args.residual_stride + i, v[j]);
    }
    squares += v[j].x * v[j].x + v[j].y * v[j].y + (v[j].z * v[j].z + v[j].w * v[j].w);
  }
  const float scale = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(args.d) + args.eps);
#pragma unroll
  for (int j = 0; j < kNormFours; ++j) {
    const std::int64_t i = 4 * (threadIdx.x + j * blockDim.x);
    if (i >= args.d) break;
    store_four(args.out, args.out_type, row * args.out_stride + i,
               make_float4(v[j].x * scale * weight[j].x, v[j].y * scale * weight[j].y,
                           v[j].z * scale * weight[j].z, v[j].w * scale * weight[j].w));
  }
}

/// Whether a block's registers hold the rows, in whole fours.
bool fits_norm_rows(const NormArgs& args) {
  const auto aligned = [](const void* p, Type type, std::int64_t stride) {
    return reinterpret_cast<std::uintptr_t>(p) % (4 * type_bytes(type)) == 0 && stride % 4 == 0;
  };
  return args.residual_type == Type::kF32 && args.d % 4 == 0 &&
         args.d <= 4 * kNormFours * kNormThreads &&
         aligned(args.residual, args.residual_type, args.residual_stride) &&
         aligned(args.delta, args.delta_type, args.delta == nullptr ? 0 : args.delta_stride) &&
         aligned(args.weight, Type::kF32, 0) && aligned(args.out, args.out_type, args.out_stride);
}

}  // namespace

Status add_rms_norm(const NormArgs& args, Stream stream) {
  if (args.m <= 0 || args.d <= 0) return Status::kBadArgument;
  const auto blocks = static_cast<unsigned>(args.m);
  if (!fits_norm_rows(args)) return launch(norm_kernel, blocks, kNormBlock, 0, stream, args);
  const std::int64_t wanted = div_up<std::int64_t>(args.d / 4, kWarp) * kWarp;
  const auto threads = static_cast<unsigned>(std::min(wanted, kNormThreads));
  return launch(norm_rows_kernel, blocks, threads, 0, stream, args);
}

}  // namespace kt::kernels::cuda
