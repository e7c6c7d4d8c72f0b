#include "kernels/cuda/gemm/many_rows.h"

#include <algorithm>

#include "kernels/cuda/device/hopper.h"

namespace kt::kernels::cuda {
namespace {

const ManyKernels* find(formats::Format format) {
  switch (format) {
#define MANY(id) \
  case formats::Format::id: return &many_kernels<formats::Format::id>();
#include "kernels/cuda/gemm/many_rows.inc"
#undef MANY
    default: return nullptr;
  }
}

std::int64_t parts(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// Microseconds of `rounds` pieces of work of one block, one after the other.
double cost_of(const ManyPlan& plan, std::int64_t rounds, std::int64_t k) {
  // Measured: 16 k of 128 rows of w, how a piece begins and ends, what adding parts takes.
  const double step = plan.rows == 256 ? 0.162 : plan.rows == 128 ? 0.103 : 0.083;
  const double adding = plan.splits == 1   ? 0.0
                        : plan.rows == 128 ? 3.2 + 0.5 * plan.splits
                                           : 2.4 + 0.1 * plan.splits;
  const double length = static_cast<double>(k) / 16.0 / plan.splits;
  return static_cast<double>(rounds) * (length * step + 3.0 + adding);
}

}  // namespace

ManyPlan plan_many_rows(std::int64_t n, std::int64_t k, std::int64_t m, int n_sms) {
  ManyPlan best;
  best.cost = cost_of(best, parts(parts(n, 256) * parts(m, 256), std::max(n_sms / 2, 1)), k);
  for (const int rows : {128, 64}) {
    for (int splits = 1; splits <= 8 && splits * 256 <= std::max<std::int64_t>(k, 256);
         splits *= 2) {
      ManyPlan plan{rows, 1, splits};
      // Larger clusters leave some of the groups of multiprocessors partly idle.
      const int room = splits >= 4 ? std::max(n_sms * 6 / 7, 1) : n_sms;
      plan.cost = cost_of(plan, parts(parts(n, 128) * parts(m, rows) * splits, room), k);
      if (plan.cost < best.cost) best = plan;
    }
  }
  return best;
}

ManyLaunches plan_many_launches(std::int64_t n, std::int64_t k, std::int64_t m, int n_sms) {
  ManyLaunches best{m, plan_many_rows(n, k, m, n_sms), {}, 0.0};
  best.cost = best.first.cost;
  const std::int64_t column = parts(n, 256), clusters = std::max(n_sms / 2, 1);
  const std::int64_t whole_rounds = column * (m / 256) / clusters;
  const std::int64_t rows = whole_rounds * clusters / column * 256;
  if (rows == 0 || rows >= m) return best;
  ManyLaunches two{rows, plan_many_rows(n, k, rows, n_sms), plan_many_rows(n, k, m - rows, n_sms),
                   0.0};
  two.cost = two.first.cost + two.rest.cost;
  return two.cost < best.cost ? two : best;
}

bool has_many_rows(formats::Format format) { return find(format) != nullptr && has_wgmma(); }

Status multiply_many_rows(formats::Format format, const ManyArgs& args, const ManyPlan& plan,
                          Stream stream) {
  const ManyKernels* kernels = find(format);
  return kernels == nullptr ? Status::kUnsupported : kernels->dense(args, plan, stream);
}

Status multiply_experts(formats::Format format, const ManyArgs& args, Stream stream) {
  const ManyKernels* kernels = find(format);
  if (kernels == nullptr) return Status::kUnsupported;
  return args.second != nullptr ? kernels->gate(args, stream) : kernels->down(args, stream);
}

}  // namespace kt::kernels::cuda
