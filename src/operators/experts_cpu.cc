// Routed experts on the CPU in two parallel regions per layer: KExpertsCPU (weights as stored, or
// as its `backend` requantises them), KExpertsTorch (floats), KExpertsMarlin (groups of 4 or 8
// bits).
//
//   rows are grouped by expert (counting sort) →
//   region 1, tasks = (expert, chunk of d_ff): h = silu(x·gateᵀ) * (x·upᵀ), quantised in place for
//   down → region 2, tasks = chunk of d_model: for each expert in ascending id: result[row] +=
//   weight · (h·downᵀ)
//
// Each output value is summed by one thread in expert order: no reduction across threads, and a
// row's result does not depend on the rest of the batch.
#include <algorithm>
#include <cstring>

#include "operators/makers.h"

namespace kt::operators {
namespace {

namespace dot = kernels::dot;
using backend::PackedMatrix;
using backend::Q8Rows;

constexpr std::int64_t kFfChunk = 64;     // columns of h per task: two quantisation blocks
constexpr std::int64_t kModelChunk = 64;  // output columns per task
constexpr std::int64_t kPanel = 64;       // rows per kernel call

struct Expert {
  PackedMatrix gate, up, down;
};

// Rows of the batch in expert order.
struct Groups {
  std::int32_t* active = nullptr;  // [n_active_experts] ids of experts with rows
  std::int64_t n_active = 0;
  std::int32_t* begin = nullptr;  // [n_experts + 1] first grouped row of each expert
  std::int32_t* row = nullptr;    // [n_grouped] batch row
  float* weight = nullptr;        // [n_grouped]
  std::int64_t n_grouped = 0;
};

class CpuExperts : public Experts {
 public:
  CpuExperts(const Builder& at, const ExpertsSpec& spec, const Recode& recode)
      : Experts(at.site()),
        n_experts_(spec.config.moe.n_experts),
        d_model_(spec.config.d_model),
        d_ff_(spec.config.moe.d_ff),
        projections_(spec.projections),
        recode_(recode) {}

  std::vector<WeightSpec> weights() const override {
    std::vector<WeightSpec> specs;
    for (std::int64_t e = 0; e < n_experts_; ++e) {
      for (int p = 0; p < 3; ++p) specs.push_back(spec(e, p));
    }
    return specs;
  }

  void check(const io::WeightSource& source) const override {
    for (const WeightSpec& spec : weights()) {
      check_recode(source, require_tensor(source, spec), recode_);
    }
  }

  void load(Loader& loader) override {
    experts_.resize(static_cast<std::size_t>(n_experts_));
    for (std::int64_t e = 0; e < n_experts_; ++e) {
      Expert& expert = experts_[static_cast<std::size_t>(e)];
      expert.gate = loader.matrix(spec(e, 0), recode_);
      expert.up = loader.matrix(spec(e, 1), recode_);
      expert.down = loader.matrix(spec(e, 2), recode_);
      const Expert& first = experts_.front();
      if (&expert.gate.kernel() != &first.gate.kernel() ||
          &expert.up.kernel() != &first.up.kernel() ||
          &expert.down.kernel() != &first.down.kernel()) {
        fail(ErrorCode::kUnsupported, path(),
             "expert {} is stored in another format than expert 0; all "
             "experts of a layer must share one",
             e);
      }
    }
  }

  void unload() override { std::vector<Expert>().swap(experts_); }

  void collect(Step& step, const Ticket& ticket, MatrixF accumulate_into) noexcept override {
    for (std::int64_t r = 0; r < accumulate_into.n_rows; ++r) {
      step.cpu.elementwise->add(ticket.result.row(r), d_model_, accumulate_into.row(r));
    }
  }

  std::uint64_t weight_bytes() const override {
    std::uint64_t n = 0;
    for (const Expert& e : experts_) n += e.gate.bytes() + e.up.bytes() + e.down.bytes();
    return n;
  }
  std::string weight_format() const override {
    if (experts_.empty()) return {};
    const std::string gate(formats::traits(experts_.front().gate.format()).name);
    const std::string down(formats::traits(experts_.front().down.format()).name);
    return gate == down ? gate : gate + "+" + down;
  }
  std::string kernel_name() const override {
    return experts_.empty() ? std::string() : experts_.front().gate.kernel().name;
  }

