#include "backend/gpu/self_check.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>

#include "base/half.h"
#include "base/noise.h"
#include "kernels/cpu/dot/n16.h"
#include "kernels/cuda/gemm/reference.h"

namespace kt::backend {
namespace {

using formats::Format;
using kernels::cuda::AttentionArgs;
using kernels::cuda::CacheType;
using kernels::cuda::GemmArgs;
using kernels::cuda::Matrix;
using kernels::cuda::MoeArgs;
using kernels::cuda::SequenceItem;
using kernels::cuda::Type;

double relative_error(const std::vector<float>& got, const std::vector<float>& want) {
  double difference = 0.0, size = 0.0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double d = double{got[i]} - want[i];
    difference += d * d;
    size += double{want[i]} * want[i];
  }
  const double error = std::sqrt(difference / size);
  return std::isfinite(error) ? error : std::numeric_limits<double>::infinity();
}

/// Of the sums of lists; infinite where that is more than they may have, or the lists differ.
double difference(const std::vector<kernels::cuda::RowList>& got,
                  const std::vector<kernels::cuda::RowList>& want) {
  std::vector<float> sums[2];
  bool same = true;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const auto &a = got[i], &b = want[i];
    same &= a.n == b.n && b.n == kernels::cuda::kListed && a.largest == b.largest &&
            std::equal(a.ids, a.ids + kernels::cuda::kListed, b.ids) &&
            std::equal(a.logits, a.logits + kernels::cuda::kListed, b.logits);
    for (const auto& [list, to] : {std::pair(&a, &sums[0]), std::pair(&b, &sums[1])}) {
      to->push_back(static_cast<float>(list->sum));
      to->push_back(static_cast<float>(list->scaled_sum));
    }
  }
  const double error = relative_error(sums[0], sums[1]);
  return same && error <= kernels::cuda::kListSumError ? error
                                                       : std::numeric_limits<double>::infinity();
}

std::string format_name(Format format) { return std::string(formats::traits(format).name); }

std::string rows_text(std::int64_t m) { return m == 1 ? "1 row" : fmt::format("{} rows", m); }

/// Both ways to compute the n values of y.
struct Pair {
  std::function<Status()> fast, slow;
  float* y = nullptr;
  std::int64_t n = 0;
};

class SelfCheck {
 public:
  explicit SelfCheck(Gpu& gpu) : gpu_(gpu) {}
  std::vector<GpuCheck> run(const GpuKernels& kernels);

 private:
  const GpuApi& api() const { return gpu_.api(); }
  void products(Format format);
  void siblings(Format a, Format b);
  void experts(Format gate, Format down);
  void streamed(Format format);
  void streamed_sums();
  void attention(const GpuHeads& heads, std::int64_t prompt_rows);
  void head_products(std::int64_t m);
  void lists(std::int64_t m);

  template <class T>
  T* put(const std::vector<T>& values) {
    T* to = gpu_.allocate<T>(static_cast<std::int64_t>(values.size()));
    gpu_.upload(to, values.data(), values.size() * sizeof(T));
    return to;
  }
  std::uint16_t* put_bf16(std::int64_t n, std::uint32_t seed) {
    std::vector<std::uint16_t> x;
    for (const float v : noise(n, seed)) x.push_back(f32_to_bf16(v));
    return put(x);
  }
  void* put_cache(std::int64_t n, std::uint32_t seed, CacheType type) {
    if (type == CacheType::kBF16) return put_bf16(n, seed);
    std::vector<std::uint8_t> codes;
    for (const float v : noise(n, seed)) codes.push_back(f32_to_fp8_e4m3(v));
    return put(codes);
  }
  /// `count` matrices in file order, one after the other; `shape` says format, n and k. Few rows
  /// are encoded, which takes long, and come again in a turn that no tile has.
  static std::vector<std::byte> make_rows(const Matrix& shape, std::int64_t count,
                                          std::uint32_t seed);
  /// The same, packed.
  std::byte* put_matrices(const Matrix& shape, std::int64_t count, std::uint32_t seed);

  std::vector<float> values(const Pair& pair, const std::function<Status()>& compute);
  /// Adds a result: the error that `measure` gives, or why it threw. Its memory is given back.
  void add(GpuCheck check, const std::function<double()>& measure);
  void compare(GpuCheck check, const std::function<Pair()>& prepare);
  void absent(GpuCheck check, const char* problem) {
    check.problem = problem;
    results_.push_back(std::move(check));
  }

  Gpu& gpu_;
  std::vector<GpuCheck> results_;
};

