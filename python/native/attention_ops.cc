// Attention over a cache in the caller's tensors, by the kernels and the division of work that the
// models use. A cache is paged ([n_pages, 64, n_kv_heads, dim] and a table of pages for each
// sequence) or has one contiguous run of tokens for each sequence; MLA reads one stream of latents
// as both keys and values.
#include "attention_ops.h"

#include <nanobind/stl/optional.h>

#include <algorithm>

#include "base/error.h"
#include "module.h"
#include "operators/attend.h"

namespace kt::python {

namespace nb = nanobind;

namespace {

void check_cache(const View& cache, bool paged) {
  if (paged) {
    want_shape(cache, {-1, tensor::kKvPageLen, -1, -1});
    if (cache.dim(0) > 1 && cache.strides[0] != cache.strides[1] * tensor::kKvPageLen) {
      fail(ErrorCode::kUsage, cache.name, "has gaps between pages; make it contiguous");
    }
  }
  for (const std::size_t i : {std::size_t{1}, std::size_t{2}}) {
    if (cache.strides[i] < 0 || cache.dim(i) < 1 || cache.dim(3) < 1) {
      fail(ErrorCode::kUsage, cache.name, "is {}; every dimension must be at least 1",
           cache.to_string());
    }
  }
}

}  // namespace

void check_caches(const View& q, const View& k, const View& v, bool paged) {
  check_cache(k, paged);
  check_cache(v, paged);
  want_shape(k, {-1, -1, -1, q.dim(2)});
  want_shape(v, {k.dim(0), k.dim(1), k.dim(2), -1});
  if (q.dim(1) < 1 || q.dim(1) % k.dim(2) != 0) {
    fail(ErrorCode::kUsage, q.name, "has {} heads; a multiple of the cache's {} is wanted",
         q.dim(1), k.dim(2));
  }
}

namespace {

struct AttentionArgs {
  View q, k, v, table, lengths, starts, out;
  bool paged = true;
  double scale = 1.0;
  std::int64_t window = 0;
  std::int64_t n_sequences() const { return lengths.dim(0); }
  std::int32_t length(std::int64_t s) const {
    return reinterpret_cast<const std::int32_t*>(lengths.data)[s * lengths.strides[0]];
  }
  std::int32_t start(std::int64_t s) const {
    return reinterpret_cast<const std::int32_t*>(starts.data)[s * starts.strides[0]];
  }
  const std::int32_t* pages(std::int64_t s) const {
    return reinterpret_cast<const std::int32_t*>(table.at(s));
  }
};

// How a tensor [pages or sequences, tokens, heads, dim] is read as a stream.
tensor::KvStreamView stream(const View& cache) {
  tensor::KvStreamView s;
  s.base = cache.data;
  s.format = format_of(cache.element);
  s.n_heads = cache.dim(2);
  s.dim = cache.dim(3);
  const std::size_t bytes = formats::traits(s.format).block_bytes;
  s.head_bytes = static_cast<std::size_t>(cache.strides[2]) * bytes;
  s.row_bytes = static_cast<std::size_t>(cache.strides[1]) * bytes;
  return s;
}

// Rows of the sequence, its tokens and its pages are inside the tensors.
void check_sequence(const AttentionArgs& a, std::int64_t s) {
  const std::int64_t n_rows = a.start(s + 1) - std::int64_t{a.start(s)};
  const std::int64_t length = a.length(s);
  if (n_rows < 0 || a.start(s + 1) > a.q.dim(0)) {
    fail(ErrorCode::kUsage, a.starts.name,
         "says that sequence {} has rows {} to {}; ascending numbers up to {} are wanted", s,
         a.start(s), a.start(s + 1), a.q.dim(0));
  }
  if (length < n_rows) {
    fail(ErrorCode::kUsage, a.lengths.name,
         "says that sequence {} has {} tokens; its {} query rows must be among them", s, length,
         n_rows);
  }
  const std::int64_t room = a.paged ? a.table.dim(1) * tensor::kKvPageLen : a.k.dim(1);
  if (length > room) {
    fail(ErrorCode::kUsage, a.lengths.name,
         "says that sequence {} has {} tokens; the cache has room for {}", s, length, room);
  }
  for (std::int64_t i = 0; a.paged && i * tensor::kKvPageLen < length; ++i) {
    const std::int32_t page = a.pages(s)[i];
    if (page >= 0 && page < a.k.dim(0)) continue;
    fail(ErrorCode::kUsage, a.table.name, "names page {} for sequence {}; there are {}", page, s,
         a.k.dim(0));
  }
}

void check(const AttentionArgs& a) {
  want_contiguous(a.q);
  check_caches(a.q, a.k, a.v, a.paged);
  want_shape(a.starts, {a.n_sequences() + 1});
  if (a.paged) {
    want_shape(a.table, {a.n_sequences(), -1});
  } else {
    want_shape(a.k, {a.n_sequences(), -1, -1, -1});
  }
  if (a.window < 0)
    fail(ErrorCode::kUsage, "window", "is {}; 0 (none) or more is wanted", a.window);
  if (a.start(0) != 0 || a.start(a.n_sequences()) != a.q.dim(0)) {
    fail(ErrorCode::kUsage, a.starts.name, "runs from {} to {}; 0 to {} query rows is wanted",
         a.start(0), a.start(a.n_sequences()), a.q.dim(0));
  }
  for (std::int64_t s = 0; s < a.n_sequences(); ++s) check_sequence(a, s);
}

// [n, heads, dim] as the matrix [n, heads * dim].
View flat(const View& x) {
  View f = x;
  f.shape = {x.dim(0), x.dim(1) * x.dim(2)};
  f.strides = {f.shape[1], 1};
  return f;
}

// Sequences that share a cache in pages; or one at a time, where a cache is a run of tokens.
void attend_all(const AttentionArgs& a, operators::Step& step, operators::AttendArgs args) {
  std::vector<operators::SequenceRows> sequences;
  std::vector<std::int32_t> run;  // pages 0, 1, 2, …
  for (std::int64_t i = 0; !a.paged && i * tensor::kKvPageLen < a.k.dim(1); ++i)
    run.push_back(static_cast<std::int32_t>(i));
  for (std::int64_t s = 0; s < a.n_sequences(); ++s) {
    const std::int64_t n = a.start(s + 1) - a.start(s);
    if (n == 0) continue;
    sequences.push_back({a.start(s), n, a.length(s) - n, a.paged ? a.pages(s) : run.data()});
    if (a.paged) continue;
    args.k.base = a.k.at(s);
    args.v.base = a.v.at(s);
    operators::attend(step, sequences, args);
    sequences.clear();
  }
  if (!sequences.empty()) operators::attend(step, sequences, args);
}

void run(Compute& compute, const AttentionArgs& a) {
  const Compute::Lock lock(compute, backend::ActPolicy::kQ16);
  const tensor::MatrixF out = float_out(lock, flat(a.out));
  operators::AttendArgs args;
  args.q = float_rows(lock, flat(a.q)).data;
  args.n_heads = a.q.dim(1);
  args.n_kv_heads = a.k.dim(2);
  args.dim_qk = a.q.dim(2);
  args.dim_v = a.v.dim(3);
  args.scale = static_cast<float>(a.scale);
  args.window = a.window;
  args.k = stream(a.k);
  args.v = stream(a.v);
  args.out = out.data;
  const operators::Batch batch;
  operators::Step step{batch, lock.cpu(), lock.arena(), {}};
  attend_all(a, step, args);
  finish_rows(lock, out, flat(a.out));
}

void attention(Compute& compute, const ArrayIn& q, const ArrayIn& k, const ArrayIn& v,
               const std::optional<ArrayIn>& table, const ArrayIn& lengths, const ArrayIn& starts,
               double scale, std::int64_t window, const ArrayOut& out) {
  AttentionArgs a;
  a.paged = table.has_value();
  a.q = view("q", q, {Element::kF32, Element::kF16, Element::kBF16}, 3);
  a.k = view("k_cache", k, {Element::kF32, Element::kF16, Element::kBF16}, 4);
  a.v = view("v_cache", v, {a.k.element}, 4);
  if (table) a.table = view("block_table", *table, {Element::kI32}, 2);
  a.lengths = view("lengths", lengths, {Element::kI32}, 1);
  a.starts = view("query_starts", starts, {Element::kI32}, 1);
  a.out = view("out", out, {a.q.element}, 3);
  a.scale = scale;
  a.window = window;
  check(a);
  want_contiguous(a.out);
  want_shape(a.out, {a.q.dim(0), a.q.dim(1), a.v.dim(3)});
  const nb::gil_scoped_release release;
  if (a.q.dim(0) > 0) run(compute, a);
}

}  // namespace

void add_attention(nb::module_& m) {
  m.attr("PAGE_LEN") = tensor::kKvPageLen;
  m.def("attention", &attention, nb::arg("compute"), nb::arg("q"), nb::arg("k_cache"),
        nb::arg("v_cache"), nb::arg("block_table").none(), nb::arg("lengths"),
        nb::arg("query_starts"), nb::arg("scale"), nb::arg("window"), nb::arg("out"));
}

}  // namespace kt::python
