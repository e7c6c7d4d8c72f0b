#include "kernels/cuda/gemm/many_rows.h"

#include "kernels/cuda/device/hopper.h"

namespace kt::kernels::cuda {
namespace {

using Kernel = Status (*)(const ManyArgs& args, Stream stream);

Kernel find(formats::Format format) {
  switch (format) {
#define MANY(id) \
  case formats::Format::id: return &many_rows<formats::Format::id>;
#include "kernels/cuda/gemm/many_rows.inc"
#undef MANY
    default: return nullptr;
  }
}

}  // namespace

bool has_many_rows(formats::Format format) { return find(format) != nullptr && has_wgmma(); }

Status multiply_many_rows(formats::Format format, const ManyArgs& args, Stream stream) {
  const Kernel kernel = find(format);
  return kernel == nullptr ? Status::kUnsupported : kernel(args, stream);
}

}  // namespace kt::kernels::cuda
