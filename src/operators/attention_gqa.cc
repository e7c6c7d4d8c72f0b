// KGroupedQueryAttention:
//   q, k, v = x·Wq, x·Wk, x·Wv → [norm of q and k heads] → rotary → k, v into the cache → attention
//   → o
#include <algorithm>
#include <cmath>

#include "operators/attend.h"
#include "operators/gpu_attention.h"
#include "operators/makers.h"

namespace kt::operators {
namespace {

// What it is made of, on any device.
class GroupedQueryBase : public Attention {
 public:
  GroupedQueryBase(const Builder& at, const GqaSpec& spec)
      : Attention(at.site()),
        n_heads_(spec.config.n_heads),
        n_kv_heads_(spec.config.n_kv_heads),
        head_dim_(spec.config.head_dim),
        window_(spec.window),
        scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim_)))),
        rotary_(spec.rotary) {
    const io::ModelConfig& c = spec.config;
    const Builder b = at.under(*this);
    q_proj_ = b.linear("q_proj", n_heads_ * head_dim_, c.d_model, c.attention_bias);
    k_proj_ = b.linear("k_proj", n_kv_heads_ * head_dim_, c.d_model, c.attention_bias);
    v_proj_ = b.linear("v_proj", n_kv_heads_ * head_dim_, c.d_model, c.attention_bias);
    o_proj_ = b.linear("o_proj", c.d_model, n_heads_ * head_dim_, c.attention_out_bias);
    if (spec.qk_norm) {
      q_norm_ = b.norm("q_norm", head_dim_, c.norm_eps);
      k_norm_ = b.norm("k_norm", head_dim_, c.norm_eps);
    }
  }

  tensor::KvLayerSpec state_spec() const override {
    return {{{"k", n_kv_heads_, head_dim_}, {"v", n_kv_heads_, head_dim_}}};
  }

 protected:
  std::int64_t n_heads_, n_kv_heads_, head_dim_, window_;
  float scale_;
  Rotary& rotary_;
  std::unique_ptr<Linear> q_proj_, k_proj_, v_proj_, o_proj_;
  std::unique_ptr<Norm> q_norm_, k_norm_;
};

class CpuGroupedQuery : public GroupedQueryBase {
 public:
  using GroupedQueryBase::GroupedQueryBase;

 private:
  void do_run(Step& step, std::int64_t layer, Activation& x, Activation& delta) noexcept override {
    const tensor::KvLayerView& kv = step.kv[static_cast<std::size_t>(layer)];
    Activation queries(step, x.n_rows(), q_proj_->n_out());
    Activation keys(step, x.n_rows(), k_proj_->n_out());
    Activation values(step, x.n_rows(), v_proj_->n_out());
    const LinearCall calls[] = {
        {q_proj_.get(), &queries}, {k_proj_.get(), &keys}, {v_proj_.get(), &values}};
    run_siblings(step, x, calls);

    const MatrixF q = queries.update(), k = keys.update();
    const ConstMatrixF v = values.f32();
    for_positions(step, [&](std::int64_t row, const SequenceRows& s, std::int64_t position) {
      rotate(step, row, q.row(row), n_heads_, q_norm_.get());
      rotate(step, row, k.row(row), n_kv_heads_, k_norm_.get());
      for (std::int64_t h = 0; h < n_kv_heads_; ++h) {
        step.cpu.attention->store(kv.streams[0].format, k.row(row) + h * head_dim_, head_dim_,
                                  kv.streams[0].at(s.pages, position, h));
        step.cpu.attention->store(kv.streams[1].format, v.row(row) + h * head_dim_, head_dim_,
                                  kv.streams[1].at(s.pages, position, h));
      }
    });

    Activation mixed(step, x.n_rows(), q_proj_->n_out());
    AttendArgs args;
    args.q = q.data;
    args.n_heads = n_heads_;
    args.n_kv_heads = n_kv_heads_;
    args.dim_qk = head_dim_;
    args.dim_v = head_dim_;
    args.scale = scale_;
    args.window = window_;
    args.k = kv.streams[0];
    args.v = kv.streams[1];
    args.out = mixed.write().data;
    attend(step, step.batch.sequences, args);
    o_proj_->run(step, mixed, delta);
  }