std::vector<std::byte> SelfCheck::make_rows(const Matrix& shape, std::int64_t count,
                                            std::uint32_t seed) {
  const std::size_t row = formats::row_bytes(shape.format, shape.k);
  constexpr std::int64_t kTurn = 13;
  const std::vector<float> x = noise(kTurn * shape.k, seed);
  const auto n_rows = static_cast<std::size_t>(count * shape.n);
  std::vector<std::byte> rows(n_rows * row);
  for (std::size_t i = 0; i < n_rows; ++i) {
    std::byte* to = rows.data() + i * row;
    const auto turn = static_cast<std::size_t>(kTurn);
    if (i >= turn) {
      std::memcpy(to, to - turn * row, row);
    } else {
      formats::traits(shape.format)
          .encode(x.data() + static_cast<std::int64_t>(i) * shape.k, nullptr, to, shape.k);
    }
  }
  return rows;
}

std::byte* SelfCheck::put_matrices(const Matrix& shape, std::int64_t count, std::uint32_t seed) {
  const std::size_t row = formats::row_bytes(shape.format, shape.k);
  const std::byte* in_file_order = put(make_rows(shape, count, seed));
  const std::size_t bytes = api().packed_bytes(shape.format, shape.n, shape.k);
  std::byte* tiles = gpu_.allocate_bytes(static_cast<std::size_t>(count) * bytes);
  for (std::int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<std::size_t>(i);
    gpu_.check(
        api().pack(shape.format, in_file_order + at * static_cast<std::size_t>(shape.n) * row,
                   shape.n, shape.k, tiles + at * bytes, gpu_.stream()),
        "pack");
  }
  return tiles;
}

std::vector<float> SelfCheck::values(const Pair& pair, const std::function<Status()>& compute) {
  std::vector<float> y(static_cast<std::size_t>(pair.n));
  constexpr int kNaN = 0xff;  // a value that no kernel writes is seen
  gpu_.check(api().fill(pair.y, kNaN, y.size() * sizeof(float), gpu_.stream()), "fill");
  gpu_.check(compute(), "kernel");
  gpu_.download(y.data(), pair.y, y.size() * sizeof(float));
  return y;
}

void SelfCheck::add(GpuCheck check, const std::function<double()>& measure) {
  const std::size_t mark = gpu_.mark();
  try {
    check.error = measure();
    check.outcome =
        check.error <= kLargestGpuError ? GpuCheck::Outcome::kAgrees : GpuCheck::Outcome::kDiffers;
  } catch (const Error& e) {
    check.outcome = GpuCheck::Outcome::kFailed;
    check.problem = e.what();
  }
  gpu_.release(mark);
  results_.push_back(std::move(check));
}

void SelfCheck::compare(GpuCheck check, const std::function<Pair()>& prepare) {
  add(std::move(check), [&] {
    const Pair pair = prepare();
    const std::vector<float> slow = values(pair, pair.slow);
    return relative_error(values(pair, pair.fast), slow);
  });
}

void SelfCheck::products(Format format) {
  if (!api().has_gemm(format)) return absent({"products", format_name(format)}, "no kernel");
  for (const std::int64_t m : {1, 8, 64, 128}) {
    const GpuCheck check{"products", fmt::format("{}, {}", format_name(format), rows_text(m))};
    if (m > kernels::cuda::kDirectRows && gpu_.blas() == nullptr) {
      absent(check, "cuBLASLt was not found");
      continue;
    }
    compare(check, [this, format, m] {
      GemmArgs args;
      args.w = {format, nullptr, 136, 1024};  // the last tile is half full
      args.w.tiles = put_matrices(args.w, 1, 1);
      args.x = put_bf16(m * args.w.k, 2);
      args.x_stride = args.w.k;
      args.m = m;
      args.y_stride = args.w.n;
      float* y = gpu_.allocate<float>(m * args.w.n);
      args.y = y;
      args.workspace_bytes = std::max(api().gemm_workspace(args.w, m, gpu_.info()),
                                      kernels::cuda::reference_slab_bytes(args.w));
      args.workspace = gpu_.allocate_bytes(args.workspace_bytes);
      return Pair{[=, this] { return api().gemm(args, gpu_.info(), gpu_.blas(), gpu_.stream()); },
                  [=, this] { return api().gemm_reference(args, gpu_.stream()); }, y, m * args.w.n};
    });
  }
}

