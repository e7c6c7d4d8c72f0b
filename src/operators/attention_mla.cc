// KLatentAttention: multi-head latent attention in absorbed form (DeepSeek-V2, arXiv 2405.04434
// §2.1).
//
//   latent = norm(x·W_kv_a[:kv_lora]), k_pe = rope(x·W_kv_a[kv_lora:])       → cache row [latent,
//   k_pe] q = [q_nope, q_pe] from q_proj or q_b(norm(q_a(x)));  q_pe = rope(q_pe) q_latent[h] =
//   q_nope[h] · K_b[h]          so that  q_nope·k_nope = q_latent·latent o_latent =
//   attention([q_latent, q_pe], cache);  out[h] = V_b[h] · o_latent[h] → o_proj
//
// K_b and V_b come from kv_b_proj (K_b transposed at load) or from a file that stores them split.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "operators/attend.h"
#include "operators/makers.h"

namespace kt::operators {
namespace {

using backend::PackedMatrix;

double yarn_softmax_factor(const io::RopeConfig& rope) {
  if (rope.kind != io::RopeKind::kYarn || rope.mscale_all_dim == 0.0 || rope.factor <= 1.0)
    return 1.0;
  const double mscale = 0.1 * rope.mscale_all_dim * std::log(rope.factor) + 1.0;
  return mscale * mscale;
}

// One small matrix per head, applied to that head's slice of every row.
struct HeadMatrices {
  std::vector<PackedMatrix> heads;

  std::uint64_t bytes() const {
    std::uint64_t n = 0;
    for (const PackedMatrix& m : heads) n += m.bytes();
    return n;
  }

  // out[row, h, :n] = heads[h] · x[row, h, :k]; strides in floats.
  struct Strides {
    std::int64_t row, head;
  };
  void run(Step& step, std::int64_t n_rows, const float* x, Strides in, float* out,
           Strides to) const noexcept {
    constexpr std::int64_t kChunk = 64;
    const std::int64_t chunks = (n_rows + kChunk - 1) / kChunk;
    const auto n_heads = static_cast<std::int64_t>(heads.size());
    const std::int64_t k = heads.front().k();
    const bool q8 = heads.front().wants_q8();
    backend::Q8Rows rows;
    if (q8) rows = backend::Q8Rows(step.cpu, step.arena, n_heads * n_rows, k);
    step.cpu.pool.run(n_heads * chunks, [&](std::int64_t task, int) {
      const std::int64_t h = task / chunks;
      const std::int64_t first = task % chunks * kChunk;
      const std::int64_t m = std::min(kChunk, n_rows - first);
      const float* from = x + first * in.row + h * in.head;
      kernels::dot::ActRows act;
      act.f32 = from;
      act.f32_stride = in.row;
      if (q8) {
        for (std::int64_t i = 0; i < m; ++i) {
          rows.quantize(step.cpu, h * n_rows + first + i, 0, k, from + i * in.row);
        }
        act = backend::offset_rows(rows.view(), h * n_rows + first);
      }
      const PackedMatrix& matrix = heads[static_cast<std::size_t>(h)];
      for (std::int64_t row = 0; row < matrix.n(); row += PackedMatrix::kMaxSplitRows) {
        matrix.dot(act, m, row, std::min(PackedMatrix::kMaxSplitRows, matrix.n() - row),
                   out + first * to.row + h * to.head + row, to.row);
      }
    });
  }
};

class LatentAttention : public Attention {
 public:
  LatentAttention(const Builder& at, const MlaSpec& spec)
      : Attention(at.site()),
        mla_(spec.config.mla),
        n_heads_(spec.config.n_heads),
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
    scale_ =
        static_cast<float>(yarn_softmax_factor(c.rope) /
                           std::sqrt(static_cast<double>(mla_.qk_nope_dim + mla_.qk_rope_dim)));
  }

  std::vector<WeightSpec> weights() const override { return {kv_b_spec()}; }

  void check(const io::WeightSource& source) const override {
    if (source.find(kv_b_spec().name) != nullptr || source.find(k_b_spec().name) == nullptr) {
      require_tensor(source, kv_b_spec());
      return;
    }
    require_tensor(source, k_b_spec());
    require_tensor(source, v_b_spec());
  }

