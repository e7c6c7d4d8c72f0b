#include "operators/expand.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace kt::operators {
namespace {

namespace attention = kernels::attention;

// Cached positions expanded at a time: a head's keys and values of a span stay in L2.
constexpr std::int64_t kSpan = attention::kSplitKeys;

std::int64_t chunks_of(std::int64_t n_rows) {
  return (n_rows + attention::kMaxRows - 1) / attention::kMaxRows;
}

// Keys and values of a span, and the kernel's own.
std::int64_t head_floats(std::int64_t dim_qk, std::int64_t dim_v) {
  return kSpan * (dim_qk + dim_v) + attention::scratch_floats(dim_qk, dim_v);
}

class Expansion {
 public:
  Expansion(Step& step, const ExpandArgs& args)
      : step_(step),
        a_(args),
        rank_(args.k->heads.front().k()),
        nope_(args.k->heads.front().n()),
        dim_v_(args.v->heads.front().n()),
        dim_qk_(nope_ + args.rope_dim),
        end_(args.rows.position + args.rows.n_rows),
        kernel_(step.cpu.attention_for(args.rows.n_rows)) {
    const std::int64_t n_workers = step.cpu.pool.size();
    latents_ = step.arena.matrix(n_workers * kSpan, rank_ + a_.rope_dim);
    make_rounded(*a_.k, n_workers * kSpan, rounded_[0]);
    if (form_of(*a_.v) != form_of(*a_.k)) make_rounded(*a_.v, n_workers * kSpan, rounded_[1]);
    scratch_size_ = head_floats(dim_qk_, dim_v_);
    scratch_ = step.arena.allocate<float>(n_workers * scratch_size_);
    states_size_ = n_chunks() * attention::state_floats(dim_v_);
    states_ = step.arena.allocate<float>(n_workers * states_size_);
    for (std::size_t i = 0; i < std::size(pages_); ++i) pages_[i] = static_cast<std::int32_t>(i);
  }

  void run() noexcept {
    const auto n_heads = static_cast<std::int64_t>(a_.k->heads.size());
    const ThreadPool& pool = step_.cpu.pool;
    const auto count = [&](int node) { return pool.part(node, n_heads).size(); };
    step_.cpu.pool.run_nodes(count, [&](int node, std::int64_t i, int worker) {
      run_head(pool.part(node, n_heads).begin + i, worker);
    });
  }

 private:
  std::int64_t n_chunks() const { return chunks_of(a_.rows.n_rows); }

  kernels::dot::Act form_of(const HeadMatrices& matrices) const {
    return matrices.heads.front().form(a_.rows.n_rows);
  }

  // Memory for latents in the form that `matrices` read, unless that is floats.
  void make_rounded(const HeadMatrices& matrices, std::int64_t n_rows, backend::ActMatrix& out) {
    const kernels::dot::Act form = form_of(matrices);
    if (form == kernels::dot::Act::kF32) return;
    out = backend::ActMatrix(step_.cpu, step_.arena, form, n_rows, rank_);
  }

  void run_head(std::int64_t h, std::int64_t worker) noexcept {
    float* k = scratch_ + worker * scratch_size_;
    float* v = k + kSpan * dim_qk_;
    for (std::int64_t begin = 0; begin < end_; begin += kSpan) {
      const std::int64_t n = std::min(kSpan, end_ - begin);
      for (std::int64_t i = 0; i < n; ++i) read_latent(begin + i, worker * kSpan + i);
      expand_head(h, worker * kSpan, n, k, v);
      attend_head(h, begin, begin + n, k, v, states_ + worker * states_size_);
    }
  }

  // The latent of a position into a row: decoded, and rounded when the matrices want that.
  void read_latent(std::int64_t position, std::int64_t to) noexcept {
    float* row = latents_.row(to);
    formats::traits(a_.cache.format)
        .decode(a_.cache.at(a_.rows.pages, position, 0), row, latents_.n_cols);
    for (backend::ActMatrix& rounded : rounded_) {
      if (!rounded.empty()) rounded.write(step_.cpu, to, 0, rank_, row);
    }
  }

  kernels::dot::ActRows latents_for(const HeadMatrices& matrices, std::int64_t row) const noexcept {
    for (const backend::ActMatrix& rounded : rounded_) {
      if (!rounded.empty() && rounded.form() == form_of(matrices)) return rounded.view(row);
    }
    kernels::dot::ActRows rows;
    rows.f32 = latents_.row(row);
    rows.f32_stride = latents_.stride;
    return rows;
  }

  void expand_head(std::int64_t h, std::int64_t row, std::int64_t n, float* k, float* v) noexcept {
    const auto head = static_cast<std::size_t>(h);
    a_.k->run_head(head, latents_for(*a_.k, row), n, k, dim_qk_);
    for (std::int64_t i = 0; i < n; ++i) {
      std::memcpy(k + i * dim_qk_ + nope_, latents_.row(row + i) + rank_,
                  static_cast<std::size_t>(a_.rope_dim) * sizeof(float));
    }
    a_.v->run_head(head, latents_for(*a_.v, row), n, v, dim_v_);
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

  // All query rows of head h over [begin, end), the span whose keys and values k and v are.
  void attend_head(std::int64_t h, std::int64_t begin, std::int64_t end, float* k, float* v,
                   float* states) noexcept {
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
    for (std::int64_t i = 0; i < n_chunks(); ++i) {
      const std::int64_t row = i * attention::kMaxRows;
      args.n_tokens = std::min(attention::kMaxRows, a_.rows.n_rows - row);
      // The span alone is what the kernel sees, so positions count from its start.
      args.position = a_.rows.position + row - begin;
      const std::int64_t last = args.position + args.n_tokens;  // behind the last key it sees
      if (last <= 0) continue;
      args.q = a_.q.row(row) + h * dim_qk_;
      args.out = a_.out.row(row) + h * dim_v_;
      args.state = states + i * attention::state_floats(dim_v_);
      if (begin == 0) kernel_.clear(args);
      kernel_.load(args);
      kernel_.add(args, 0, end - begin);
      if (last <= end - begin) kernel_.finish(args);
    }
  }

  Step& step_;
  const ExpandArgs& a_;
  std::int64_t rank_, nope_, dim_v_, dim_qk_, end_;
  const attention::Kernel& kernel_;
  tensor::MatrixF latents_;                          // [n_workers · kSpan, kv_lora + rope]
  backend::ActMatrix rounded_[2];                    // kv_lora of it, as k and v read it
  std::int64_t scratch_size_ = 0, states_size_ = 0;  // floats per worker
  float* scratch_ = nullptr;                         // keys, values, the kernel's own
  float* states_ = nullptr;                          // of a head's rows
  std::int32_t pages_[kSpan / tensor::kKvPageLen] = {};
};

}  // namespace

std::int64_t expand_floats(const io::MlaConfig& mla, std::int64_t n_rows, std::int64_t n_threads) {
  const std::int64_t latents = mla.kv_lora_rank + mla.qk_rope_dim;
  const std::int64_t rounded = mla.kv_lora_rank;  // in at most two forms, of up to 2.5 bytes each
  const std::int64_t dim_qk = mla.qk_nope_dim + mla.qk_rope_dim;
  return n_threads * (kSpan * (latents + 2 * rounded) + head_floats(dim_qk, mla.v_head_dim) +
                      chunks_of(n_rows) * attention::state_floats(mla.v_head_dim));
}

void attend_expanded(Step& step, const ExpandArgs& args) noexcept {
  const std::size_t mark = step.arena.mark();
  Expansion(step, args).run();
  step.arena.release(mark);
}

}  // namespace kt::operators
