// Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434 §2.1) on a cache of latents:
//
//   latent = norm(x·W_kv_a[:kv_lora]), k_pe = rope(x·W_kv_a[kv_lora:])    → cache row [latent,
//   k_pe] q = [q_nope, q_pe] from q_proj or q_b(norm(q_a(x)));  q_pe = rope(q_pe)
//
// absorbed:  q_latent[h] = q_nope[h] · K_b[h]      so that  q_nope·k_nope = q_latent·latent
//            o_latent = attention([q_latent, q_pe], cache);  out[h] = V_b[h] · o_latent[h] → o_proj
// expanded:  keys and values per head from the cached latents (expand.h), for prompts when
//            absorb_for_prefill is false and it is less work
//
// K_b and V_b come from kv_b_proj (K_b transposed at load) or from a file that stores them split.
#include "operators/attention_mla.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "operators/attend.h"
#include "operators/expand.h"
#include "operators/parallel.h"

namespace kt::operators {
namespace {

double yarn_softmax_factor(const io::RopeConfig& rope) {
  if (rope.kind != io::RopeKind::kYarn || rope.mscale_all_dim == 0.0 || rope.factor <= 1.0)
    return 1.0;
  const double mscale = 0.1 * rope.mscale_all_dim * std::log(rope.factor) + 1.0;
  return mscale * mscale;
}

class CpuLatent : public LatentBase {
 public:
  CpuLatent(const Builder& at, const MlaSpec& spec)
      : LatentBase(at, spec, at.flag("absorb_for_prefill", at.site().op == "KLatentAttention")) {}

  Kept kept(const io::WeightSource& source, backend::ActPolicy act) const override {
    const bool split = is_split(source);
    const io::TensorInfo& k_b = require_tensor(source, split ? k_b_spec() : kv_b_spec());
    const io::TensorInfo& v_b = split ? require_tensor(source, v_b_spec()) : k_b;
    const tensor::Format turned = transposed_format(act);
    Kept kept;
    kept.add(
        {split ? k_b.format : turned, k_b.format, mla_.kv_lora_rank, mla_.qk_nope_dim, n_heads_});
    kept.add({v_b.format, v_b.format, mla_.v_head_dim, mla_.kv_lora_rank, n_heads_});
    if (!absorb_) {
      kept.add(
          {split ? turned : k_b.format, k_b.format, mla_.qk_nope_dim, mla_.kv_lora_rank, n_heads_});
    }
    kept.count_file(k_b);
    if (split) kept.count_file(v_b);
    return kept;
  }

  void load(Loader& loader) override {
    if (!is_split(loader.source())) {
      load_joint(loader);
    } else {
      load_split(loader, k_b_spec(), k_b_, absorb_ ? nullptr : &k_rows_);
      load_split(loader, v_b_spec(), v_b_, nullptr);
    }
  }

  void unload() override {
    for (HeadMatrices* matrices : {&k_b_, &v_b_, &k_rows_}) *matrices = {};
  }

  std::uint64_t weight_bytes() const override {
    return k_b_.bytes() + v_b_.bytes() + k_rows_.bytes();
  }
  bool batches_differ() const override { return k_b_.batches_differ() || v_b_.batches_differ(); }
  std::string weight_format() const override {
    return v_b_.heads.empty() ? std::string()
                              : std::string(formats::traits(v_b_.heads.front().format()).name);
  }

 private:
  void do_run(Step& step, std::int64_t layer, Activation& x, Activation& delta) noexcept override {
    const tensor::KvStreamView& cache = step.kv[static_cast<std::size_t>(layer)].streams[0];
    const std::int64_t n = x.n_rows();
    const std::int64_t q_head = q_head_dim();
    Activation queries(step, n, n_heads_ * q_head);
    Activation latents(step, n, latent_dim());
    project(step, x, queries, latents);
    const MatrixF q = queries.update(), latent = latents.update();

    for_positions(step, [&](std::int64_t row, const SequenceRows& s, std::int64_t position) {
      float* k = latent.row(row);
      kv_a_norm_->run_vectors(step, k, 1, mla_.kv_lora_rank);
      rope(step, row, k + mla_.kv_lora_rank);
      step.cpu.attention->store(cache.format, k, latent_dim(), cache.at(s.pages, position, 0));
      for (std::int64_t h = 0; h < n_heads_; ++h) {
        rope(step, row, q.row(row) + h * q_head + mla_.qk_nope_dim);
      }
    });
    Activation mixed(step, n, n_heads_ * mla_.v_head_dim);
    attend_rows(step, cache, q, mixed.write());
    o_proj_->run(step, mixed, delta);
  }