// One row with matrices of two formats: one launch for those that files mix, as some with Q6_K.
void SelfCheck::siblings(Format a, Format b) {
  if (!api().has_gemm(a) || !api().has_gemm(b)) return;  // said by products()
  const std::string what = fmt::format("{} beside {}, 1 row", format_name(a), format_name(b));
  compare({"products", what}, [this, a, b] {
    kernels::cuda::SiblingsArgs args;
    args.count = 2;
    constexpr std::int64_t kN = 136, kK = 1024;
    float* y = gpu_.allocate<float>(2 * kN);
    GemmArgs& first = args.products[0];
    first.x = put_bf16(kK, 1);
    first.x_stride = kK;
    first.m = 1;
    for (int i = 0; i < 2; ++i) {
      GemmArgs& product = args.products[i];
      product.w = {i == 0 ? a : b, nullptr, kN, kK};
      product.w.tiles = put_matrices(product.w, 1, 2);
      product.y = y + i * kN;
      product.y_stride = kN;
      first.workspace_bytes =
          std::max(first.workspace_bytes, kernels::cuda::reference_slab_bytes(product.w));
    }
    first.workspace_bytes =
        std::max(first.workspace_bytes, api().gemm_siblings_workspace(args, gpu_.info()));
    first.workspace = gpu_.allocate_bytes(first.workspace_bytes);
    GemmArgs second = first;
    second.w = args.products[1].w;
    second.y = args.products[1].y;
    return Pair{
        [=, this] { return api().gemm_siblings(args, gpu_.info(), gpu_.blas(), gpu_.stream()); },
        [=, this] {
          const Status status = api().gemm_reference(args.products[0], gpu_.stream());
          return status == Status::kOk ? api().gemm_reference(second, gpu_.stream()) : status;
        },
        y, 2 * kN};
  });
}

void SelfCheck::experts(Format gate, Format down) {
  const std::string name = format_name(gate) + " and " + format_name(down);
  if (!api().has_moe(gate) || !api().has_moe(down)) return absent({"experts", name}, "no kernel");
  for (const std::int64_t m : {1, 24}) {
    compare({"experts", fmt::format("{}, {}", name, rows_text(m))}, [this, gate, down, m] {
      MoeArgs args;
      args.n_experts = 8;
      args.d_model = 512;
      args.d_ff = 256;
      args.n_active = 2;
      args.m = m;
      args.gate = {gate, put_matrices({gate, nullptr, args.d_ff, args.d_model}, 8, 1)};
      args.up = {gate, put_matrices({gate, nullptr, args.d_ff, args.d_model}, 8, 2)};
      args.down = {down, put_matrices({down, nullptr, args.d_model, args.d_ff}, 8, 3)};
      args.x = put_bf16(m * args.d_model, 4);
      std::vector<std::int32_t> ids;
      for (std::int64_t i = 0; i < m * args.n_active; ++i)
        ids.push_back(static_cast<std::int32_t>(i * 5 % 7));  // the last expert gets nothing
      args.ids = put(ids);
      args.weights = put(noise(m * args.n_active, 5));
      args.x_stride = args.y_stride = args.d_model;
      float* y = gpu_.allocate<float>(m * args.d_model);
      args.y = y;
      args.workspace_bytes =
          std::max(api().moe_workspace(args), api().moe_reference_workspace(args));
      args.workspace = gpu_.allocate_bytes(args.workspace_bytes);
      return Pair{[=, this] { return api().moe(args, gpu_.stream()); },
                  [=, this] { return api().moe_reference(args, gpu_.stream()); }, y,
                  m * args.d_model};
    });
  }
}

// Matrices that lie packed for the CPU: their tiles must be those of the same rows in file order.
void SelfCheck::streamed(Format format) {
  const GpuCheck check{"streamed", format_name(format)};
  const kernels::dot::N16Layout* layout = kernels::dot::n16_layout(format);
  if (!api().has_moe(format) || layout == nullptr) return absent(check, "no kernel");
  add(check, [&] {
    const Matrix shape{format, nullptr, 40, 512};
    constexpr std::int64_t kCount = 2;
    const std::size_t row = formats::row_bytes(format, shape.k), tile = layout->tile_bytes(shape.k),
                      stride = (3 * tile + 63) / 64 * 64, n = 40;
    const std::vector<std::byte> rows = make_rows(shape, kCount, 1);
    std::vector<std::byte> packed(kCount * stride);
    for (std::size_t i = 0; i < kCount * n; ++i) {
      layout->pack_row(rows.data() + i * row, shape.k, static_cast<int>(i % n % 16),
                       packed.data() + i / n * stride + i % n / 16 * tile);
    }
    const std::size_t each = api().packed_bytes(format, shape.n, shape.k);
    std::byte* tiles = gpu_.allocate_bytes(kCount * each);
    const std::byte* from = put(packed);
    gpu_.check(api().pack_n16({format, from, stride, shape.n, shape.k, tiles, each, kCount},
                              gpu_.stream()),
               "kernel");
    std::vector<std::byte> got(kCount * each), want(kCount * each);
    gpu_.download(got.data(), tiles, got.size());
    gpu_.download(want.data(), put_matrices(shape, kCount, 1), want.size());
    return got == want ? 0.0 : std::numeric_limits<double>::infinity();
  });
}

