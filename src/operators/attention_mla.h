// Latent attention (attention_mla.cc says the formulas): what its CPU form and its GPU form share.
// Thread rule: as Module.
#pragma once
#include "operators/makers.h"

namespace kt::operators {

class LatentBase : public Attention {
 public:
  /// absorb: prompts too are computed on the cache as it is.
  LatentBase(const Builder& at, const MlaSpec& spec, bool absorb);

  std::vector<WeightSpec> weights() const override { return {kv_b_spec()}; }
  void check(const io::WeightSource& source) const override;
  tensor::KvLayerSpec state_spec() const override { return {{{"latent", 1, latent_dim()}}}; }

 protected:
  std::int64_t latent_dim() const { return mla_.kv_lora_rank + mla_.qk_rope_dim; }
  std::int64_t q_head_dim() const { return mla_.qk_nope_dim + mla_.qk_rope_dim; }

  /// Whether the file has K_b and V_b apart.
  bool is_split(const io::WeightSource& source) const;
  WeightSpec kv_b_spec() const;
  WeightSpec k_b_spec() const;
  WeightSpec v_b_spec() const;

  /// q [n_rows, n_heads, nope + rope] and latent [n_rows, kv_lora + rope], neither normed nor
  /// turned.
  void project(Step& step, Activation& x, Activation& q, Activation& latent) noexcept;

  /// Whether keys and values of this prompt's whole context cost less per head than the wider
  /// products of the absorbed form.
  bool expands(const SequenceRows& s) const noexcept;

  io::MlaConfig mla_;
  std::int64_t n_heads_;
  bool absorb_;
  float scale_ = 1.0f;
  Rotary& rotary_;
  std::unique_ptr<Linear> q_proj_, q_a_proj_, q_b_proj_, kv_a_proj_, o_proj_;
  std::unique_ptr<Norm> q_a_norm_, kv_a_norm_;
};

std::unique_ptr<Attention> make_gpu_mla_attention(const Builder& at, const MlaSpec& spec);

}  // namespace kt::operators