  void rotate(Step& step, std::int64_t row, float* x, std::int64_t n_heads, Norm* norm) noexcept {
    if (norm != nullptr) norm->run_vectors(step, x, n_heads, head_dim_);
    for (std::int64_t h = 0; h < n_heads; ++h) {
      step.cpu.elementwise->rope_half(rotary_.cos(row), rotary_.sin(row), head_dim_,
                                      x + h * head_dim_);
    }
  }
};

// In bf16, with the cache of its layer on the GPU.
class GpuGroupedQuery : public GroupedQueryBase {
  using AttentionArgs = kernels::cuda::AttentionArgs;

 public:
  GpuGroupedQuery(const Builder& at, const GqaSpec& spec)
      : GroupedQueryBase(at, spec), gpu_(*at.gpu()) {}

  tensor::KvLayerSpec state_spec() const override {
    tensor::KvLayerSpec spec = GroupedQueryBase::state_spec();
    spec.gpu = gpu_;
    return spec;
  }

 private:
  void do_run(Step& step, std::int64_t layer, Activation& x, Activation& delta) noexcept override {
    GpuStep& gpu = step.gpu(gpu_);
    Activation q(step, x.n_rows(), q_proj_->n_out(), GpuType::kBF16);
    Activation k(step, x.n_rows(), k_proj_->n_out(), GpuType::kBF16);
    Activation v(step, x.n_rows(), v_proj_->n_out(), GpuType::kBF16);
    const LinearCall calls[] = {{q_proj_.get(), &q}, {k_proj_.get(), &k}, {v_proj_.get(), &v}};
    run_siblings(step, x, calls);
    const tensor::KvLayerView& kv = step.kv[static_cast<std::size_t>(layer)];
    const kernels::cuda::HeadsArgs heads = heads_of(step, gpu, q, k, v, kv);
    Activation mixed(step, x.n_rows(), q_proj_->n_out(), GpuType::kBF16);
    attend(step, gpu, heads, kv, mixed);
    o_proj_->run(step, mixed, delta);
  }

  // To be normed and rotated, and k and v written to the cache.
  kernels::cuda::HeadsArgs heads_of(Step& step, GpuStep& gpu, Activation& q, Activation& k,
                                    Activation& v, const tensor::KvLayerView& kv) noexcept {
    kernels::cuda::HeadsArgs args;
    const Norm::OnGpu q_norm = norm_on_the_way(step, gpu, q, q_norm_.get());
    const Norm::OnGpu k_norm = norm_on_the_way(step, gpu, k, k_norm_.get());
    args.q_weight = q_norm.weight;
    args.k_weight = k_norm.weight;
    args.eps = std::max(q_norm.eps, k_norm.eps);  // the model has one
    args.q = q.update_on(gpu);
    args.k = k.read_on(gpu);
    args.v = v.read_on(gpu);
    args.q_stride = q.n_cols();
    args.k_stride = args.v_stride = k.n_cols();
    args.n_heads = n_heads_;
    args.n_kv_heads = n_kv_heads_;
    args.d = head_dim_;
    args.cos = rotary_.cos_on(gpu);  // the tables have a row for each of the batch's
    args.sin = rotary_.sin_on(gpu);
    args.k_cache = gpu_cache(kv.streams[0]);
    args.v_cache = gpu_cache(kv.streams[1]);
    const GpuStep::Sequences& sequences = gpu.sequences();
    args.table = sequences.table;
    args.items = sequences.items;
    args.n_items = sequences.n_items;
    args.max_item_rows = sequences.max_rows;
    return args;
  }

