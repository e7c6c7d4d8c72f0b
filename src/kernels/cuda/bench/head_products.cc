#include "kernels/cuda/bench/head_products.h"

#include "kernels/cuda/attention/latent.h"

namespace kt::kernels::cuda::bench {
namespace {

struct Products {
  const char* what;
  std::int64_t n, k, tail;
  bool keys;  // of cached latents, one row for all heads
};

void run(Harness& h, const Products& p, std::int64_t m) {
  constexpr std::int64_t kHeads = 128;
  const std::int64_t w_bytes = kHeads * p.n * p.k * 2;
  const int copies = h.copies(w_bytes);
  const Buffer w(copies * w_bytes, true);
  const std::int64_t x_heads = p.keys ? 1 : kHeads, width = p.k + p.tail;
  const Buffer x(m * x_heads * width * 2, true), y(m * kHeads * (p.n + p.tail) * 2, true);
  const Buffer angles(m * p.tail * 4 + 4);
  HeadProductsArgs args;
  args.transposed = p.keys;
  args.n_heads = kHeads;
  args.n = p.n;
  args.k = p.k;
  args.x = x.get();
  args.x_row_stride = x_heads * width;
  args.x_head_stride = p.keys ? 0 : width;
  args.y = y.get();
  args.y_row_stride = kHeads * (p.n + p.tail);
  args.y_head_stride = p.n + p.tail;
  args.m = m;
  args.tail = p.tail;
  if (!p.keys) {
    args.cos = reinterpret_cast<const float*>(angles.get());
    args.sin = args.cos + m * p.tail / 2;
  }
  const double seconds = h.seconds(copies, [&](int i, cudaStream_t stream) {
    HeadProductsArgs one = args;
    one.w = w.get() + i * w_bytes;
    return head_products(one, stream);
  });
  const double bytes = static_cast<double>(w_bytes + x.bytes() + y.bytes());
  h.report("heads", std::string(p.what) + " m=" + std::to_string(m), seconds, bytes,
           2.0 * static_cast<double>(kHeads * p.n * p.k * m));
}

}  // namespace

void bench_head_products(Harness& h) {
  for (const std::int64_t m : {1, 8, 32, 512, 2048}) {
    run(h, {"queries", 512, 128, 64, false}, m);
    run(h, {"values", 128, 512, 0, false}, m);
  }
  run(h, {"keys", 128, 512, 64, true}, 4096);
}

}  // namespace kt::kernels::cuda::bench
