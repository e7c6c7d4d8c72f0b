#include "session/gpu_checks.h"

#include <algorithm>

#include "operators/gpu_attention.h"
#include "operators/gpu_weights.h"
#include "operators/phased.h"
#include "operators/placement.h"

namespace kt::session {
namespace {

using backend::GpuCheck;

[[noreturn]] void refuse(const backend::Gpu& gpu, const GpuCheck& check) {
  const std::string found =
      check.outcome == GpuCheck::Outcome::kFailed
          ? "cannot run: " + check.problem
          : fmt::format("differ from the slow ones by {:.1e}, {:.0e} at most are rounding",
                        check.error, backend::kLargestGpuError);
  fail(ErrorCode::kUnsupported,
       fmt::format("{} ({})", operators::gpu_name(gpu.index()), gpu.description().name),
       "the kernels for {} ({}) {}; update the driver, build the plug-in anew with ./dev "
       "gpu-build, leave this GPU out with CUDA_VISIBLE_DEVICES, or use none with --gpus 0 (kt "
       "doctor tests all kernels)",
       check.family, check.what, found);
}

}  // namespace

backend::GpuKernels gpu_kernels(operators::Model& model, const io::WeightSource& source, int gpu,
                                tensor::Format kv) {
  backend::GpuKernels kernels;
  const auto add = [&](const operators::Module& module) {
    const auto* experts = dynamic_cast<const operators::Experts*>(&module);
    const bool here = operators::gpu_index(module.site().device) == gpu;
    const bool comes = experts != nullptr && experts->streams_to() == gpu;
    if ((!here && !comes) || module.kind() == "Embedding") return;
    const operators::Kept kept = module.kept(source, backend::ActPolicy::kQ16);
    if (kept.matrices.empty()) return;
    const auto has_kernels = [](const operators::KeptMatrix& m) {
      return operators::gpu_has_experts(m.format);
    };
    if (!here && !std::all_of(kept.matrices.begin(), kept.matrices.end(), has_kernels)) return;
    kernels.lists |= module.path() == "lm_head";
    if (experts != nullptr) {
      kernels.experts.emplace(kept.matrices.front().format, kept.matrices.back().format);
      if (here) return;
      for (const operators::KeptMatrix& m : kept.matrices) kernels.streamed.insert(m.format);
      return;
    }
    for (const operators::KeptMatrix& m : kept.matrices) kernels.products.insert(m.format);
  };
  operators::walk(model, [&](operators::Module& module) {
    add(module);
    if (const auto* phased = dynamic_cast<const operators::Phased*>(&module))
      add(phased->in(operators::Phase::kPrefill));
  });
  const io::MlaConfig& mla = source.config().mla;
  const kernels::cuda::CacheType cache = operators::gpu_cache_type(tensor::gpu_cache_format(kv));
  for (const tensor::KvLayerSpec& layer : model.state_spec()) {
    if (layer.gpu != gpu) continue;
    const std::int64_t dim = layer.streams.front().dim;
    if (layer.streams.size() == 2) {
      kernels.attention.insert({dim, layer.streams.back().dim, false, cache});
    } else {
      kernels.attention.insert({dim, mla.kv_lora_rank, true, cache});
      // And prompts whose keys are expanded.
      kernels.attention.insert({mla.qk_nope_dim + mla.qk_rope_dim, mla.v_head_dim, false});
    }
  }
  return kernels;
}

void check_gpu_kernels(operators::Model& model, const io::WeightSource& source,
                       std::span<const std::unique_ptr<backend::Gpu>> gpus, tensor::Format kv) {
  for (const auto& gpu : gpus) {
    for (const GpuCheck& check :
         backend::check_gpu(*gpu, gpu_kernels(model, source, gpu->index(), kv))) {
      if (check.outcome == GpuCheck::Outcome::kDiffers ||
          check.outcome == GpuCheck::Outcome::kFailed) {
        refuse(*gpu, check);
      }
    }
  }
}

}  // namespace kt::session
