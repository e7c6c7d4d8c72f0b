// Latent attention in bf16, with the cache of its layer on the GPU. A decode step launches, beside
// the linears: norm of q_a, store (norm of the latent and rotary k_pe in passing), K_b (with rotary
// q_pe in passing), attention, V_b. K_b is kept as the absorbed form reads it, [kv_lora, nope] per
// head; the expanded form multiplies with it transposed.
#include <algorithm>
#include <numeric>

#include "operators/attention_mla.h"
#include "operators/gpu_attention.h"
#include "operators/gpu_weights.h"

namespace kt::operators {
namespace {

using kernels::cuda::AttentionArgs;
using kernels::cuda::CacheType;
using kernels::cuda::HeadProductsArgs;
using kernels::cuda::KvCache;

// Prompts of fewer rows are not worth more launches.
constexpr std::int64_t kFewestExpanded = 64;

class GpuLatent : public LatentBase {
 public:
  GpuLatent(const Builder& at, const MlaSpec& spec)
      : LatentBase(at, spec, at.flag("absorb_for_prefill", false)),
        gpu_(*at.gpu()),
        n_pages_((spec.config.max_context + tensor::kKvPageLen - 1) / tensor::kKvPageLen),
        expand_bytes_(gpu_expand_bytes(spec.config)) {}

  void check(const io::WeightSource& source) const override {
    LatentBase::check(source);
    for (const std::int64_t dim :
         {mla_.kv_lora_rank, mla_.qk_nope_dim, mla_.qk_rope_dim, mla_.v_head_dim}) {
      if (dim % 8 == 0) continue;
      fail(
          ErrorCode::kUnsupported, path(),
          "latent attention on GPUs wants sizes of heads that are multiples of 8, not {}: place it "
          "on the CPU",
          dim);
    }
  }

  Kept kept(const io::WeightSource& source, backend::ActPolicy) const override {
    const bool split = is_split(source);
    const io::TensorInfo& k_b = require_tensor(source, split ? k_b_spec() : kv_b_spec());
    const io::TensorInfo& v_b = split ? require_tensor(source, v_b_spec()) : k_b;
    Kept kept;
    kept.add(
        {tensor::Format::kBF16, stored_as(k_b), mla_.kv_lora_rank, mla_.qk_nope_dim, n_heads_});
    kept.add({tensor::Format::kBF16, stored_as(v_b), mla_.v_head_dim, mla_.kv_lora_rank, n_heads_});
    kept.vector_bytes = static_cast<std::uint64_t>(n_pages_) * sizeof(std::int32_t);
    kept.count_file(k_b);
    if (split) kept.count_file(v_b);
    return kept;
  }

  void load(Loader& loader) override {
    backend::Gpu& gpu = loader.gpu(gpu_);
    const std::int64_t nope = mla_.qk_nope_dim, v = mla_.v_head_dim, rank = mla_.kv_lora_rank;
    if (is_split(loader.source())) {
      const io::TensorInfo& k_b = loader.require(k_b_spec());
      k_b_ = gpu_head_rows(loader, gpu, k_b, {n_heads_, rank, 0, rank});
      loader.finished(k_b);
      const io::TensorInfo& v_b = loader.require(v_b_spec());
      v_b_ = gpu_head_rows(loader, gpu, v_b, {n_heads_, v, 0, v});
      loader.finished(v_b);
    } else {
      const io::TensorInfo& kv_b = loader.require(kv_b_spec());
      k_b_ = gpu_head_rows(loader, gpu, kv_b, {n_heads_, nope + v, 0, nope, true});
      v_b_ = gpu_head_rows(loader, gpu, kv_b, {n_heads_, nope + v, nope, v});
      loader.finished(kv_b);
    }
    std::vector<std::int32_t> pages(static_cast<std::size_t>(n_pages_));
    std::iota(pages.begin(), pages.end(), 0);
    auto* to = gpu.allocate<std::int32_t>(n_pages_);
    gpu.upload(to, pages.data(), pages.size() * sizeof(std::int32_t));
    pages_in_order_ = to;
  }

