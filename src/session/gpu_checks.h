// The start-up check of a model's GPUs: the kernels that its modules use there beside their slow
// twins (backend/gpu/self_check.h), before anything is computed with them.
//
//   modules on cuda:N → formats of products and experts, heads of attention → check_gpu → refusal
//
// Thread rule: one thread.
#pragma once
#include <memory>
#include <span>

#include "backend/gpu/self_check.h"
#include "operators/kinds.h"

namespace kt::session {

/// The kernels of a model's modules on a GPU, from headers. kv: what --kv says.
backend::GpuKernels gpu_kernels(operators::Model& model, const io::WeightSource& source, int gpu,
                                tensor::Format kv);

/// Throws kUnsupported when a kernel fails or computes something else than its slow twin: which GPU
/// and kernel, by how much, and what to do. Wants kGpuCheckBytes free on each.
void check_gpu_kernels(operators::Model& model, const io::WeightSource& source,
                       std::span<const std::unique_ptr<backend::Gpu>> gpus, tensor::Format kv);

}  // namespace kt::session
