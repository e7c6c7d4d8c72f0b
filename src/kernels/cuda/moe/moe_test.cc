// Expert products against loops in double precision over decoded weights: pairs as pieces of their
// own, pairs sorted by expert, ids that live elsewhere, and the slow twin.
//
// Bound: hidden rows are rounded to bf16, 2^-9 of each, besides the sums of gemm_test.cc; kernels
// of gemm/many_rows.h round weights as well.
#include "kernels/cuda/moe/moe.h"

#include "base/test_random.h"
#include "kernels/cuda/gemm/gemm.h"
#include "kernels/cuda/gemm/many_rows.h"
#include "kernels/cuda/test_device.h"

namespace kt::kernels::cuda {
namespace {

using formats::Format;

/// All experts' matrices of one kind: on the device packed, here decoded.
struct Experts {
  Experts(Format format_, std::int64_t n_experts, std::int64_t n_, std::int64_t k_, unsigned seed)
      : format(format_),
        n(n_),
        k(k_),
        tiles(n_experts * static_cast<std::int64_t>(packed_bytes(format_, n_, k_))) {
    const std::size_t row = formats::row_bytes(format, k);
    values.resize(static_cast<std::size_t>(n_experts * n * k));
    for (std::int64_t e = 0; e < n_experts; ++e) {
      const std::vector<float> x = gaussian(n * k, seed + static_cast<unsigned>(e), 0.1f);
      std::vector<std::byte> bytes(static_cast<std::size_t>(n) * row);
      for (std::int64_t r = 0; r < n; ++r) {
        std::byte* at = bytes.data() + static_cast<std::size_t>(r) * row;
        formats::traits(format).encode(x.data() + r * k, nullptr, at, k);
        formats::traits(format).decode(at, values.data() + (e * n + r) * k, k);
      }
      const Device<std::byte> rows(bytes);
      std::byte* to = tiles.get() + static_cast<std::size_t>(e) * packed_bytes(format, n, k);
      EXPECT_EQ(pack(format, rows.get(), n, k, to, nullptr), Status::kOk);
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    }
  }
  const float* expert(std::int64_t e) const { return values.data() + e * n * k; }
  Format format;
  std::int64_t n, k;
  Device<std::byte> tiles;
  std::vector<float> values;
};

double dot(const float* w, const double* x, std::int64_t k, double* size) {
  double sum = 0.0;
  *size = 0.0;
  for (std::int64_t i = 0; i < k; ++i) {
    sum += w[i] * x[i];
    *size += std::fabs(w[i] * x[i]);
  }
  return sum;
}

struct Case {
  std::int64_t m, n_active, n_experts, d_model, d_ff;
  Format gate, down;
  bool add = false, reference = false, portable = false;
};

/// The definition: y and for each value the sum of the products' sizes.
void expected(const Case& c, const Experts& gate, const Experts& up, const Experts& down,
              const std::vector<float>& x, const std::vector<std::int32_t>& ids,
              const std::vector<float>& weights, std::vector<double>* y,
              std::vector<double>* sizes) {
  for (std::int64_t i = 0; i < c.m; ++i) {
    const std::vector<double> row(x.begin() + i * c.d_model, x.begin() + (i + 1) * c.d_model);
    for (std::int64_t j = 0; j < c.n_active; ++j) {
      const auto pair = static_cast<std::size_t>(i * c.n_active + j);
      const std::int64_t e = ids[pair];
      if (e < 0 || e >= c.n_experts) continue;
      std::vector<double> hidden(static_cast<std::size_t>(c.d_ff));
      double size = 0.0;
      for (std::int64_t r = 0; r < c.d_ff; ++r) {
        const double g = dot(gate.expert(e) + r * c.d_model, row.data(), c.d_model, &size);
        const double u = dot(up.expert(e) + r * c.d_model, row.data(), c.d_model, &size);
        hidden[static_cast<std::size_t>(r)] = g / (1.0 + std::exp(-g)) * u;
      }
      for (std::int64_t r = 0; r < c.d_model; ++r) {
        const auto at = static_cast<std::size_t>(i * c.d_model + r);
        (*y)[at] += weights[pair] * dot(down.expert(e) + r * c.d_ff, hidden.data(), c.d_ff, &size);
        (*sizes)[at] += std::fabs(weights[pair]) * size;
      }
    }
  }
}

void run_case(const Case& c) {
  const Experts gate(c.gate, c.n_experts, c.d_ff, c.d_model, 100),
      up(c.gate, c.n_experts, c.d_ff, c.d_model, 200);
  const Experts down(c.down, c.n_experts, c.d_model, c.d_ff, 300);
  const std::vector<float> x = rounded(gaussian(c.m * c.d_model, 1)),
                           weights = gaussian(c.m * c.n_active, 2);
  std::mt19937 rng(3);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(c.m * c.n_active));
  for (std::int32_t& id : ids)
    id = static_cast<std::int32_t>(rng() % static_cast<unsigned>(c.n_experts + 1)) -
         (rng() % 8 == 0);
  const std::vector<float> before = gaussian(c.m * c.d_model, 4);

