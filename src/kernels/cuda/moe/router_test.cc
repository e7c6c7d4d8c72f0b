// The router in one launch against its product and its choice by themselves.
#include "kernels/cuda/moe/router.h"

#include "base/test_random.h"
#include "kernels/cuda/test_device.h"

namespace kt::kernels::cuda {
namespace {

using formats::Format;
using Router = OnDevice;

struct Case {
  std::int64_t n_experts, n_active, d_model;
  bool bias, sigmoid;
};

TEST_F(Router, IsTheProductAndTheChoice) {
  for (const Case& c : {Case{128, 8, 2048, false, false}, Case{7, 3, 32, true, false},
                        Case{250, 8, 7168, true, true}, Case{512, 10, 96, false, true},
                        Case{60, 4, 1056, false, false}, Case{600, 4, 64, true, false},
                        Case{16, 2, 100, false, false}}) {
    const Device<float> rows(gaussian(c.n_experts * c.d_model, 1)), bias(gaussian(c.n_experts, 2));
    const Device<std::uint16_t> x(as_bf16(gaussian(c.d_model, 3)));
    Device<std::byte> tiles(
        static_cast<std::int64_t>(packed_bytes(Format::kF32, c.n_experts, c.d_model)));
    ASSERT_EQ(pack(Format::kF32, rows.get(), c.n_experts, c.d_model, tiles.get(), nullptr),
              Status::kOk);
    Device<float> scores(c.n_experts), weights(c.n_active), want_weights(c.n_active);
    Device<std::int32_t> ids(c.n_active), want_ids(c.n_active);
    RouterArgs args;
    args.product.w = {Format::kF32, tiles.get(), c.n_experts, c.d_model};
    args.product.x = x.get();
    args.product.x_stride = c.d_model;
    args.product.m = 1;
    args.product.y = scores.get();
    args.product.y_stride = c.n_experts;
    Device<std::byte> workspace(
        static_cast<std::int64_t>(gemm_workspace(args.product.w, 1, info_)));
    args.product.workspace = workspace.get();
    args.product.workspace_bytes = workspace.bytes();
    args.route.scores = scores.get();
    args.route.bias = c.bias ? bias.get() : nullptr;
    args.route.m = 1;
    args.route.n_experts = c.n_experts;
    args.route.n_active = c.n_active;
    args.route.sigmoid = c.sigmoid;
    args.route.normalize = true;
    args.route.ids = want_ids.get();
    args.route.weights = want_weights.get();
    ASSERT_EQ(gemm(args.product, info_, nullptr, nullptr), Status::kOk);
    ASSERT_EQ(route(args.route, nullptr), Status::kOk);
    args.route.ids = ids.get();
    args.route.weights = weights.get();
    ASSERT_EQ(score_and_route(args, info_, nullptr, nullptr), Status::kOk) << device_error_text();
    EXPECT_EQ(ids.host(), want_ids.host()) << c.n_experts << " experts";
    const std::vector<float> got = weights.host(), want = want_weights.host();
    Compare compare("weights of " + std::to_string(c.n_experts));
    for (std::size_t i = 0; i < got.size(); ++i)
      compare.value(got[i], want[i], 2e-4 * want[i], static_cast<std::int64_t>(i));
  }
}

}  // namespace
}  // namespace kt::kernels::cuda