 private:
  Ticket do_submit(Step& step, Activation& x, const Routing& routing) noexcept override {
    const Groups groups = group_rows(step, x.n_rows(), routing);
    const MatrixF result = step.arena.matrix(x.n_rows(), d_model_);
    const Expert& first = experts_.front();
    const Input gate_in = gather(step, x, first.gate, groups);
    const Input up_in =
        first.up.wants_q8() == first.gate.wants_q8() ? gate_in : gather(step, x, first.up, groups);
    const Hidden hidden = run_gate_up(step, gate_in, up_in, groups);
    run_down(step, hidden, groups, result);
    return {result};
  }

  // Hidden rows in the form the down projection reads.
  struct Hidden {
    Q8Rows q8;
    MatrixF f32;
    dot::ActRows view(std::int64_t row) const {
      if (!q8.empty()) return backend::offset_rows(q8.view(), row);
      dot::ActRows r;
      r.f32 = f32.row(row);
      r.f32_stride = f32.stride;
      return r;
    }
  };

  WeightSpec spec(std::int64_t expert, int projection) const {
    const bool down = projection == 2;
    return {path() + "." + std::to_string(expert) + "." +
                projections_[static_cast<std::size_t>(projection)] + ".weight",
            {down ? d_model_ : d_ff_, down ? d_ff_ : d_model_}};
  }

  Groups group_rows(Step& step, std::int64_t n_rows, const Routing& routing) const noexcept {
    Groups g;
    g.n_grouped = n_rows * routing.n_active;
    g.begin = step.arena.allocate<std::int32_t>(n_experts_ + 1);
    g.active = step.arena.allocate<std::int32_t>(n_experts_);
    g.row = step.arena.allocate<std::int32_t>(g.n_grouped);
    g.weight = step.arena.allocate<float>(g.n_grouped);
    std::fill(g.begin, g.begin + n_experts_ + 1, 0);
    for (std::int64_t i = 0; i < g.n_grouped; ++i) ++g.begin[routing.ids[i] + 1];
    for (std::int64_t e = 0; e < n_experts_; ++e) {
      if (g.begin[e + 1] != 0) g.active[g.n_active++] = static_cast<std::int32_t>(e);
      g.begin[e + 1] += g.begin[e];
    }
    auto* next = step.arena.allocate<std::int32_t>(n_experts_);
    std::copy(g.begin, g.begin + n_experts_, next);
    for (std::int64_t i = 0; i < g.n_grouped; ++i) {
      const std::int32_t slot = next[routing.ids[i]]++;
      g.row[slot] = static_cast<std::int32_t>(i / routing.n_active);
      g.weight[slot] = routing.weights[i];
    }
    return g;
  }

  // Input rows in grouped order; a single batch row serves all its groups as it is.
  struct Input {
    dot::ActRows rows;
    bool shared = false;
    dot::ActRows view(std::int64_t row) const {
      return shared ? rows : backend::offset_rows(rows, row);
    }
  };
  Input gather(Step& step, Activation& x, const PackedMatrix& matrix,
               const Groups& groups) const noexcept {
    const dot::ActRows in = x.rows_for(matrix, step.cpu, step.arena);
    if (x.n_rows() == 1) return {in, true};
    const std::int64_t k = matrix.k();
    if (in.q == nullptr) {
      const MatrixF rows = step.arena.matrix(groups.n_grouped, k);
      step.cpu.pool.run(groups.n_grouped, [&](std::int64_t i, int) {
        std::memcpy(rows.row(i), in.f32 + groups.row[i] * in.f32_stride,
                    static_cast<std::size_t>(k) * sizeof(float));
      });
      dot::ActRows out;
      out.f32 = rows.data;
      out.f32_stride = rows.stride;
      return {out};
    }
    const Q8Rows rows(step.cpu, step.arena, groups.n_grouped, k);
    step.cpu.pool.run(groups.n_grouped,
                      [&](std::int64_t i, int) { rows.copy(i, in, groups.row[i]); });
    return {rows.view()};
  }

