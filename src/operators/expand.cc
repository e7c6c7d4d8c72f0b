#include "operators/expand.h"

#include <algorithm>
#include <cstring>

namespace kt::operators {
namespace {

namespace attention = kernels::attention;

// Cached positions expanded at a time: a head's keys and values of a span stay in L2.
constexpr std::int64_t kSpan = 4 * tensor::kKvPageLen;

class Expansion {
 public:
  Expansion(Step& step, const ExpandArgs& args)
      : step_(step),
        a_(args),
        rank_(args.k->heads.front().k()),
        nope_(args.k->heads.front().n()),
        dim_v_(args.v->heads.front().n()),
        dim_qk_(nope_ + args.rope_dim),
        n_heads_(static_cast<std::int64_t>(args.k->heads.size())),
        end_(args.rows.position + args.rows.n_rows) {
    const std::int64_t n_workers = step.cpu.pool.size();
    latents_ = step.arena.matrix(kSpan, rank_ + a_.rope_dim);
    if (form_of(*a_.k) == kernels::dot::Act::kQ8 || form_of(*a_.v) == kernels::dot::Act::kQ8) {
      quantized_ = backend::ActMatrix(step.cpu, step.arena, kernels::dot::Act::kQ8, kSpan, rank_);
    }
    scratch_floats_ = kSpan * (dim_qk_ + dim_v_) + attention::scratch_floats(dim_qk_, dim_v_);
    scratch_ = step.arena.allocate<float>(n_workers * scratch_floats_);
    state_ = step.arena.allocate<float>(2 * n_heads_ * a_.rows.n_rows);
    const std::int64_t n_pages = (end_ + tensor::kKvPageLen - 1) / tensor::kKvPageLen;
    pages_ = step.arena.allocate<std::int32_t>(n_pages);
    for (std::int64_t i = 0; i < n_pages; ++i) {
      pages_[i] = static_cast<std::int32_t>(i % (kSpan / tensor::kKvPageLen));
    }
  }

  void run() noexcept {
    for (std::int64_t begin = 0; begin < end_; begin += kSpan) {
      const std::int64_t n = std::min(kSpan, end_ - begin);
      step_.cpu.pool.run(n, [&](std::int64_t i, int) { read_latent(begin, i); });
      step_.cpu.pool.run(n_heads_, [&](std::int64_t h, int worker) {
        float* k = scratch_ + worker * scratch_floats_;
        float* v = k + kSpan * dim_qk_;
        expand_head(h, n, k, v);
        attend_head(h, begin, begin + n, k, v);
      });
    }
  }

 private:
  static kernels::dot::Act form_of(const HeadMatrices& matrices) {
    return matrices.heads.front().form(1);
  }

  // Row i of the span: decoded, and rounded when the matrices read int8.
  void read_latent(std::int64_t begin, std::int64_t i) noexcept {
    float* row = latents_.row(i);
    formats::traits(a_.cache.format)
        .decode(a_.cache.at(a_.rows.pages, begin + i, 0), row, latents_.n_cols);
    if (!quantized_.empty()) quantized_.write(step_.cpu, i, 0, rank_, row);
  }

  kernels::dot::ActRows latents_for(const HeadMatrices& matrices) const noexcept {
    if (form_of(matrices) == kernels::dot::Act::kQ8) return quantized_.view();
    kernels::dot::ActRows rows;
    rows.f32 = latents_.data;
    rows.f32_stride = latents_.stride;
    return rows;
  }

  void expand_head(std::int64_t h, std::int64_t n, float* k, float* v) noexcept {
    const auto head = static_cast<std::size_t>(h);
    a_.k->run_head(head, latents_for(*a_.k), n, k, dim_qk_);
    for (std::int64_t i = 0; i < n; ++i) {
      std::memcpy(k + i * dim_qk_ + nope_, latents_.row(i) + rank_,
                  static_cast<std::size_t>(a_.rope_dim) * sizeof(float));
    }
    a_.v->run_head(head, latents_for(*a_.v), n, v, dim_v_);
  }

  static tensor::KvStreamView view(float* data, std::int64_t dim) noexcept {
    tensor::KvStreamView s;
    s.base = reinterpret_cast<std::byte*>(data);
    s.format = tensor::Format::kF32;
    s.n_heads = 1;
    s.dim = dim;
    s.head_bytes = s.row_bytes = static_cast<std::size_t>(dim) * sizeof(float);
    return s;
  }

  // All query rows of head h that reach into [begin, end).
  void attend_head(std::int64_t h, std::int64_t begin, std::int64_t end, float* k,
                   float* v) noexcept {
    attention::Args args;
    args.q_token_stride = a_.q.stride;
    args.q_head_stride = dim_qk_;
    args.n_heads = 1;
    args.k = view(k, dim_qk_);
    args.v = view(v, dim_v_);
    args.pages = pages_;
    args.dim_qk = dim_qk_;
    args.dim_v = dim_v_;
    args.scale = a_.scale;
    args.out_token_stride = a_.out.stride;
    args.out_head_stride = dim_v_;
    args.scratch = v + kSpan * dim_v_;
    args.key_begin = begin;
    args.key_end = end;
    args.first_part = begin == 0;
    for (std::int64_t row = 0; row < a_.rows.n_rows; row += attention::kMaxRows) {
      args.n_tokens = std::min(attention::kMaxRows, a_.rows.n_rows - row);
      args.position = a_.rows.position + row;
      const std::int64_t tile_end = args.position + args.n_tokens;
      if (tile_end <= begin) continue;  // had its last keys before
      args.last_part = tile_end <= end;
      args.q = a_.q.row(row) + h * dim_qk_;
      args.out = a_.out.row(row) + h * dim_v_;
      args.state = state_ + 2 * (h * a_.rows.n_rows + row);
      step_.cpu.attention->run(args);
    }
  }

  Step& step_;
  const ExpandArgs& a_;
  std::int64_t rank_, nope_, dim_v_, dim_qk_, n_heads_, end_;
  tensor::MatrixF latents_;       // [kSpan, kv_lora + rope]
  backend::ActMatrix quantized_;  // the same, kv_lora wide
  std::int64_t scratch_floats_ = 0;
  float* scratch_ = nullptr;  // per worker: keys, values, the kernel's own
  float* state_ = nullptr;    // [n_heads, n_rows, 2]
  std::int32_t* pages_ = nullptr;
};

}  // namespace

void attend_expanded(Step& step, const ExpandArgs& args) noexcept {
  const std::size_t mark = step.arena.mark();
  Expansion(step, args).run();
  step.arena.release(mark);
}

}  // namespace kt::operators
