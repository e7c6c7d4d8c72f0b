// The router of a layer: the product that scores experts and the choice among them, in one launch
// for one row of x where the device has clusters of blocks (compute capability 9), weights are
// floats and experts have no groups. Else gemm() and route(), which are the slow twin.
// Thread rule: status.h.
#pragma once
#include "kernels/cuda/elementwise/elementwise.h"
#include "kernels/cuda/gemm/gemm.h"

namespace kt::kernels::cuda {

struct RouterArgs {
  GemmArgs product;  // its y, f32, is work memory
  RouteArgs route;   // its scores are the product's y
};
Status score_and_route(const RouterArgs& args, const DeviceInfo& device, BlasLt* blas,
                       Stream stream);

}  // namespace kt::kernels::cuda