  const Device<std::uint16_t> x_device(as_bf16(x));
  const Device<std::int32_t> ids_device(ids);
  const Device<float> weights_device(weights);
  Device<float> y(before);
  MoeArgs args;
  args.gate = {c.gate, gate.tiles.get()};
  args.up = {c.gate, up.tiles.get()};
  args.down = {c.down, down.tiles.get()};
  args.n_experts = c.n_experts;
  args.d_model = c.d_model;
  args.d_ff = c.d_ff;
  args.x = x_device.get();
  args.x_stride = args.y_stride = c.d_model;
  args.m = c.m;
  args.n_active = c.n_active;
  args.ids = ids_device.get();
  args.weights = weights_device.get();
  args.y = y.get();
  args.add = c.add;
  args.portable = c.portable;
  Device<std::byte> workspace(
      static_cast<std::int64_t>(c.reference ? moe_reference_workspace(args) : moe_workspace(args)));
  args.workspace = workspace.get();
  args.workspace_bytes = workspace.bytes();
  const Status status = c.reference ? moe_reference(args, nullptr) : moe(args, nullptr);
  ASSERT_EQ(status, Status::kOk) << status_text(status) << ": " << device_error_text();

  std::vector<double> want(before.size()), sizes(before.size());
  if (c.add) want.assign(before.begin(), before.end());
  expected(c, gate, up, down, x, ids, weights, &want, &sizes);
  const std::vector<float> got = y.host();
  Compare compare(std::string(formats::traits(c.gate).name) + " m " + std::to_string(c.m));
  const bool few = c.m <= 4 || 4 * c.m * c.n_active <= 5 * c.n_experts;
  const bool rounds_weights =
      !few && !c.portable && (has_many_rows(c.gate) || has_many_rows(c.down));
  const double share = c.reference ? 1e-5 : rounds_weights ? 0x1.8p-8 : 0x1p-8;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double bound = share * sizes[i] + 1e-5 * std::fabs(want[i]) + 1e-9;
    compare.value(got[i], want[i], bound, static_cast<std::int64_t>(i));
  }
}

class Moe : public OnDevice, public ::testing::WithParamInterface<Format> {};

TEST_P(Moe, FewTokens) {
  for (const std::int64_t m : {1, 3})
    run_case({m, 2, 5, 256, 256, GetParam(), GetParam(), m == 1, false});
  run_case({2, 3, 3, 768, 512, GetParam(), Format::kQ6_K, false, false});
}

TEST_P(Moe, AsManyPairsAsExperts) { run_case({9, 2, 16, 256, 256, GetParam(), GetParam(), true}); }

// Pieces of every size, an expert without any; on Hopper those of gemm/many_rows.h too.
TEST_P(Moe, SortedTokens) {
  for (const bool portable : {false, true}) {
    run_case({5, 2, 7, 256, 256, GetParam(), GetParam(), true, false, portable});
    run_case({67, 2, 3, 512, 256, GetParam(), GetParam(), false, false, portable});
    run_case({300, 3, 4, 256, 512, GetParam(), GetParam(), false, false, portable});
    run_case({90, 2, 5, 512, 256, GetParam(), Format::kQ6_K, true, false, portable});
  }
}

TEST_P(Moe, Reference) { run_case({3, 2, 3, 256, 256, GetParam(), GetParam(), false, true}); }

std::vector<Format> all_formats() {
  return {
#define EXPERTS(id) Format::id,
#include "kernels/cuda/moe/kernels.inc"
#undef EXPERTS
  };
}

INSTANTIATE_TEST_SUITE_P(Formats, Moe, ::testing::ValuesIn(all_formats()), [](const auto& param) {
  return std::string(formats::traits(param.param).name);
});

using MoeOnce = OnDevice;

TEST_F(MoeOnce, ManyExpertsAndRowsThatFillNoTile) {
  run_case({9, 4, 130, 64, 96, Format::kQ4_0, Format::kQ8_0, false, false});
  run_case({2, 8, 130, 4256, 96, Format::kQ8_0, Format::kQ4_0, true, false});
  run_case({40, 8, 33, 96, 64, Format::kQ8_0, Format::kQ4_0, true, false});
  run_case({130, 3, 4, 96, 160, Format::kQ4_0, Format::kQ8_0, false, false});
}

}  // namespace
}  // namespace kt::kernels::cuda