  // Sequences in the form that suits each; neighbours in absorbed form go together.
  void attend_rows(Step& step, const tensor::KvStreamView& cache, MatrixF q,
                   MatrixF mixed) noexcept {
    // What absorbed rows need is there from the first, largest step on.
    constexpr std::int64_t kSlice = 64;
    const std::int64_t slice = absorb_ ? q.n_rows : kSlice;
    if (!absorb_) reserve_absorbed(step, std::min(q.n_rows, slice));
    auto* pieces = step.arena.allocate<SequenceRows>(
        static_cast<std::int64_t>(step.batch.sequences.size()) + q.n_rows / slice + 1);
    std::size_t n_pieces = 0;
    std::int64_t first = 0, count = 0;
    const auto flush = [&] {
      if (count > 0) {
        absorbed(step, cache, {pieces, n_pieces}, q.rows(first, count), mixed.rows(first, count));
      }
      n_pieces = 0;
      count = 0;
    };
    for (const SequenceRows& s : step.batch.sequences) {
      if (expands(s)) {
        attend_expanded(step, {&k_rows_, &v_b_, mla_.qk_rope_dim, scale_, cache, s,
                               q.rows(s.row_begin, s.n_rows), mixed.rows(s.row_begin, s.n_rows)});
        continue;
      }
      for (std::int64_t done = 0; done < s.n_rows;) {
        const std::int64_t row = s.row_begin + done;
        if (count == slice || row != first + count) flush();
        if (count == 0) first = row;
        const std::int64_t m = std::min(s.n_rows - done, slice - count);
        pieces[n_pieces++] = {count, m, s.position + done, s.pages};
        count += m;
        done += m;
      }
    }
    flush();
  }

  void reserve_absorbed(Step& step, std::int64_t n_rows) const noexcept {
    const std::size_t mark = step.arena.mark();
    step.arena.matrix(n_rows, n_heads_ * (2 * latent_dim() + mla_.kv_lora_rank) * 2);
    step.arena.release(mark);
  }

  void absorbed(Step& step, const tensor::KvStreamView& cache,
                std::span<const SequenceRows> sequences, MatrixF q, MatrixF mixed) noexcept {
    const std::size_t mark = step.arena.mark();
    const std::int64_t n = q.n_rows, q_head = q_head_dim();
    const MatrixF q_latent = step.arena.matrix(n, n_heads_ * latent_dim());
    for_rows(step, n, n_heads_ * mla_.qk_rope_dim, [&](std::int64_t row) {
      for (std::int64_t h = 0; h < n_heads_; ++h) {
        std::memcpy(q_latent.row(row) + h * latent_dim() + mla_.kv_lora_rank,
                    q.row(row) + h * q_head + mla_.qk_nope_dim,
                    static_cast<std::size_t>(mla_.qk_rope_dim) * sizeof(float));
      }
    });
    k_b_.run(step, n, q.data, {q.stride, q_head}, q_latent.data, {q_latent.stride, latent_dim()});

    const MatrixF o_latent = step.arena.matrix(n, n_heads_ * mla_.kv_lora_rank);
    AttendArgs args;
    args.q = q_latent.data;
    args.n_heads = n_heads_;
    args.n_kv_heads = 1;
    args.dim_qk = latent_dim();
    args.dim_v = mla_.kv_lora_rank;
    args.scale = scale_;
    args.k = cache;
    args.v = cache;
    args.out = o_latent.data;
    attend(step, sequences, args);
    v_b_.run(step, n, o_latent.data, {o_latent.stride, mla_.kv_lora_rank}, mixed.data,
             {mixed.stride, mla_.v_head_dim});
    step.arena.release(mark);
  }