  void load(Loader& loader) override {
    if (loader.has(kv_b_spec().name)) {
      load_joint(loader);
    } else {
      load_split(loader, k_b_spec(), k_b_);
      load_split(loader, v_b_spec(), v_b_);
    }
  }

  std::uint64_t weight_bytes() const override { return k_b_.bytes() + v_b_.bytes(); }
  std::string weight_format() const override {
    return v_b_.heads.empty() ? std::string()
                              : std::string(formats::traits(v_b_.heads.front().format()).name);
  }

  tensor::KvLayerSpec state_spec() const override { return {{{"latent", 1, latent_dim()}}}; }

 private:
  void do_run(Step& step, std::int64_t layer, MatrixF x, MatrixF delta) noexcept override {
    const tensor::KvStreamView& cache = step.kv[static_cast<std::size_t>(layer)].streams[0];
    const std::int64_t n = x.n_rows;
    const std::int64_t q_head = mla_.qk_nope_dim + mla_.qk_rope_dim;
    const MatrixF q = step.arena.matrix(n, n_heads_ * q_head);
    const MatrixF latent = step.arena.matrix(n, latent_dim());
    project(step, x, q, latent);

    const MatrixF q_latent = step.arena.matrix(n, n_heads_ * latent_dim());
    for_positions(step, [&](std::int64_t row, const SequenceRows& s, std::int64_t position) {
      float* k = latent.row(row);
      kv_a_norm_->run_vectors(step, k, 1, mla_.kv_lora_rank);
      rope(step, row, k + mla_.kv_lora_rank);
      step.cpu.attention->store(cache.format, k, latent_dim(), cache.at(s.pages, position, 0));
      for (std::int64_t h = 0; h < n_heads_; ++h) {
        float* pe = q_latent.row(row) + h * latent_dim() + mla_.kv_lora_rank;
        std::memcpy(pe, q.row(row) + h * q_head + mla_.qk_nope_dim,
                    static_cast<std::size_t>(mla_.qk_rope_dim) * sizeof(float));
        rope(step, row, pe);
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
    attend(step, args);

    const MatrixF mixed = step.arena.matrix(n, n_heads_ * mla_.v_head_dim);
    v_b_.run(step, n, o_latent.data, {o_latent.stride, mla_.kv_lora_rank}, mixed.data,
             {mixed.stride, mla_.v_head_dim});
    Activation attended(mixed);
    o_proj_->run(step, attended, delta);
  }

  std::int64_t latent_dim() const { return mla_.kv_lora_rank + mla_.qk_rope_dim; }

  WeightSpec kv_b_spec() const {
    return {path() + ".kv_b_proj.weight",
            {n_heads_ * (mla_.qk_nope_dim + mla_.v_head_dim), mla_.kv_lora_rank}};
  }

  WeightSpec k_b_spec() const {
    return {path() + ".k_b_proj.weight", {n_heads_, mla_.kv_lora_rank, mla_.qk_nope_dim}};
  }
  WeightSpec v_b_spec() const {
    return {path() + ".v_b_proj.weight", {n_heads_, mla_.v_head_dim, mla_.kv_lora_rank}};
  }

  void project(Step& step, MatrixF x, MatrixF q, MatrixF latent) noexcept {
    Activation input(x);
    if (q_proj_ != nullptr) {
      const LinearCall calls[] = {{q_proj_.get(), q}, {kv_a_proj_.get(), latent}};
      run_siblings(step, input, calls);
      return;
    }
    const MatrixF q_a = step.arena.matrix(x.n_rows, mla_.q_lora_rank);
    const LinearCall calls[] = {{q_a_proj_.get(), q_a}, {kv_a_proj_.get(), latent}};
    run_siblings(step, input, calls);
    q_a_norm_->run(step, q_a, nullptr, q_a);
    Activation lowered(q_a);
    q_b_proj_->run(step, lowered, q);
  }

  void rope(Step& step, std::int64_t row, float* x) noexcept {
    step.cpu.elementwise->rope_pairs(rotary_.cos(row), rotary_.sin(row), mla_.qk_rope_dim, x);
  }

  // kv_b_proj [n_heads · (nope + v), kv_lora]: V_b rows are kept as stored; K_b is transposed,
  // which leaves the stored blocks, so it becomes F16 (F32 when activations are kept in float).
  void load_joint(Loader& loader) {
    const io::TensorInfo& info = loader.require(kv_b_spec());
    const std::int64_t head_rows = mla_.qk_nope_dim + mla_.v_head_dim;
    const std::size_t row_bytes = formats::row_bytes(info.format, mla_.kv_lora_rank);
    const auto k_format =
        loader.cpu().act == backend::ActPolicy::kF32 ? tensor::Format::kF32 : tensor::Format::kF16;
    const auto& k_traits = formats::traits(k_format);
    std::vector<std::byte> rows(row_bytes * static_cast<std::size_t>(head_rows));
    std::vector<float> decoded(static_cast<std::size_t>(mla_.qk_nope_dim * mla_.kv_lora_rank));
    std::vector<float> column(static_cast<std::size_t>(mla_.qk_nope_dim));
    std::vector<std::byte> k_rows(formats::row_bytes(k_format, mla_.qk_nope_dim) *
                                  static_cast<std::size_t>(mla_.kv_lora_rank));
    for (std::int64_t h = 0; h < n_heads_; ++h) {
      loader.source().read_rows(info, h * head_rows, head_rows, rows.data());
      formats::traits(info.format)
          .decode(rows.data(), decoded.data(), mla_.qk_nope_dim * mla_.kv_lora_rank);
      for (std::int64_t i = 0; i < mla_.kv_lora_rank; ++i) {
        for (std::int64_t j = 0; j < mla_.qk_nope_dim; ++j) {
          column[static_cast<std::size_t>(j)] =
              decoded[static_cast<std::size_t>(j * mla_.kv_lora_rank + i)];
        }
        k_traits.encode(column.data(), nullptr,
                        k_rows.data() + static_cast<std::size_t>(i) *
                                            formats::row_bytes(k_format, mla_.qk_nope_dim),
                        mla_.qk_nope_dim);
      }
      k_b_.heads.emplace_back(loader.cpu(), k_format, mla_.kv_lora_rank, mla_.qk_nope_dim);
      k_b_.heads.back().pack_rows(0, mla_.kv_lora_rank, k_rows.data());
      v_b_.heads.emplace_back(loader.cpu(), info.format, mla_.v_head_dim, mla_.kv_lora_rank);
      v_b_.heads.back().pack_rows(
          0, mla_.v_head_dim, rows.data() + row_bytes * static_cast<std::size_t>(mla_.qk_nope_dim));
    }
    loader.finished(info);
  }

  void load_split(Loader& loader, const WeightSpec& spec, HeadMatrices& matrices) {
    const io::TensorInfo& info = loader.require(spec);
    const std::int64_t n = spec.shape[1];
    std::vector<std::byte> rows(formats::row_bytes(info.format, spec.shape[2]) *
                                static_cast<std::size_t>(n));
    for (std::int64_t h = 0; h < n_heads_; ++h) {
      loader.source().read_rows(info, h * n, n, rows.data());
      matrices.heads.emplace_back(loader.cpu(), info.format, n, spec.shape[2]);
      matrices.heads.back().pack_rows(0, n, rows.data());
    }
    loader.finished(info);
  }

  io::MlaConfig mla_;
  std::int64_t n_heads_;
  float scale_ = 1.0f;
  Rotary& rotary_;
  std::unique_ptr<Linear> q_proj_, q_a_proj_, q_b_proj_, kv_a_proj_, o_proj_;
  std::unique_ptr<Norm> q_a_norm_, kv_a_norm_;
  HeadMatrices k_b_, v_b_;
};

}  // namespace

std::unique_ptr<Attention> make_mla_attention(const Builder& at, const MlaSpec& spec) {
  return std::make_unique<LatentAttention>(at, spec);
}

}  // namespace kt::operators
