#include "models/blocks/causal_lm.h"

#include "operators/layered.h"
#include "operators/row_ops.h"

namespace kt::models {
namespace {

using namespace operators;

class PreNormLayer : public DecoderLayer {
 public:
  PreNormLayer(const Builder& at, const io::ModelConfig& c, const LayerParts& parts,
               std::int64_t layer, Rotary& rotary)
      : DecoderLayer(at.site()) {
    const Builder b = at.under(*this);
    input_layernorm_ = b.norm("input_layernorm", c.d_model, c.norm_eps);
    self_attn_ = parts.attention(b, layer, rotary);
    post_attention_layernorm_ = b.norm("post_attention_layernorm", c.d_model, c.norm_eps);
    mlp_ = parts.mlp(b, layer);
  }

  tensor::KvLayerSpec state_spec() const override { return self_attn_->state_spec(); }

 private:
  void do_run(Step& step, std::int64_t layer, Activation& x, Activation& delta,
              bool has_delta) noexcept override {
    const StepScope scope(step);
    Activation normed(step, x.n_rows(), x.n_cols(), GpuType::kBF16);
    input_layernorm_->run(step, x, has_delta ? &delta : nullptr, normed);
    self_attn_->run(step, layer, normed, delta);
    post_attention_layernorm_->run(step, x, &delta, normed);
    mlp_->run(step, normed, delta);
  }

  std::unique_ptr<Norm> input_layernorm_, post_attention_layernorm_;
  std::unique_ptr<Attention> self_attn_;
  std::unique_ptr<Mlp> mlp_;
};

// "model" of the checkpoint: embedding, layers, final norm.
class Decoder : public Module {
 public:
  Decoder(const Builder& at, const io::ModelConfig& c, const LayerParts& parts)
      : Module(at.site(), "Decoder") {
    const Builder b = at.under(*this);
    embed_tokens_ = b.embedding("embed_tokens", c.vocab_size, c.d_model);
    rotary_ = b.rotary("rotary_emb", {c, parts.rotary_dim});
    for (std::int64_t i = 0; i < c.n_layers; ++i) {
      const Builder layer = b.structural("layers." + std::to_string(i), "DecoderLayer");
      layers_.push_back(b.adopt(std::make_unique<PreNormLayer>(layer, c, parts, i, *rotary_)));
    }
    norm_ = b.norm("norm", c.d_model, c.norm_eps);
  }

  std::vector<tensor::KvLayerSpec> state_spec() const {
    std::vector<tensor::KvLayerSpec> specs;
    for (const auto& layer : layers_) specs.push_back(layer->state_spec());
    return specs;
  }

  std::int64_t n_layers() const { return static_cast<std::int64_t>(layers_.size()); }
  DecoderLayer& layer(std::int64_t i) { return *layers_[static_cast<std::size_t>(i)]; }
  Rotary& rotary() { return *rotary_; }
  void embed(Step& step, Activation& x) noexcept { embed_tokens_->run(step, x); }

  // Final hidden rows, normed, of the rows that want logits.
  Activation run(Step& step, std::int64_t d_model) noexcept {
    const ZoneScope zone(step.trace, *this, step.n_rows());
    const std::int64_t n = step.n_rows();
    Activation x(step, n, d_model);
    Activation delta(step, n, d_model);
    std::optional<Activation> deferred;
    if (step.deferral.n_experts > 0) step.deferral.rows = &deferred.emplace(step, n, d_model);
    rotary_->prepare(step);
    embed(step, x);
    for (std::int64_t i = 0; i < n_layers(); ++i) layer(i).run(step, i, x, delta, i > 0);
    add_deferred(step, delta);
    step.deferral.rows = nullptr;
    return last_rows(step, x, delta);
  }

  Activation last_rows(Step& step, Activation& x, Activation& delta) noexcept {
    Activation last = pick_logit_rows(step, x), last_delta = pick_logit_rows(step, delta);
    if (last.n_rows() == 0) return last;
    Activation normed(step, last.n_rows(), last.n_cols(), GpuType::kBF16);
    norm_->run(step, last, &last_delta, normed);
    return normed;
  }

 private:
  std::unique_ptr<Embedding> embed_tokens_;
  std::unique_ptr<Rotary> rotary_;
  std::vector<std::unique_ptr<DecoderLayer>> layers_;
  std::unique_ptr<Norm> norm_;
};

class CausalLm : public Model, public Layered {
 public:
  CausalLm(const Builder& at, const io::ModelConfig& c, const LayerParts& parts)
      : Model(at.site()),
        vocab_size_(c.vocab_size),
        d_model_(c.d_model),
        model_(at.structural("model", "Decoder"), c, parts) {
    add_child(model_);
    const Builder b = at.under(*this);
    lm_head_ = c.tied_embeddings
                   ? b.tied_linear("lm_head", "model.embed_tokens.weight", c.vocab_size, c.d_model)
                   : b.linear("lm_head", c.vocab_size, c.d_model);
  }

  std::vector<tensor::KvLayerSpec> state_spec() const override { return model_.state_spec(); }
  std::int64_t vocab_size() const override { return vocab_size_; }

  std::int64_t n_layers() const override { return model_.n_layers(); }
  std::int64_t d_model() const override { return d_model_; }
  Module& layer(std::int64_t index) override { return model_.layer(index); }
  void embed(Step& step, MatrixF x) noexcept override {
    const StepScope scope(step);
    Activation rows = Activation::on(step, x);
    model_.embed(step, rows);
    rows.f32();
  }
  void run_layer(Step& step, std::int64_t index, MatrixF x, MatrixF delta) noexcept override {
    const StepScope scope(step);
    Activation rows = Activation::on(step, x), pending = Activation::on(step, delta);
    model_.rotary().prepare(step);
    model_.layer(index).run(step, index, rows, pending, index > 0);
    rows.f32();
    pending.f32();
  }
  ConstMatrixF hidden(Step& step, MatrixF x, MatrixF delta) noexcept override {
    Activation rows = Activation::on(step, x), pending = Activation::on(step, delta);
    return model_.last_rows(step, rows, pending).f32();
  }
  ConstMatrixF run_hidden(Step& step) noexcept override { return model_.run(step, d_model_).f32(); }
  void project(Step& step, ConstMatrixF hidden, MatrixF logits) noexcept override {
    project(step, Activation(step, hidden, GpuType::kBF16), logits);
  }
  void head(Step& step, MatrixF x, MatrixF delta, MatrixF logits) noexcept override {
    Activation rows = Activation::on(step, x), pending = Activation::on(step, delta);
    project(step, model_.last_rows(step, rows, pending), logits);
  }

 private:
  void do_run(Step& step, MatrixF logits) noexcept override {
    project(step, model_.run(step, d_model_), logits);
  }

  void project(Step& step, Activation hidden, MatrixF logits) noexcept {
    if (hidden.n_rows() == 0) return;
    Activation out = Activation::on(step, logits);
    lm_head_->run(step, hidden, out);
    if (!list_logits(step, out)) out.f32();  // brings them back
  }

  std::int64_t vocab_size_;
  std::int64_t d_model_;
  Decoder model_;
  std::unique_ptr<Linear> lm_head_;
};

}  // namespace

std::unique_ptr<Model> make_causal_lm(const io::ModelConfig& config, const Placement& placement,
                                      const LayerParts& parts) {
  const Builder root("", placement, nullptr);
  return std::make_unique<CausalLm>(root.structural("", "Model"), config, parts);
}

}  // namespace kt::models