  void rope(Step& step, std::int64_t row, float* x) noexcept {
    step.cpu.elementwise->rope_pairs(rotary_.cos(row), rotary_.sin(row), mla_.qk_rope_dim, x);
  }

  // kv_b_proj [n_heads · (nope + v), kv_lora]: V_b rows are kept as stored, K_b is transposed.
  void load_joint(Loader& loader) {
    const io::TensorInfo& info = loader.require(kv_b_spec());
    const std::int64_t head_rows = mla_.qk_nope_dim + mla_.v_head_dim;
    const std::size_t row_bytes = formats::row_bytes(info.format, mla_.kv_lora_rank);
    std::vector<std::byte> rows(row_bytes * static_cast<std::size_t>(head_rows));
    for (std::int64_t h = 0; h < n_heads_; ++h) {
      loader.source().read_rows(info, h * head_rows, head_rows, rows.data());
      add_transposed(loader, info.format, rows.data(), {mla_.qk_nope_dim, mla_.kv_lora_rank}, k_b_);
      const std::byte* v = rows.data() + row_bytes * static_cast<std::size_t>(mla_.qk_nope_dim);
      add_rows(loader, info.format, v, {mla_.v_head_dim, mla_.kv_lora_rank}, v_b_);
      if (absorb_) continue;
      add_rows(loader, info.format, rows.data(), {mla_.qk_nope_dim, mla_.kv_lora_rank}, k_rows_);
    }
    loader.finished(info);
  }

  // [n_heads, n, k]; with `transposed`, also every head's [k, n].
  void load_split(Loader& loader, const WeightSpec& spec, HeadMatrices& matrices,
                  HeadMatrices* transposed) {
    const io::TensorInfo& info = loader.require(spec);
    const std::int64_t n = spec.shape[1];
    std::vector<std::byte> rows(formats::row_bytes(info.format, spec.shape[2]) *
                                static_cast<std::size_t>(n));
    for (std::int64_t h = 0; h < n_heads_; ++h) {
      loader.source().read_rows(info, h * n, n, rows.data());
      add_rows(loader, info.format, rows.data(), {n, spec.shape[2]}, matrices);
      if (transposed == nullptr) continue;
      add_transposed(loader, info.format, rows.data(), {n, spec.shape[2]}, *transposed);
    }
    loader.finished(info);
  }

  struct HeadShape {
    std::int64_t n, k;
  };
  void add_rows(Loader& loader, tensor::Format format, const std::byte* rows, HeadShape shape,
                HeadMatrices& to) const {
    to.add(loader.cpu(), n_heads_, format, shape.n, shape.k, rows);
  }

  // A transposed matrix leaves the stored blocks.
  static tensor::Format transposed_format(backend::ActPolicy act) {
    return act == backend::ActPolicy::kF32 ? tensor::Format::kF32 : tensor::Format::kF16;
  }

  void add_transposed(Loader& loader, tensor::Format stored, const std::byte* rows, HeadShape shape,
                      HeadMatrices& to) const {
    const tensor::Format format = transposed_format(loader.cpu().act);
    const std::size_t row_bytes = formats::row_bytes(format, shape.n);
    std::vector<float> decoded(static_cast<std::size_t>(shape.n * shape.k));
    std::vector<float> column(static_cast<std::size_t>(shape.n));
    std::vector<std::byte> encoded(row_bytes * static_cast<std::size_t>(shape.k));
    formats::traits(stored).decode(rows, decoded.data(), shape.n * shape.k);
    for (std::int64_t i = 0; i < shape.k; ++i) {
      for (std::int64_t j = 0; j < shape.n; ++j) {
        column[static_cast<std::size_t>(j)] = decoded[static_cast<std::size_t>(j * shape.k + i)];
      }
      formats::traits(format).encode(column.data(), nullptr,
                                     encoded.data() + static_cast<std::size_t>(i) * row_bytes,
                                     shape.n);
    }
    add_rows(loader, format, encoded.data(), {shape.k, shape.n}, to);
  }