// What streamed experts add to a step's rows.
void SelfCheck::streamed_sums() {
  add({"streamed", "sums"}, [&] {
    constexpr std::int64_t kD = 512, kRows = 7;
    const std::vector<std::int32_t> rows = {6, 0, 3, 1}, begins = {0, 2, 3, 5, 9};
    const std::vector<float> x = noise(begins.back() * kD, 1);
    std::vector<float> want = noise(kRows * kD, 2), got(want.size());
    kernels::cuda::ScatterAddArgs args;
    args.x = put(x);
    args.rows = put(rows);
    args.begins = put(begins);
    args.y = put(want);
    args.m = static_cast<std::int64_t>(rows.size());
    args.d = kD;
    gpu_.check(api().scatter_add(args, gpu_.stream()), "kernel");
    gpu_.download(got.data(), args.y, got.size() * sizeof(float));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      float* y = want.data() + rows[i] * kD;
      for (std::int64_t v = begins[i] * kD; v < begins[i + 1] * kD; ++v)
        y[v % kD] += x[static_cast<std::size_t>(v)];
    }
    return relative_error(got, want);
  });
}

// One sequence that decodes and one with a prompt, over pages that lie backwards.
void SelfCheck::attention(const GpuHeads& heads, std::int64_t prompt_rows) {
  const auto [dim_qk, dim_v, latent, type] = heads;
  const std::int64_t n_kv_heads = latent ? 1 : 4;
  const GpuCheck check{
      "attention", fmt::format("{} {}+{}{}, {}", latent ? "MLA" : "GQA", dim_qk, dim_v,
                               type == CacheType::kE4M3 ? " in E4M3" : "", rows_text(prompt_rows))};
  if (!api().has_attention(dim_qk, dim_v)) return absent(check, "no kernel");
  compare(check, [=, this, dim_qk = dim_qk, dim_v = dim_v, latent = latent, type = type] {
    const std::vector<SequenceItem> items = {{0, 1, 700, 0},
                                             {1, static_cast<std::int32_t>(prompt_rows), 63, 1}};
    constexpr std::int64_t kPages = 12, kTables = 2;
    std::vector<std::int32_t> pages(kTables * kPages);
    for (std::size_t i = 0; i < pages.size(); ++i)
      pages[i] = static_cast<std::int32_t>(pages.size() - 1 - i);
    AttentionArgs args;
    args.n_heads = 16;
    args.n_kv_heads = n_kv_heads;
    args.dim_qk = dim_qk;
    args.dim_v = dim_v;
    args.n_items = static_cast<std::int64_t>(items.size());
    args.n_rows = 1 + prompt_rows;
    args.max_item_rows = prompt_rows;
    args.max_keys = 701;
    args.q = put_bf16(args.n_rows * args.n_heads * dim_qk, 1);
    args.q_token_stride = args.n_heads * dim_qk;
    args.q_head_stride = dim_qk;
    const auto cache = [&](std::int64_t dim, std::uint32_t seed) {
      const std::int64_t row = n_kv_heads * dim, n_pages = kTables * kPages;
      return kernels::cuda::KvCache{put_cache(n_pages * kernels::cuda::kPageLen * row, seed, type),
                                    row, dim, type, n_pages};
    };
    args.k = cache(dim_qk, 2);
    args.v = latent ? args.k : cache(dim_v, 3);
    args.table = {put(pages), kPages};
    args.items = put(items);
    args.out_type = Type::kF32;
    const std::int64_t n = args.n_rows * args.n_heads * dim_v;
    float* out = gpu_.allocate<float>(n);
    args.out = out;
    args.split_keys = api().attention_split_keys(args, gpu_.info());
    args.workspace_bytes =
        std::max(api().attention_workspace(args), api().attention_reference_workspace(args));
    args.workspace = gpu_.allocate_bytes(args.workspace_bytes);
    return Pair{[=, this] { return api().attention(args, gpu_.stream()); },
                [=, this] { return api().attention_reference(args, gpu_.stream()); }, out, n};
  });
}