  Hidden run_gate_up(Step& step, const Input& gate_in, const Input& up_in,
                     const Groups& groups) const noexcept {
    Hidden hidden;
    const bool q8 = experts_.front().down.wants_q8();
    if (q8) {
      hidden.q8 = Q8Rows(step.cpu, step.arena, groups.n_grouped, d_ff_);
    } else {
      hidden.f32 = step.arena.matrix(groups.n_grouped, d_ff_);
    }
    const std::int64_t chunks = (d_ff_ + kFfChunk - 1) / kFfChunk;
    const std::int64_t scratch_size = 2 * kPanel * kFfChunk;
    float* scratch = step.arena.allocate<float>(step.cpu.pool.size() * scratch_size);
    step.cpu.pool.run(groups.n_active * chunks, [&](std::int64_t task, int worker) {
      const std::int64_t e = groups.active[task / chunks];
      const std::int64_t col = task % chunks * kFfChunk;
      const std::int64_t n = std::min(kFfChunk, d_ff_ - col);
      float* gate = scratch + worker * scratch_size;
      float* up = gate + kPanel * kFfChunk;
      const Expert& expert = experts_[static_cast<std::size_t>(e)];
      for (std::int64_t r = groups.begin[e]; r < groups.begin[e + 1]; r += kPanel) {
        const std::int64_t m = std::min<std::int64_t>(kPanel, groups.begin[e + 1] - r);
        expert.gate.dot(gate_in.view(r), m, col, n, gate, kFfChunk);
        expert.up.dot(up_in.view(r), m, col, n, up, kFfChunk);
        for (std::int64_t i = 0; i < m; ++i) {
          float* h = q8 ? gate + i * kFfChunk : hidden.f32.row(r + i) + col;
          step.cpu.elementwise->silu_mul(gate + i * kFfChunk, up + i * kFfChunk, n, h);
          if (!q8) continue;
          hidden.q8.quantize(step.cpu, r + i, col, n, h);
        }
      }
    });
    return hidden;
  }

  void run_down(Step& step, const Hidden& hidden, const Groups& groups,
                MatrixF result) const noexcept {
    const std::int64_t chunks = (d_model_ + kModelChunk - 1) / kModelChunk;
    const std::int64_t scratch_size = kPanel * kModelChunk;
    float* scratch = step.arena.allocate<float>(step.cpu.pool.size() * scratch_size);
    step.cpu.pool.run(chunks, [&](std::int64_t task, int worker) {
      const std::int64_t col = task * kModelChunk;
      const std::int64_t n = std::min(kModelChunk, d_model_ - col);
      float* out = scratch + worker * scratch_size;
      for (std::int64_t r = 0; r < result.n_rows; ++r) {
        std::fill(result.row(r) + col, result.row(r) + col + n, 0.0f);
      }
      for (std::int64_t a = 0; a < groups.n_active; ++a) {
        const std::int64_t e = groups.active[a];
        for (std::int64_t r = groups.begin[e]; r < groups.begin[e + 1]; r += kPanel) {
          const std::int64_t m = std::min<std::int64_t>(kPanel, groups.begin[e + 1] - r);
          experts_[static_cast<std::size_t>(e)].down.dot(hidden.view(r), m, col, n, out,
                                                         kModelChunk);
          for (std::int64_t i = 0; i < m; ++i) {
            step.cpu.elementwise->scale_add(out + i * kModelChunk, groups.weight[r + i], n,
                                            result.row(groups.row[r + i]) + col);
          }
        }
      }
    });
  }

  std::int64_t n_experts_;
  std::int64_t d_model_;
  std::int64_t d_ff_;
  std::array<std::string, 3> projections_;
  Recode recode_;
  std::vector<Expert> experts_;
};

// The original's CPU kernel families, as what they do to the weights.
Recode backend_recode(const Builder& at) {
  const std::string backend = at.text("backend", "llamafile");
  if (backend == "AMXInt8") return {Recode::Kind::kGroup, 8, -1};
  if (backend == "AMXInt4") return {Recode::Kind::kGroup, 4, -1};
  if (backend == "AMXBF16") return {Recode::Kind::kBf16};
  return {};
}

}  // namespace

std::unique_ptr<Experts> make_stored_experts(const Builder& at, const ExpertsSpec& spec) {
  return std::make_unique<CpuExperts>(at, spec, backend_recode(at));
}

std::unique_ptr<Experts> make_dense_experts(const Builder& at, const ExpertsSpec& spec) {
  return std::make_unique<CpuExperts>(at, spec, Recode{Recode::Kind::kDense});
}

std::unique_ptr<Experts> make_group_experts(const Builder& at, const ExpertsSpec& spec) {
  return std::make_unique<CpuExperts>(at, spec, group_recode(at));
}

}  // namespace kt::operators