  HeadMatrices k_b_, v_b_;  // [kv_lora, nope], [v, kv_lora]
  HeadMatrices k_rows_;     // [nope, kv_lora]; only when prompts may be expanded
};

}  // namespace

LatentBase::LatentBase(const Builder& at, const MlaSpec& spec, bool absorb)
    : Attention(at.site()),
      mla_(spec.config.mla),
      n_heads_(spec.config.n_heads),
      absorb_(absorb),
      rotary_(spec.rotary) {
  const io::ModelConfig& c = spec.config;
  const Builder b = at.under(*this);
  const std::int64_t q_dim = n_heads_ * (mla_.qk_nope_dim + mla_.qk_rope_dim);
  if (mla_.q_lora_rank > 0) {
    q_a_proj_ = b.linear("q_a_proj", mla_.q_lora_rank, c.d_model, c.attention_bias);
    q_a_norm_ = b.norm("q_a_layernorm", mla_.q_lora_rank, c.norm_eps);
    q_b_proj_ = b.linear("q_b_proj", q_dim, mla_.q_lora_rank);
  } else {
    q_proj_ = b.linear("q_proj", q_dim, c.d_model);
  }
  kv_a_proj_ = b.linear("kv_a_proj_with_mqa", latent_dim(), c.d_model, c.attention_bias);
  kv_a_norm_ = b.norm("kv_a_layernorm", mla_.kv_lora_rank, c.norm_eps);
  o_proj_ = b.linear("o_proj", c.d_model, n_heads_ * mla_.v_head_dim, c.attention_bias);
  scale_ = static_cast<float>(yarn_softmax_factor(c.rope) /
                              std::sqrt(static_cast<double>(mla_.qk_nope_dim + mla_.qk_rope_dim)));
}

void LatentBase::check(const io::WeightSource& source) const {
  if (!is_split(source)) {
    require_tensor(source, kv_b_spec());
    return;
  }
  require_tensor(source, k_b_spec());
  require_tensor(source, v_b_spec());
}

bool LatentBase::is_split(const io::WeightSource& source) const {
  return source.find(kv_b_spec().name) == nullptr && source.find(k_b_spec().name) != nullptr;
}

WeightSpec LatentBase::kv_b_spec() const {
  return {path() + ".kv_b_proj.weight",
          {n_heads_ * (mla_.qk_nope_dim + mla_.v_head_dim), mla_.kv_lora_rank}};
}
WeightSpec LatentBase::k_b_spec() const {
  return {path() + ".k_b_proj.weight", {n_heads_, mla_.kv_lora_rank, mla_.qk_nope_dim}};
}
WeightSpec LatentBase::v_b_spec() const {
  return {path() + ".v_b_proj.weight", {n_heads_, mla_.v_head_dim, mla_.kv_lora_rank}};
}

void LatentBase::project(Step& step, Activation& x, Activation& q, Activation& latent) noexcept {
  if (q_proj_ != nullptr) {
    const LinearCall calls[] = {{q_proj_.get(), &q}, {kv_a_proj_.get(), &latent}};
    run_siblings(step, x, calls);
    return;
  }
  Activation q_a(step, x.n_rows(), mla_.q_lora_rank, q.gpu_type());
  const LinearCall calls[] = {{q_a_proj_.get(), &q_a}, {kv_a_proj_.get(), &latent}};
  run_siblings(step, x, calls);
  q_a_norm_->run(step, q_a, nullptr, q_a);
  q_b_proj_->run(step, q_a, q);
}

bool LatentBase::expands(const SequenceRows& s) const noexcept {
  if (absorb_ || s.n_rows < 2) return false;
  const std::int64_t head = (mla_.qk_nope_dim + mla_.v_head_dim) * mla_.kv_lora_rank;
  const std::int64_t narrow = q_head_dim() + mla_.v_head_dim;
  const std::int64_t wide = latent_dim() + mla_.kv_lora_rank;
  const std::int64_t pairs = s.n_rows * s.position + s.n_rows * (s.n_rows + 1) / 2;
  return (s.position + s.n_rows) * head < pairs * (wide - narrow) + s.n_rows * head;
}

std::unique_ptr<Attention> make_mla_attention(const Builder& at, const MlaSpec& spec) {
  if (at.gpu()) return make_gpu_mla_attention(at, spec);
  return std::make_unique<CpuLatent>(at, spec);
}

}  // namespace kt::operators