  // For a norm in the kernel; one that is elsewhere runs by itself.
  static Norm::OnGpu norm_on_the_way(Step& step, GpuStep& gpu, Activation& x, Norm* norm) noexcept {
    if (norm == nullptr) return {};
    const Norm::OnGpu on = norm->on(gpu);
    if (on.weight == nullptr) norm->run_vectors(step, x);
    return on;
  }

  void attend(Step& step, GpuStep& gpu, const kernels::cuda::HeadsArgs& heads,
              const tensor::KvLayerView& kv, Activation& mixed) noexcept {
    const GpuStep::Sequences& sequences = gpu.sequences();
    AttentionArgs args;
    args.q = heads.q;
    args.q_token_stride = heads.q_stride;
    args.q_head_stride = head_dim_;
    args.k = gpu_cache(kv.streams[0]);
    args.v = gpu_cache(kv.streams[1]);
    args.table = sequences.table;
    args.items = sequences.items;
    args.n_items = sequences.n_items;
    args.n_rows = mixed.n_rows();
    args.max_item_rows = sequences.max_rows;
    args.max_keys = sequences.max_keys;
    args.n_heads = n_heads_;
    args.n_kv_heads = n_kv_heads_;
    args.dim_qk = args.dim_v = head_dim_;
    args.scale = scale_;
    args.window = window_;
    args.out = mixed.write_on(gpu);
    const std::int64_t n_alone = rows_alone(step);
    if (n_alone == 0 || n_alone == args.n_items) {
      gpu_attend(gpu, path().c_str(), args, &heads);
      return;
    }
    const std::span<const SequenceRows> all = step.batch.sequences;
    attend_some(gpu, heads, args, all.first(static_cast<std::size_t>(n_alone)), 0);
    attend_some(gpu, heads, args, all.subspan(static_cast<std::size_t>(n_alone)), n_alone);
  }

  // How many sequences at the front have one row, in steps that others make large: their keys are
  // divided among more blocks than those of a prompt. Steps of few rows are recorded, and must all
  // do the same.
  static std::int64_t rows_alone(const Step& step) {
    if (step.n_rows() < backend::kBatchRows) return 0;
    const auto& all = step.batch.sequences;
    return std::find_if(all.begin(), all.end(), [](const auto& s) { return s.n_rows > 1; }) -
           all.begin();
  }

  // `some`: sequences from the `first`-th on.
  void attend_some(GpuStep& gpu, kernels::cuda::HeadsArgs heads, AttentionArgs args,
                   std::span<const SequenceRows> some, std::int64_t first) noexcept {
    args.first_row = some.front().row_begin;
    args.q = static_cast<const std::uint16_t*>(args.q) + args.first_row * args.q_token_stride;
    args.out = static_cast<std::uint16_t*>(args.out) + args.first_row * n_heads_ * head_dim_;
    args.items += first;
    args.n_items = static_cast<std::int64_t>(some.size());
    args.n_rows = args.max_item_rows = args.max_keys = 0;
    for (const SequenceRows& s : some) {
      args.n_rows += s.n_rows;
      args.max_item_rows = std::max(args.max_item_rows, s.n_rows);
      args.max_keys = std::max(args.max_keys, s.position + s.n_rows);
    }
    heads.items = args.items;
    heads.n_items = args.n_items;
    heads.max_item_rows = args.max_item_rows;
    const auto prepare = [&](auto& k, auto stream) { return k.prepare_heads(heads, stream); };
    gpu.run(path().c_str(), prepare);
    gpu_attend(gpu, path().c_str(), args);
  }

  int gpu_;
};

}  // namespace

std::unique_ptr<Attention> make_gqa_attention(const Builder& at, const GqaSpec& spec) {
  if (at.gpu()) return std::make_unique<GpuGroupedQuery>(at, spec);
  return std::make_unique<CpuGroupedQuery>(at, spec);
}

}  // namespace kt::operators
