// The kernels of GpuApi as loops on host memory: definitions, not fast. With them the stand-in
// (fake_gpu.cc) runs whole models, so that what surrounds the kernels is tested without a GPU.
// Weights keep their file layout. Thread rule: pure.
#pragma once
#include "backend/gpu/gpu_api.h"

namespace kt::backend::host_kernels {

using namespace kernels::cuda;

float load(const void* data, Type type, std::int64_t i);
void store(void* data, Type type, std::int64_t i, float value);

void unpack(const UnpackArgs& args);
void gemm(const GemmArgs& args, float factor);
void moe(const MoeArgs& args);
void attention(const AttentionArgs& args);
void widen_cache(const WidenArgs& args);
void store_latents(const StoreLatentsArgs& args);
void head_products(const HeadProductsArgs& args);
void prepare_heads(const HeadsArgs& args);
void add_rms_norm(const NormArgs& args);
void rope(const RopeArgs& args);
void silu_mul(const SiluArgs& args);
void add(const AddArgs& args);
void scale_rows(const ScaleArgs& args);
void route(const RouteArgs& args);
void score_and_route(const RouterArgs& args);
void gather_rows(const RowsArgs& args);
void scatter_add(const ScatterAddArgs& args);
void list_rows(const ListArgs& args, std::int32_t most);
void pack_n16(const PackN16Args& args);

}  // namespace kt::backend::host_kernels
