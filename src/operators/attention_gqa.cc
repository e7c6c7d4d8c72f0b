// KGroupedQueryAttention:
//   q, k, v = x·Wq, x·Wk, x·Wv → [norm of q and k heads] → rotary → k, v into the cache → attention
//   → o
#include <cmath>

#include "operators/attend.h"
#include "operators/makers.h"

namespace kt::operators {
namespace {

class GroupedQueryAttention : public Attention {
 public:
  GroupedQueryAttention(const Builder& at, const GqaSpec& spec)
      : Attention(at.site()),
        n_heads_(spec.config.n_heads),
        n_kv_heads_(spec.config.n_kv_heads),
        head_dim_(spec.config.head_dim),
        window_(spec.window),
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

 private:
  void do_run(Step& step, std::int64_t layer, MatrixF x, MatrixF delta) noexcept override {
    const tensor::KvLayerView& kv = step.kv[static_cast<std::size_t>(layer)];
    const MatrixF q = step.arena.matrix(x.n_rows, q_proj_->n_out());
    const MatrixF k = step.arena.matrix(x.n_rows, k_proj_->n_out());
    const MatrixF v = step.arena.matrix(x.n_rows, v_proj_->n_out());
    Activation input(x);
    const LinearCall calls[] = {{q_proj_.get(), q}, {k_proj_.get(), k}, {v_proj_.get(), v}};
    run_siblings(step, input, calls);

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

    const MatrixF mixed = step.arena.matrix(x.n_rows, q_proj_->n_out());
    AttendArgs args;
    args.q = q.data;
    args.n_heads = n_heads_;
    args.n_kv_heads = n_kv_heads_;
    args.dim_qk = head_dim_;
    args.dim_v = head_dim_;
    args.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim_)));
    args.window = window_;
    args.k = kv.streams[0];
    args.v = kv.streams[1];
    args.out = mixed.data;
    attend(step, step.batch.sequences, args);
    Activation attended(mixed);
    o_proj_->run(step, attended, delta);
  }

  void rotate(Step& step, std::int64_t row, float* x, std::int64_t n_heads, Norm* norm) noexcept {
    if (norm != nullptr) norm->run_vectors(step, x, n_heads, head_dim_);
    for (std::int64_t h = 0; h < n_heads; ++h) {
      step.cpu.elementwise->rope_half(rotary_.cos(row), rotary_.sin(row), head_dim_,
                                      x + h * head_dim_);
    }
  }

  std::int64_t n_heads_, n_kv_heads_, head_dim_, window_;
  Rotary& rotary_;
  std::unique_ptr<Linear> q_proj_, k_proj_, v_proj_, o_proj_;
  std::unique_ptr<Norm> q_norm_, k_norm_;
};

}  // namespace

std::unique_ptr<Attention> make_gqa_attention(const Builder& at, const GqaSpec& spec) {
  return std::make_unique<GroupedQueryAttention>(at, spec);
}

}  // namespace kt::operators