  void unload() override { k_b_ = v_b_ = nullptr; }

  std::uint64_t weight_bytes() const override {
    const std::int64_t values = n_heads_ * mla_.kv_lora_rank * (mla_.qk_nope_dim + mla_.v_head_dim);
    return k_b_ == nullptr ? 0 : static_cast<std::uint64_t>(values) * 2;
  }
  std::string weight_format() const override {
    return k_b_ == nullptr ? std::string()
                           : std::string(formats::traits(tensor::Format::kBF16).name);
  }
  std::string kernel_name() const override { return "cuda latent attention"; }

  tensor::KvLayerSpec state_spec() const override {
    tensor::KvLayerSpec spec = LatentBase::state_spec();
    spec.gpu = gpu_;
    return spec;
  }

 private:
  // Products on a GPU round to bf16 anyway: wider weights lose nothing more.
  static tensor::Format stored_as(const io::TensorInfo& info) {
    return info.format == tensor::Format::kF32 ? tensor::Format::kBF16 : info.format;
  }

  // Neighbouring sequences of a batch, on their GPU.
  struct Rows {
    GpuStep& gpu;
    KvCache cache;
    std::uint16_t* q;      // [batch's rows, n_heads, nope + rope]
    std::uint16_t* mixed;  // [batch's rows, n_heads, v]
    std::int64_t all_rows;
    std::int64_t item = 0, n_items = 0, row = 0, n_rows = 0, max_rows = 0, max_keys = 0;
  };

  void do_run(Step& step, std::int64_t layer, Activation& x, Activation& delta) noexcept override {
    GpuStep& gpu = step.gpu(gpu_);
    Activation q(step, x.n_rows(), n_heads_ * q_head_dim(), GpuType::kBF16);
    Activation latents(step, x.n_rows(), latent_dim(), GpuType::kBF16);
    project(step, x, q, latents);
    const tensor::KvStreamView& stream = step.kv[static_cast<std::size_t>(layer)].streams[0];
    const KvCache cache = gpu_cache(stream);
    store(step, gpu, latents, cache);
    Activation mixed(step, x.n_rows(), n_heads_ * mla_.v_head_dim, GpuType::kBF16);
    attend_all(step, {gpu, cache, static_cast<std::uint16_t*>(q.update_on(gpu)),
                      static_cast<std::uint16_t*>(mixed.write_on(gpu)), x.n_rows()});
    o_proj_->run(step, mixed, delta);
  }

  void store(Step& step, GpuStep& gpu, Activation& latents, const KvCache& cache) noexcept {
    const Norm::OnGpu norm = kv_a_norm_->on(gpu);
    if (norm.weight == nullptr) {  // it is elsewhere
      const MatrixF rows = latents.update();
      for (std::int64_t r = 0; r < rows.n_rows; ++r)
        kv_a_norm_->run_vectors(step, rows.row(r), 1, mla_.kv_lora_rank);
    }
    const GpuStep::Sequences& sequences = gpu.sequences();
    kernels::cuda::StoreLatentsArgs args;
    args.x = latents.read_on(gpu);
    args.weight = norm.weight;
    args.eps = norm.eps;
    args.rank = mla_.kv_lora_rank;
    args.rope = mla_.qk_rope_dim;
    args.cos = rotary_.cos_on(gpu);
    args.sin = rotary_.sin_on(gpu);
    args.cache = cache;
    args.table = sequences.table;
    args.items = sequences.items;
    args.n_items = sequences.n_items;
    args.max_item_rows = sequences.max_rows;
    launch(gpu, [&](auto& k, auto stream) { return k.store_latents(args, stream); });
  }

