// bench_cuda_kernels [--json FILE] [FAMILY…]: the kernel families on shapes of published models,
// with the share of the ceilings that the same run measures first. Families: gemv gemm moe
// attention mla heads step lists.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <random>
#include <set>

#include "kernels/cuda/attention/attention.h"
#include "kernels/cuda/bench/harness.h"
#include "kernels/cuda/bench/head_products.h"
#include "kernels/cuda/bench/step.h"
#include "kernels/cuda/gemm/gemm.h"
#include "kernels/cuda/moe/moe.h"
#include "kernels/cuda/sampling/sampling.h"

namespace kt::kernels::cuda::bench {
namespace {

using formats::Format;

std::string_view name(Format format) { return formats::traits(format).name; }

struct Shape {
  std::int64_t n, k;
};

/// A product on cold weights: few rows of x, or many with `blas`.
void bench_product(Harness& h, Format format, Shape shape, std::int64_t m, BlasLt* blas) {
  const Type y_type = blas == nullptr ? Type::kF32 : Type::kBF16;
  const auto bytes = static_cast<std::int64_t>(packed_bytes(format, shape.n, shape.k));
  const int n = h.copies(bytes);
  const Buffer tiles(n * bytes), x(m * shape.k * 2, true),
      y(m * shape.n * static_cast<std::int64_t>(type_bytes(y_type)));
  const Matrix matrix{format, tiles.get(), shape.n, shape.k};
  const Buffer workspace(static_cast<std::int64_t>(gemm_workspace(matrix, m, h.info())));
  GemmArgs args;
  args.w = matrix;
  args.x = x.get();
  args.x_stride = shape.k;
  args.m = m;
  args.y = y.get();
  args.y_type = y_type;
  args.y_stride = shape.n;
  args.workspace = workspace.get();
  args.workspace_bytes = static_cast<std::size_t>(workspace.bytes());
  // A graph takes some microseconds to start, which few launches would count as theirs.
  const double time = h.seconds(std::max(n, 24), [&](int i, cudaStream_t stream) {
    args.w.tiles = tiles.get() + i % n * bytes;
    return gemm(args, h.info(), blas, stream);
  });
  h.report(blas == nullptr ? "gemv" : "gemm",
           fmt::format("{} m {} n {} k {}", name(format), m, shape.n, shape.k), time,
           static_cast<double>(bytes), 2.0 * static_cast<double>(m * shape.n * shape.k));
}

/// Many rows, and cuBLASLt alone on weights that are bf16 already.
void bench_gemm(Harness& h, BlasLt& blas, Shape shape, std::int64_t m) {
  const Buffer x(m * shape.k * 2, true), y(m * shape.n * 2);
  const double flops = 2.0 * static_cast<double>(m * shape.n) * static_cast<double>(shape.k);
  {
    const Buffer w(shape.n * shape.k * 2, true),
        workspace(static_cast<std::int64_t>(kBlasWorkspaceBytes));
    const BlasLtArgs args{x.get(), shape.k, w.get(), y.get(), Type::kBF16,
                          shape.n, m,       shape.n, shape.k, workspace.get()};
    const double time =
        h.seconds(4, [&](int, cudaStream_t stream) { return blas.multiply(args, stream); });
    h.report("gemm", fmt::format("cuBLASLt bf16 m {} n {} k {}", m, shape.n, shape.k), time,
             static_cast<double>(shape.n * shape.k * 2), flops);
  }
  for (const Format format : {Format::kQ4_K, Format::kQ6_K, Format::kQ8_0})
    bench_product(h, format, shape, m, &blas);
}

struct Experts {
  std::string model;
  std::int64_t n_experts, n_active, d_model, d_ff;
};

void bench_moe(Harness& h, const Experts& e, Format format, std::int64_t m) {
  const auto gate_bytes = static_cast<std::int64_t>(packed_bytes(format, e.d_ff, e.d_model));
  const auto down_bytes = static_cast<std::int64_t>(packed_bytes(format, e.d_model, e.d_ff));
  const Buffer gate(e.n_experts * gate_bytes), up(e.n_experts * gate_bytes),
      down(e.n_experts * down_bytes);
  const int n = 16;
  const Buffer x(m * e.d_model * 2, true), y(m * e.d_model * 4);
  const Buffer ids(n * m * e.n_active * 4), weights(m * e.n_active * 4, true);
  std::mt19937 rng(1);
  std::vector<std::int32_t> chosen;
  double used = 0.0;
  for (int i = 0; i < n; ++i) {
    std::set<std::int32_t> distinct;
    for (std::int64_t t = 0; t < m; ++t) {
      std::vector<std::int32_t> all(static_cast<std::size_t>(e.n_experts));
      for (std::size_t j = 0; j < all.size(); ++j) all[j] = static_cast<std::int32_t>(j);
      std::shuffle(all.begin(), all.end(), rng);
      chosen.insert(chosen.end(), all.begin(), all.begin() + e.n_active);
      distinct.insert(all.begin(), all.begin() + e.n_active);
    }
    used += static_cast<double>(distinct.size()) / n;
  }
  ids.upload(chosen);
  MoeArgs args;
  args.gate = {format, gate.get()};
  args.up = {format, up.get()};
  args.down = {format, down.get()};
  args.n_experts = e.n_experts;
  args.d_model = e.d_model;
  args.d_ff = e.d_ff;
  args.x = x.get();
  args.x_stride = args.y_stride = e.d_model;
  args.m = m;
  args.n_active = e.n_active;
  args.weights = reinterpret_cast<const float*>(weights.get());
  args.y = y.get();
  const Buffer workspace(static_cast<std::int64_t>(moe_workspace(args)));
  args.workspace = workspace.get();
  args.workspace_bytes = static_cast<std::size_t>(workspace.bytes());
  const double time = h.seconds(n, [&](int i, cudaStream_t stream) {
    args.ids = reinterpret_cast<const std::int32_t*>(ids.get()) + i * m * e.n_active;
    return moe(args, stream);
  });
  h.report("moe", fmt::format("{} {} m {}", e.model, name(format), m), time,
           used * static_cast<double>(2 * gate_bytes + down_bytes),
           6.0 * static_cast<double>(m * e.n_active * e.d_model * e.d_ff));
}

struct Heads {
  std::string family;
  std::int64_t n_heads, n_kv_heads, dim_qk, dim_v;
  bool portable = false;  // AttentionArgs::portable
  CacheType cache = CacheType::kBF16;
};

/// `batch` sequences of `context` keys, the last n_rows of each being the queries.
void bench_attention(Harness& h, const Heads& heads, std::int64_t batch, std::int64_t context,
                     std::int64_t n_rows) {
  const bool mla = heads.dim_qk == 576;
  const std::int64_t n_pages = context / kPageLen;
  const std::int64_t k_row = heads.n_kv_heads * heads.dim_qk,
                     v_row = mla ? 0 : heads.n_kv_heads * heads.dim_v;
  const std::int64_t size = cache_bytes(heads.cache);
  const std::int64_t copy_bytes = batch * context * (k_row + v_row) * size;
  const int n = n_rows > 1 ? 2 : h.copies(copy_bytes);
  std::vector<std::int32_t> pages(static_cast<std::size_t>(n * batch * n_pages));
  for (std::size_t i = 0; i < pages.size(); ++i) pages[i] = static_cast<std::int32_t>(i);
  std::shuffle(pages.begin(), pages.end(), std::mt19937(1));
  std::vector<SequenceItem> items;
  for (std::int64_t s = 0; s < batch; ++s) {
    items.push_back({static_cast<std::int32_t>(s * n_rows), static_cast<std::int32_t>(n_rows),
                     static_cast<std::int32_t>(context - n_rows), static_cast<std::int32_t>(s)});
  }
  const Buffer k(n * batch * context * k_row * size, true),
      v(n * batch * context * v_row * size, true);
  const Buffer table(static_cast<std::int64_t>(pages.size()) * 4),
      item_memory(static_cast<std::int64_t>(items.size() * sizeof(SequenceItem)));
  table.upload(pages);
  item_memory.upload(items);
  const Buffer q(batch * n_rows * heads.n_heads * heads.dim_qk * 2, true),
      out(batch * n_rows * heads.n_heads * heads.dim_v * 2);
  AttentionArgs args;
  args.q = q.get();
  args.q_token_stride = heads.n_heads * heads.dim_qk;
  args.q_head_stride = heads.dim_qk;
  // Of the copies one is in use, but kernels know of all pages.
  args.k = {k.get(), k_row, heads.dim_qk, heads.cache, n * batch * n_pages};
  args.v = {v.get(), v_row, heads.dim_v, heads.cache, n * batch * n_pages};
  args.items = reinterpret_cast<const SequenceItem*>(item_memory.get());
  args.n_items = batch;
  args.n_rows = batch * n_rows;
  args.max_item_rows = n_rows;
  args.max_keys = context;
  args.n_heads = heads.n_heads;
  args.n_kv_heads = heads.n_kv_heads;
  args.dim_qk = heads.dim_qk;
  args.dim_v = heads.dim_v;
  args.scale = 0.1f;
  args.out = out.get();
  args.portable = heads.portable;
  args.split_keys = attention_split_keys(args, h.info());
  const Buffer workspace(static_cast<std::int64_t>(attention_workspace(args)));
  args.workspace = workspace.get();
  args.workspace_bytes = static_cast<std::size_t>(workspace.bytes());
  const double time = h.seconds(n, [&](int i, cudaStream_t stream) {
    args.table = {reinterpret_cast<const std::int32_t*>(table.get()) + i * batch * n_pages,
                  n_pages};
    return attention(args, stream);
  });
  const double keys =
      static_cast<double>(context) - static_cast<double>(n_rows - 1) / 2.0;  // mean seen by a query
  h.report(
      heads.family,
      fmt::format("{}/{} x {} batch {} context {} rows {}{}{}", heads.n_heads, heads.n_kv_heads,
                  heads.dim_qk, batch, context, n_rows, heads.portable ? " mma.sync" : "",
                  heads.cache == CacheType::kE4M3 ? " E4M3" : ""),
      time, static_cast<double>(copy_bytes),
      2.0 * static_cast<double>(batch * n_rows * heads.n_heads * (heads.dim_qk + heads.dim_v)) *
          keys);
}

/// Short lists of logits that the head has just left, for the host.
void bench_lists(Harness& h, std::int64_t m, std::int64_t n) {
  std::vector<float> values(static_cast<std::size_t>(m * n));
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(0.0f, 2.5f);
  for (float& v : values) v = normal(rng);
  const Buffer logits(m * n * 4), scales(m * 4);
  logits.upload(values);
  scales.upload(std::vector<float>(static_cast<std::size_t>(m), 1.0f));
  void* lists = nullptr;
  cudaHostAlloc(&lists, static_cast<std::size_t>(m) * sizeof(RowList), cudaHostAllocMapped);
  ListArgs args;
  args.logits = reinterpret_cast<const float*>(logits.get());
  args.m = m;
  args.n = args.stride = n;
  args.scales = reinterpret_cast<const float*>(scales.get());
  void* address = nullptr;
  cudaHostGetDevicePointer(&address, lists, 0);
  args.lists = static_cast<RowList*>(address);
  args.workspace_bytes = list_rows_workspace(args);
  const Buffer workspace(static_cast<std::int64_t>(args.workspace_bytes));
  args.workspace = workspace.get();
  const double time =
      h.seconds(50, [&](int, cudaStream_t stream) { return list_rows(args, stream); });
  h.report("lists", fmt::format("{} x {}", m, n), time, static_cast<double>(m * n * 4), 0.0);
  cudaFreeHost(lists);
}

void run(Harness& h, const std::set<std::string>& families) {
  const auto wanted = [&](const char* family) {
    return families.empty() || families.contains(family);
  };
  if (wanted("gemv")) {
    for (const Format format :
         {Format::kQ4_K, Format::kQ4_0, Format::kQ6_K, Format::kQ8_0, Format::kQ5_K,
          Format::kIQ4_XS, Format::kMXFP4, Format::kI4_128, Format::kF8_E4M3_B128, Format::kBF16}) {
      for (const std::int64_t m : {1, 2, 4, 8, 16})
        bench_product(h, format, {18432, 7168}, m, nullptr);
    }
    for (const std::int64_t m : {32, 64})
      bench_product(h, Format::kQ4_K, {18432, 7168}, m, nullptr);
    for (const Shape shape : {Shape{7168, 7168}, Shape{4096, 4096}, Shape{4096, 2048},
                              Shape{2048, 4096}, Shape{5120, 2048}, Shape{512, 2048}}) {
      for (const std::int64_t m : {1, 2, 4, 8, 16})
        bench_product(h, Format::kQ4_K, shape, m, nullptr);
    }
    for (const Format format : {Format::kQ4_K, Format::kQ6_K, Format::kQ8_0, Format::kBF16})
      bench_product(h, format, {4096, 4096}, 1, nullptr);
    bench_product(h, Format::kF32, {128, 2048}, 1, nullptr);
    for (const std::int64_t m : {1, 4, 16})
      bench_product(h, Format::kQ6_K, {151936, 2048}, m, nullptr);
  }
  Status status = Status::kOk;
  const auto blas = BlasLt::open(&status);
  if (wanted("gemm") && blas != nullptr) {
    for (const std::int64_t m : {64, 128, 256, 512, 1024, 2048, 4096})
      bench_gemm(h, *blas, {7168, 7168}, m);
  }
  if (wanted("moe")) {
    const Experts qwen{"Qwen3-30B-A3B", 128, 8, 2048, 768},
        deepseek{"DeepSeek-V3, 64 experts", 64, 8, 7168, 2048};
    for (const std::int64_t m : {1, 2, 4, 8, 16, 32, 64, 256, 512, 2048, 8192})
      bench_moe(h, qwen, Format::kQ4_K, m);
    for (const std::int64_t m : {1, 4, 16, 256, 1024}) bench_moe(h, deepseek, Format::kQ4_K, m);
    bench_moe(h, qwen, Format::kQ6_K, 1);
    bench_moe(h, qwen, Format::kBF16, 1);
  }
  if (wanted("attention")) {
    const Heads qwen{"attention", 32, 4, 128, 128};
    for (const std::int64_t context : {4096, 32768}) {
      for (const std::int64_t batch : {1, 8, 32}) bench_attention(h, qwen, batch, context, 1);
    }
    const Heads e4m3{"attention", 32, 4, 128, 128, false, CacheType::kE4M3};
    for (const std::int64_t batch : {1, 8, 32}) bench_attention(h, e4m3, batch, 32768, 1);
    bench_attention(h, e4m3, 1, 32768, 2048);
    for (const bool portable : {false, true}) {
      const Heads prompt{"attention", 32, 4, 128, 128, portable};
      bench_attention(h, prompt, 1, 4096, 4096);
      bench_attention(h, prompt, 1, 32768, 2048);
      bench_attention(h, {"attention", 128, 128, 192, 128, portable}, 1, 4096, 4096);
    }
    bench_attention(h, qwen, 1, 32768, 32768);
  }
  if (wanted("step")) {
    for (const std::int64_t keys : {64, 1024, 4096}) bench_step(h, keys);
  }
  if (wanted("mla")) {
    for (const std::int64_t context : {4096, 8192, 32768}) {
      for (const std::int64_t batch : {1, 8, 32}) {
        for (const bool portable : {false, true}) {
          bench_attention(h, {"mla", 128, 1, 576, 512, portable}, batch, context, 1);
          bench_attention(h, {"mla", 128, 1, 576, 512, portable, CacheType::kE4M3}, batch, context,
                          1);
        }
      }
    }
  }
  if (wanted("heads")) bench_head_products(h);
  if (wanted("lists")) {
    for (const std::int64_t m : {1, 8, 32}) bench_lists(h, m, 151936);
  }
}

int main(int argc, char** argv) {
  std::set<std::string> families;
  std::string json;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--json" && i + 1 < argc) {
      json = argv[++i];
    } else if (std::set<std::string>{"gemv", "gemm", "moe", "attention", "mla", "heads", "step",
                                     "lists"}
                   .contains(arg)) {
      families.insert(arg);
    } else {
      std::fputs(
          "usage: bench_cuda_kernels [--json FILE] [gemv gemm moe attention mla heads step "
          "lists]\n",
          stderr);
      return 2;
    }
  }
  DeviceInfo info;
  if (describe_device(0, &info) != Status::kOk) {
    std::fputs(fmt::format("bench: no GPU: {}\n", device_error_text()).c_str(), stderr);
    return 1;
  }
  cudaDeviceProp properties{};
  cudaGetDeviceProperties(&properties, 0);
  std::fputs(
      fmt::format("{}, {} SMs, {} MiB of L2\n", properties.name, info.n_sms, info.l2_bytes >> 20)
          .c_str(),
      stdout);
  Harness harness(info);
  harness.measure_ceilings();
  run(harness, families);
  if (!json.empty()) {
    nlohmann::json all = harness.results();
    all["device"] = properties.name;
    std::ofstream(json) << all.dump(1) << "\n";
  }
  return 0;
}

}  // namespace
}  // namespace kt::kernels::cuda::bench

int main(int argc, char** argv) { return kt::kernels::cuda::bench::main(argc, argv); }