// Queries to latents, rotary values behind them.
void SelfCheck::head_products(std::int64_t m) {
  const GpuCheck check{"attention", fmt::format("MLA queries, {}", rows_text(m))};
  if (!api().has_attention(576, 512)) return absent(check, "no kernel");
  compare(check, [=, this] {
    kernels::cuda::HeadProductsArgs args;
    args.n_heads = 16;
    args.n = 512;
    args.k = 128;
    args.tail = 64;
    args.m = m;
    args.w = put_bf16(args.n_heads * args.n * args.k, 1);
    args.x_head_stride = args.k + args.tail;
    args.x_row_stride = args.n_heads * args.x_head_stride;
    args.x = put_bf16(m * args.x_row_stride, 2);
    args.y_head_stride = args.n + args.tail;
    args.y_row_stride = args.n_heads * args.y_head_stride;
    args.y = gpu_.allocate<std::uint16_t>(m * args.y_row_stride);
    args.cos = put(noise(m * args.tail / 2, 3));
    args.sin = put(noise(m * args.tail / 2, 4));
    float* out = gpu_.allocate<float>(m * args.y_row_stride);
    std::vector<std::int32_t> rows(static_cast<std::size_t>(m));
    std::iota(rows.begin(), rows.end(), 0);
    const kernels::cuda::RowsArgs floats{args.y,     Type::kBF16, put(rows),        out,
                                         Type::kF32, m,           args.y_row_stride};
    const auto then_floats = [=, this](Status status) {
      return status == Status::kOk ? api().gather_rows(floats, gpu_.stream()) : status;
    };
    return Pair{
        [=, this] { return then_floats(api().head_products(args, gpu_.stream())); },
        [=, this] { return then_floats(api().head_products_reference(args, gpu_.stream())); }, out,
        m * args.y_row_stride};
  });
}

// Lists of rows of logits: what is listed must be the same, sums may differ by their error.
void SelfCheck::lists(std::int64_t m) {
  using kernels::cuda::RowList;
  const GpuCheck check{"lists", rows_text(m)};
  kernels::cuda::ListArgs args;
  args.m = m;
  args.n = args.stride = 20011;
  args.workspace_bytes = api().list_rows_workspace(args);
  if (args.workspace_bytes == 0) return absent(check, "no kernel");
  add(check, [&] {
    args.logits = put(noise(m * args.n, 1));
    args.scales = put(std::vector<float>(static_cast<std::size_t>(m), 1.25f));
    args.workspace = gpu_.allocate_bytes(args.workspace_bytes);
    args.lists = gpu_.allocate<RowList>(m);
    const auto rows_of = [&](Status (*kernel)(const kernels::cuda::ListArgs&, Stream)) {
      std::vector<RowList> rows(static_cast<std::size_t>(m));
      gpu_.check(kernel(args, gpu_.stream()), "kernel");
      gpu_.download(rows.data(), args.lists, rows.size() * sizeof(RowList));
      return rows;
    };
    return difference(rows_of(api().list_rows), rows_of(api().list_rows_reference));
  });
}

std::vector<GpuCheck> SelfCheck::run(const GpuKernels& kernels) {
  for (const Format format : kernels.products) products(format);
  for (const Format format : kernels.products) {
    const bool mixed = kernels.products.contains(Format::kQ6_K) && format != Format::kQ6_K;
    if (mixed) siblings(format, Format::kQ6_K);
  }
  for (const auto& [gate, down] : kernels.experts) experts(gate, down);
  for (const Format format : kernels.streamed) streamed(format);
  if (std::any_of(kernels.streamed.begin(), kernels.streamed.end(), api().has_moe)) streamed_sums();
  for (const GpuHeads& heads : kernels.attention) {
    attention(heads, 1);
    attention(heads, 17);
  }
  if (std::any_of(kernels.attention.begin(), kernels.attention.end(),
                  [](const GpuHeads& heads) { return heads.latent; })) {
    head_products(1);
    head_products(64);
  }
  if (kernels.lists) {
    lists(1);
    lists(8);
  }
  return std::move(results_);
}

}  // namespace

GpuKernels common_gpu_kernels() {
  return {{Format::kBF16, Format::kQ8_0, Format::kQ4_K, Format::kQ6_K, Format::kF8_E4M3_B128,
           Format::kI4_128},
          {{Format::kQ4_K, Format::kQ6_K}, {Format::kBF16, Format::kBF16}},
          {Format::kBF16, Format::kQ4_K, Format::kQ6_K, Format::kF8_E4M3_B128},
          {{128, 128, false},
           {128, 128, false, CacheType::kE4M3},
           {576, 512, true},
           {576, 512, true, CacheType::kE4M3}},
          true};
}

std::vector<GpuCheck> check_gpu(Gpu& gpu, const GpuKernels& kernels) {
  gpu.use();
  return SelfCheck(gpu).run(kernels);
}

}  // namespace kt::backend