  // Sequences in the form that suits each; neighbours in absorbed form go together.
  void attend_all(Step& step, Rows all) noexcept {
    const GpuStep::Sequences& sequences = all.gpu.sequences();
    if (absorb_ || all.all_rows < kFewestExpanded) {
      all.n_items = sequences.n_items;
      all.n_rows = all.all_rows;
      all.max_rows = sequences.max_rows;
      all.max_keys = sequences.max_keys;
      absorbed(all);
      return;
    }
    reserve(all);
    const auto flush = [&] {
      if (all.n_items > 0) absorbed(all);
      all.n_items = all.n_rows = all.max_rows = all.max_keys = 0;
    };
    std::int64_t item = 0;
    for (const SequenceRows& s : step.batch.sequences) {
      const bool alone = s.n_rows >= kFewestExpanded && expands(s) && heads_at_once(s) > 0;
      if (alone) flush();
      if (all.n_items == 0) {
        all.item = item;
        all.row = s.row_begin;
      }
      ++all.n_items;
      ++item;
      all.n_rows += s.n_rows;
      all.max_rows = std::max(all.max_rows, s.n_rows);
      all.max_keys = std::max(all.max_keys, s.position + s.n_rows);
      if (!alone) continue;
      expanded(all, heads_at_once(s));
      all.n_items = all.n_rows = all.max_rows = all.max_keys = 0;
    }
    flush();
  }

  std::size_t head_bytes(std::int64_t rows, std::int64_t values) const {
    return static_cast<std::size_t>(rows * n_heads_ * values) * 2;
  }

  // What either form needs is there from the first, largest step on.
  void reserve(const Rows& all) const noexcept {
    const std::size_t mark = all.gpu.mark();
    all.gpu.allocate(head_bytes(all.all_rows, latent_dim()));
    all.gpu.allocate(head_bytes(all.all_rows, mla_.kv_lora_rank));
    all.gpu.allocate(score_bytes(all, latent_dim(), mla_.kv_lora_rank));
    all.gpu.release(mark);
    all.gpu.allocate(expand_bytes_);
    all.gpu.allocate(head_bytes(all.all_rows, mla_.v_head_dim));
    all.gpu.allocate(bytes_to_widen(all.cache));
    all.gpu.allocate(score_bytes(all, q_head_dim(), mla_.v_head_dim));
    all.gpu.release(mark);
  }

  std::size_t score_bytes(const Rows& all, std::int64_t dim_qk, std::int64_t dim_v) const {
    const std::int64_t max_keys = all.gpu.sequences().max_keys;
    return gpu_score_bytes(all.all_rows, n_heads_, max_keys, dim_qk, dim_v);
  }

  static std::size_t bytes_to_widen(const KvCache& cache) {
    return cache.type == CacheType::kBF16 ? 0 : kernels::cuda::widened_bytes(cache);
  }

  // The latents of `rows` in bf16.
  KvCache widened(const Rows& rows) const noexcept {
    if (rows.cache.type == CacheType::kBF16) return rows.cache;
    const GpuStep::Sequences& sequences = rows.gpu.sequences();
    kernels::cuda::WidenArgs args;
    args.from = rows.cache;
    args.to = rows.gpu.allocate(bytes_to_widen(rows.cache));
    args.table = sequences.table;
    args.items = sequences.items + rows.item;
    args.n_items = rows.n_items;
    args.max_keys = rows.max_keys;
    launch(rows.gpu, [&](auto& k, auto stream) { return k.widen_cache(args, stream); });
    return kernels::cuda::widened(rows.cache, args.to);
  }

  void absorbed(const Rows& rows) noexcept {
    GpuStep& gpu = rows.gpu;
    const std::size_t mark = gpu.mark();
    const std::int64_t rank = mla_.kv_lora_rank, v = mla_.v_head_dim;
    void* q_latent = gpu.allocate(head_bytes(rows.all_rows, latent_dim()));
    void* o_latent = gpu.allocate(head_bytes(rows.all_rows, rank));
    HeadProductsArgs keys = products(k_b_, rank, mla_.qk_nope_dim, rows.n_rows);
    keys.x = at_row(rows.q, rows.row, q_head_dim());
    keys.x_row_stride = n_heads_ * q_head_dim();
    keys.x_head_stride = q_head_dim();
    keys.y = at_row(q_latent, rows.row, latent_dim());
    keys.y_row_stride = n_heads_ * latent_dim();
    keys.y_head_stride = latent_dim();
    keys.tail = mla_.qk_rope_dim;
    keys.cos = rotary_.cos_on(gpu) + rows.row * mla_.qk_rope_dim / 2;
    keys.sin = rotary_.sin_on(gpu) + rows.row * mla_.qk_rope_dim / 2;
    multiply(gpu, keys);

    AttentionArgs args =
        attention(rows, at_row(q_latent, rows.row, latent_dim()), at_row(o_latent, rows.row, rank));
    args.q_token_stride = n_heads_ * latent_dim();
    args.q_head_stride = latent_dim();
    args.k = args.v = rows.cache;
    args.table = gpu.sequences().table;
    args.n_heads = n_heads_;
    args.n_kv_heads = 1;
    args.dim_qk = latent_dim();
    args.dim_v = rank;
    gpu_attend(gpu, path().c_str(), args);

    HeadProductsArgs values = products(v_b_, v, rank, rows.n_rows);
    values.x = at_row(o_latent, rows.row, rank);
    values.x_row_stride = n_heads_ * rank;
    values.x_head_stride = rank;
    values.y = at_row(rows.mixed, rows.row, v);
    values.y_row_stride = n_heads_ * v;
    values.y_head_stride = v;
    multiply(gpu, values);
    gpu.release(mark);
  }

  // Keys and values of so many heads, for all that a sequence has cached, fit into the memory for
  // them; parts of equal size, 0 when not even one does.
  std::int64_t heads_at_once(const SequenceRows& s) const noexcept {
    const std::int64_t values = (s.position + s.n_rows) * (q_head_dim() + mla_.v_head_dim);
    const std::int64_t most = static_cast<std::int64_t>(expand_bytes_) / (2 * values);
    if (most == 0) return 0;
    const std::int64_t parts = (n_heads_ + most - 1) / most;
    return (n_heads_ + parts - 1) / parts;
  }

  // One sequence.
  void expanded(const Rows& rows, std::int64_t heads_at_once) noexcept {
    GpuStep& gpu = rows.gpu;
    const std::size_t mark = gpu.mark();
    auto* memory = static_cast<std::uint16_t*>(gpu.allocate(expand_bytes_));
    const std::int64_t v = mla_.v_head_dim;
    auto* part = static_cast<std::uint16_t*>(gpu.allocate(head_bytes(rows.n_rows, v)));
    std::uint16_t* mixed = at_row(rows.mixed, rows.row, v);
    std::uint16_t* q = at_row(rows.q, rows.row, q_head_dim());
    const KvCache latents = widened(rows);
    rotate(rows);
    for (std::int64_t head = 0; head < n_heads_; head += heads_at_once) {
      const std::int64_t n = std::min(heads_at_once, n_heads_ - head);
      std::uint16_t* keys = memory;
      std::uint16_t* values = keys + rows.max_keys * n * q_head_dim();
      expand(rows, latents, head, n, keys, values);
      const bool whole = n == n_heads_;
      AttentionArgs args = attention(rows, q + head * q_head_dim(), whole ? mixed : part);
      args.q_token_stride = n_heads_ * q_head_dim();
      args.q_head_stride = q_head_dim();
      args.k = {keys, n * q_head_dim(), q_head_dim()};
      args.v = {values, n * v, v};
      args.table = {pages_in_order_, 0};
      args.n_heads = args.n_kv_heads = n;
      args.dim_qk = q_head_dim();
      args.dim_v = v;
      gpu_attend(gpu, path().c_str(), args);
      if (whole) break;
      backend::Copy2d copy;
      copy.to = mixed + head * v;
      copy.to_stride = head_bytes(1, v);
      copy.from = part;
      copy.from_stride = copy.row_bytes = static_cast<std::size_t>(n * v) * 2;
      copy.n_rows = static_cast<std::size_t>(rows.n_rows);
      copy.kind = backend::CopyKind::kOnDevice;
      launch(gpu, [&](auto& k, auto stream) { return k.copy_2d(copy, stream); });
    }
    gpu.release(mark);
  }

  // Keys and values of heads [head, head + n), of all positions.
  void expand(const Rows& rows, const KvCache& latents, std::int64_t head, std::int64_t n,
              std::uint16_t* keys, std::uint16_t* values) noexcept {
    GpuStep& gpu = rows.gpu;
    const std::int64_t nope = mla_.qk_nope_dim, rank = mla_.kv_lora_rank, v = mla_.v_head_dim;
    const kernels::cuda::PageTable& table = gpu.sequences().table;
    const auto of = [&](const void* w, std::int64_t n_out, std::int64_t width, std::uint16_t* y) {
      HeadProductsArgs args = products(static_cast<const std::uint16_t*>(w) + head * n_out * rank,
                                       n_out, rank, rows.max_keys);
      args.n_heads = n;
      args.x = latents.base;
      args.x_row_stride = latents.row_stride;
      args.pages = table.pages + rows.item * table.stride;
      args.y = y;
      args.y_row_stride = n * width;
      args.y_head_stride = width;
      return args;
    };
    HeadProductsArgs k = of(k_b_, nope, q_head_dim(), keys);
    k.transposed = true;
    k.tail = mla_.qk_rope_dim;
    multiply(gpu, k);
    multiply(gpu, of(v_b_, v, v, values));
  }

  // The rotary part of queries, in place.
  void rotate(const Rows& rows) noexcept {
    GpuStep& gpu = rows.gpu;
    kernels::cuda::RopeArgs args;
    args.x = at_row(rows.q, rows.row, q_head_dim()) + mla_.qk_nope_dim;
    args.n_tokens = rows.n_rows;
    args.n_heads = n_heads_;
    args.d = mla_.qk_rope_dim;
    args.token_stride = n_heads_ * q_head_dim();
    args.head_stride = q_head_dim();
    args.positions = gpu.row_numbers() + rows.row;  // the tables have a row for each of the batch's
    args.cos = rotary_.cos_on(gpu);
    args.sin = rotary_.sin_on(gpu);
    args.interleaved = true;
    launch(gpu, [&](auto& k, auto stream) { return k.rope(args, stream); });
  }

  // `q` and `out` begin with the rows'.
  AttentionArgs attention(const Rows& rows, const void* q, void* out) const noexcept {
    AttentionArgs args;
    args.q = q;
    args.items = rows.gpu.sequences().items + rows.item;
    args.n_items = rows.n_items;
    args.first_row = rows.row;
    args.n_rows = rows.n_rows;
    args.max_item_rows = rows.max_rows;
    args.max_keys = rows.max_keys;
    args.scale = scale_;
    args.out = out;
    return args;
  }

  HeadProductsArgs products(const void* w, std::int64_t n, std::int64_t k,
                            std::int64_t m) const noexcept {
    HeadProductsArgs args;
    args.w = w;
    args.n_heads = n_heads_;
    args.n = n;
    args.k = k;
    args.m = m;
    return args;
  }

  // Row `row` of [rows, n_heads, values].
  std::uint16_t* at_row(void* data, std::int64_t row, std::int64_t values) const noexcept {
    return static_cast<std::uint16_t*>(data) + row * n_heads_ * values;
  }

  void multiply(GpuStep& gpu, const HeadProductsArgs& args) const noexcept {
    launch(gpu, [&](auto& k, auto stream) { return k.head_products(args, stream); });
  }

  template <class F>
  void launch(GpuStep& gpu, F&& f) const noexcept {
    gpu.run(path().c_str(), f);
  }

  int gpu_;
  std::int64_t n_pages_;
  std::size_t expand_bytes_;
  const void* k_b_ = nullptr;                     // [n_heads, kv_lora, nope] bf16
  const void* v_b_ = nullptr;                     // [n_heads, v, kv_lora] bf16
  const std::int32_t* pages_in_order_ = nullptr;  // 0, 1, …: what is not in pages
};

}  // namespace

std::unique_ptr<Attention> make_gpu_mla_attention(const Builder& at, const MlaSpec& spec) {
  return std::make_unique<GpuLatent>(at, spec);
}

}  // namespace kt::operators
