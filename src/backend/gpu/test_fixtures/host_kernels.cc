#include "backend/gpu/test_fixtures/host_kernels.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "base/half.h"
#include "kernels/cpu/dot/n16_rows.h"

namespace kt::backend::host_kernels {
namespace {

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

const std::byte* row_of(formats::Format format, const void* rows, std::int64_t row,
                        std::int64_t k) {
  return static_cast<const std::byte*>(rows) +
         static_cast<std::size_t>(row) * formats::row_bytes(format, k);
}

// y = rows [n, k] · x [k], x in bf16 as kernels read it.
std::vector<float> product(formats::Format format, const void* rows, std::int64_t n, std::int64_t k,
                           const std::vector<float>& x) {
  std::vector<float> row(static_cast<std::size_t>(k)), y;
  for (std::int64_t i = 0; i < n; ++i) {
    formats::traits(format).decode(row_of(format, rows, i, k), row.data(), k);
    float sum = 0.0f;
    for (std::size_t j = 0; j < row.size(); ++j) sum += row[j] * x[j];
    y.push_back(sum);
  }
  return y;
}

std::vector<float> vector_at(const void* data, Type type, std::int64_t begin, std::int64_t n) {
  std::vector<float> x;
  for (std::int64_t i = 0; i < n; ++i) x.push_back(load(data, type, begin + i));
  return x;
}

std::size_t to_index(std::int64_t i) { return static_cast<std::size_t>(i); }

// Elements of a cache from `first` on.
struct Cached {
  void* base;
  CacheType type;
  std::int64_t first;
  float operator[](std::int64_t i) const {
    if (type == CacheType::kBF16) return load(base, Type::kBF16, first + i);
    return fp8_e4m3_to_f32(static_cast<const std::uint8_t*>(base)[first + i]);
  }
  void put(std::int64_t i, float v) const {
    if (type == CacheType::kBF16) {
      store(base, Type::kBF16, first + i, v);
    } else {
      static_cast<std::uint8_t*>(base)[first + i] = f32_to_fp8_e4m3(v);
    }
  }
};

// Of `head` at `position` of the sequence with this row of the table.
Cached cached(const KvCache& cache, const PageTable& table, std::int64_t sequence,
              std::int64_t position, std::int64_t head) {
  const std::int64_t page = table.pages[sequence * table.stride + position / kPageLen];
  return {cache.base, cache.type,
          (page * kPageLen + position % kPageLen) * cache.row_stride + head * cache.head_stride};
}

// Pairs (2i, 2i + 1), to put(i, value).
template <class Put>
void turn(const float* x, const float* cos, const float* sin, std::int64_t half, Put&& put) {
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    put(2 * i, a * cos[i] - b * sin[i]);
    put(2 * i + 1, b * cos[i] + a * sin[i]);
  }
}

void attend(const AttentionArgs& a, const SequenceItem& item, std::int64_t token,
            std::int64_t head) {
  const std::int64_t row = item.row_begin - a.first_row + token, position = item.position + token;
  const std::int64_t kv_head = head / (a.n_heads / a.n_kv_heads);
  const std::int64_t first = a.window > 0 ? std::max<std::int64_t>(0, position - a.window + 1) : 0;
  const auto q =
      vector_at(a.q, Type::kBF16, row * a.q_token_stride + head * a.q_head_stride, a.dim_qk);
  std::vector<float> scores;
  for (std::int64_t p = first; p <= position; ++p) {
    const Cached key = cached(a.k, a.table, item.table, p, kv_head);
    float score = 0.0f;
    for (std::int64_t i = 0; i < a.dim_qk; ++i) score += q[to_index(i)] * key[i];
    scores.push_back(score * a.scale);
  }
  const float top = *std::max_element(scores.begin(), scores.end());
  float sum = 0.0f;
  for (float& s : scores) sum += s = std::exp(s - top);
  std::vector<float> out(static_cast<std::size_t>(a.dim_v));
  for (std::int64_t p = first; p <= position; ++p) {
    const Cached value = cached(a.v, a.table, item.table, p, kv_head);
    const float weight = scores[static_cast<std::size_t>(p - first)] / sum;
    for (std::int64_t i = 0; i < a.dim_v; ++i) out[to_index(i)] += weight * value[i];
  }
  for (std::int64_t i = 0; i < a.dim_v; ++i) {
    store(a.out, a.out_type, (row * a.n_heads + head) * a.dim_v + i,
          out[static_cast<std::size_t>(i)]);
  }
}

void store_kv(const HeadsArgs& a, std::int64_t item, std::int64_t token, std::int64_t head,
              const std::vector<float>& x, const KvCache& cache) {
  const Cached to =
      cached(cache, a.table, a.items[item].table, a.items[item].position + token, head);
  for (std::size_t d = 0; d < x.size(); ++d) to.put(static_cast<std::int64_t>(d), x[d]);
}

std::vector<float> choices(const RouteArgs& a, std::vector<float>& scores) {
  if (a.sigmoid) {
    for (float& s : scores) s = sigmoid(s);
  } else {
    const float top = *std::max_element(scores.begin(), scores.end());
    float sum = 0.0f;
    for (float& s : scores) sum += s = std::exp(s - top);
    for (float& s : scores) s /= sum;
  }
  std::vector<float> choice = scores;
  for (std::size_t e = 0; a.bias != nullptr && e < choice.size(); ++e) choice[e] += a.bias[e];
  if (a.n_groups <= 1) return choice;
  const std::int64_t size = a.n_experts / a.n_groups;
  std::vector<std::pair<float, std::int64_t>> groups;  // best first
  for (std::int64_t g = 0; g < a.n_groups; ++g) {
    std::vector<float> part(choice.begin() + g * size, choice.begin() + (g + 1) * size);
    std::sort(part.rbegin(), part.rend());
    groups.emplace_back(-(a.group_top2 && size > 1 ? part[0] + part[1] : part[0]), g);
  }
  std::sort(groups.begin(), groups.end());
  for (std::int64_t i = a.n_groups_used; i < a.n_groups; ++i) {
    const auto begin = choice.begin() + groups[static_cast<std::size_t>(i)].second * size;
    std::fill(begin, begin + size, -std::numeric_limits<float>::infinity());
  }
  return choice;
}

}  // namespace

float load(const void* data, Type type, std::int64_t i) {
  return type == Type::kF32 ? static_cast<const float*>(data)[i]
                            : bf16_to_f32(static_cast<const std::uint16_t*>(data)[i]);
}

void store(void* data, Type type, std::int64_t i, float value) {
  if (type == Type::kF32) {
    static_cast<float*>(data)[i] = value;
  } else {
    static_cast<std::uint16_t*>(data)[i] = f32_to_bf16(value);
  }
}

void unpack(const UnpackArgs& a) {
  std::vector<float> row(to_index(a.w.k));
  for (std::int64_t i = 0; i < a.n_rows; ++i) {
    formats::traits(a.w.format)
        .decode(row_of(a.w.format, a.w.tiles, a.begin + i, a.w.k), row.data(), a.w.k);
    for (std::int64_t j = 0; j < a.w.k; ++j)
      store(a.out, a.out_type, i * a.w.k + j, row[to_index(j)]);
  }
}

void gemm(const GemmArgs& a, float factor) {
  for (std::int64_t m = 0; m < a.m; ++m) {
    const auto y = product(a.w.format, a.w.tiles, a.w.n, a.w.k,
                           vector_at(a.x, a.x_type, m * a.x_stride, a.w.k));
    for (std::int64_t n = 0; n < a.w.n; ++n)
      store(a.y, a.y_type, m * a.y_stride + n,
            factor * y[static_cast<std::size_t>(n)] + (a.bias == nullptr ? 0.0f : a.bias[n]));
  }
}

void moe(const MoeArgs& a) {
  const auto of = [](const ExpertMatrices& w, std::int64_t expert, std::int64_t n, std::int64_t k) {
    return row_of(w.format, w.tiles, expert * n, k);
  };
  for (std::int64_t r = 0; r < a.m; ++r) {
    const auto x = vector_at(a.x, Type::kBF16, r * a.x_stride, a.d_model);
    std::vector<float> sum(static_cast<std::size_t>(a.d_model));
    for (std::int64_t j = r * a.n_active; j < (r + 1) * a.n_active; ++j) {
      const std::int64_t e = a.ids[j];
      if (e < 0 || e >= a.n_experts) continue;
      auto hidden = product(a.gate.format, of(a.gate, e, a.d_ff, a.d_model), a.d_ff, a.d_model, x);
      const auto up = product(a.up.format, of(a.up, e, a.d_ff, a.d_model), a.d_ff, a.d_model, x);
      for (std::size_t i = 0; i < hidden.size(); ++i) {
        const float h = hidden[i] * sigmoid(hidden[i]) * up[i];
        hidden[i] = bf16_to_f32(f32_to_bf16(h));
      }
      const auto y =
          product(a.down.format, of(a.down, e, a.d_model, a.d_ff), a.d_model, a.d_ff, hidden);
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += a.weights[j] * y[i];
    }
    for (std::int64_t i = 0; i < a.d_model; ++i) {
      const std::int64_t at = r * a.y_stride + i;
      store(a.y, a.y_type, at,
            sum[static_cast<std::size_t>(i)] + (a.add ? load(a.y, a.y_type, at) : 0.0f));
    }
  }
}

// All n_rows are the kernel's to write, those of no item too.
void attention(const AttentionArgs& a) {
  for (std::int64_t i = 0; i < a.n_rows * a.n_heads * a.dim_v; ++i)
    store(a.out, a.out_type, i, NAN);
  for (std::int64_t i = 0; i < a.n_items; ++i) {
    for (std::int64_t token = 0; token < a.items[i].n_rows; ++token) {
      for (std::int64_t head = 0; head < a.n_heads; ++head) attend(a, a.items[i], token, head);
    }
  }
}

void widen_cache(const WidenArgs& a) {
  const KvCache to = kernels::cuda::widened(a.from, a.to);
  for (std::int64_t i = 0; i < a.n_items; ++i) {
    const SequenceItem& item = a.items[i];
    for (std::int64_t p = 0; p < item.position + item.n_rows; ++p) {
      for (std::int64_t d = 0; d < to.row_stride; ++d) {
        cached(to, a.table, item.table, p, 0).put(d, cached(a.from, a.table, item.table, p, 0)[d]);
      }
    }
  }
}

void prepare_heads(const HeadsArgs& a) {
  std::vector<float> rows;  // of one head
  const auto prepare = [&](const void* x, std::int64_t at, const float* weight, std::int64_t row) {
    rows = vector_at(x, Type::kBF16, at, a.d);
    if (weight != nullptr) {
      add_rms_norm({rows.data(), Type::kF32, nullptr, Type::kBF16, weight, rows.data(), Type::kF32,
                    1, a.d, a.d, a.d, a.d, a.eps});
    }
    const auto position = static_cast<std::int32_t>(row);
    rope({rows.data(), Type::kF32, 1, 1, a.d, a.d, a.d, &position, a.cos, a.sin, false});
  };
  for (std::int64_t i = 0; i < a.n_items; ++i) {
    for (std::int64_t token = 0; token < a.items[i].n_rows; ++token) {
      const std::int64_t row = a.items[i].row_begin + token;
      for (std::int64_t h = 0; h < a.n_heads; ++h) {
        const std::int64_t at = row * a.q_stride + h * a.d;
        prepare(a.q, at, a.q_weight, row);
        for (std::int64_t d = 0; d < a.d; ++d)
          store(a.q, Type::kBF16, at + d, rows[static_cast<std::size_t>(d)]);
      }
      for (std::int64_t h = 0; h < a.n_kv_heads; ++h) {
        prepare(a.k, row * a.k_stride + h * a.d, a.k_weight, row);
        store_kv(a, i, token, h, rows, a.k_cache);
        store_kv(a, i, token, h, vector_at(a.v, Type::kBF16, row * a.v_stride + h * a.d, a.d),
                 a.v_cache);
      }
    }
  }
}

void store_latents(const StoreLatentsArgs& a) {
  for (std::int64_t i = 0; i < a.n_items; ++i) {
    const SequenceItem& item = a.items[i];
    for (std::int64_t token = 0; token < item.n_rows; ++token) {
      const std::int64_t row = item.row_begin + token;
      const auto x = vector_at(a.x, Type::kBF16, row * (a.rank + a.rope), a.rank + a.rope);
      const Cached to = cached(a.cache, a.table, item.table, item.position + token, 0);
      float squares = 0.0f;
      for (std::int64_t d = 0; d < a.rank; ++d) squares += x[to_index(d)] * x[to_index(d)];
      const float scale = 1.0f / std::sqrt(squares / static_cast<float>(a.rank) + a.eps);
      for (std::int64_t d = 0; d < a.rank; ++d)
        to.put(d, a.weight == nullptr ? x[to_index(d)] : x[to_index(d)] * scale * a.weight[d]);
      const std::int64_t half = a.rope / 2;
      turn(x.data() + a.rank, a.cos + row * half, a.sin + row * half, half,
           [&](std::int64_t d, float v) { to.put(a.rank + d, v); });
    }
  }
}

void head_products(const HeadProductsArgs& a) {
  const auto* weights = static_cast<const std::uint16_t*>(a.w);
  for (std::int64_t i = 0; i < a.m * a.n_heads; ++i) {
    const std::int64_t row = i / a.n_heads, head = i % a.n_heads;
    const std::int64_t from =
        a.pages == nullptr ? row : a.pages[row / kPageLen] * kPageLen + row % kPageLen;
    const auto x =
        vector_at(a.x, Type::kBF16, from * a.x_row_stride + head * a.x_head_stride, a.k + a.tail);
    const std::uint16_t* w = weights + head * a.n * a.k;
    auto* y = static_cast<std::uint16_t*>(a.y) + row * a.y_row_stride + head * a.y_head_stride;
    for (std::int64_t n = 0; n < a.n; ++n) {
      float sum = 0.0f;
      for (std::int64_t k = 0; k < a.k; ++k)
        sum += x[to_index(k)] * bf16_to_f32(a.transposed ? w[k * a.n + n] : w[n * a.k + k]);
      y[n] = f32_to_bf16(sum);
    }
    const std::int64_t half = a.tail / 2;
    const std::vector<float> one(to_index(half), 1.0f), zero(to_index(half));
    const bool turned = a.cos != nullptr;
    turn(x.data() + a.k, turned ? a.cos + row * half : one.data(),
         turned ? a.sin + row * half : zero.data(), half,
         [&](std::int64_t d, float v) { y[a.n + d] = f32_to_bf16(v); });
  }
}

void add_rms_norm(const NormArgs& a) {
  for (std::int64_t r = 0; r < a.m; ++r) {
    float squares = 0.0f;
    for (std::int64_t i = 0; i < a.d; ++i) {
      const std::int64_t at = r * a.residual_stride + i;
      if (a.delta != nullptr) {
        store(a.residual, a.residual_type, at,
              load(a.residual, a.residual_type, at) +
                  load(a.delta, a.delta_type, r * a.delta_stride + i));
      }
      const float v = load(a.residual, a.residual_type, at);
      squares += v * v;
    }
    const float scale = 1.0f / std::sqrt(squares / static_cast<float>(a.d) + a.eps);
    for (std::int64_t i = 0; i < a.d; ++i) {
      store(a.out, a.out_type, r * a.out_stride + i,
            load(a.residual, a.residual_type, r * a.residual_stride + i) * scale * a.weight[i]);
    }
  }
}

void rope(const RopeArgs& a) {
  const std::int64_t half = a.d / 2;
  for (std::int64_t t = 0; t < a.n_tokens; ++t) {
    for (std::int64_t i = 0; i < a.n_heads * half; ++i) {
      const std::int64_t pair = i % half;
      const std::int64_t at = t * a.token_stride + i / half * a.head_stride;
      const std::int64_t first = at + (a.interleaved ? 2 * pair : pair);
      const std::int64_t second = a.interleaved ? first + 1 : first + half;
      const float x = load(a.x, a.type, first), y = load(a.x, a.type, second);
      const float c = a.cos[a.positions[t] * half + pair], s = a.sin[a.positions[t] * half + pair];
      store(a.x, a.type, first, x * c - y * s);
      store(a.x, a.type, second, y * c + x * s);
    }
  }
}

void silu_mul(const SiluArgs& a) {
  for (std::int64_t i = 0; i < a.m * a.d; ++i) {
    const std::int64_t from = i / a.d * a.stride + i % a.d;
    const float gate = load(a.gate, a.type, from);
    store(a.out, a.out_type, i, gate * sigmoid(gate) * load(a.up, a.type, from));
  }
}

void add(const AddArgs& a) {
  for (std::int64_t i = 0; i < a.m * a.n; ++i) {
    const std::int64_t from = i / a.n * a.x_stride + i % a.n;
    store(a.y, a.y_type, i, load(a.y, a.y_type, i) + load(a.x, a.x_type, from));
  }
}

void scale_rows(const ScaleArgs& a) {
  for (std::int64_t i = 0; i < a.m * a.n; ++i)
    store(a.y, a.y_type, i, load(a.y, a.y_type, i) * sigmoid(a.gate[i / a.n]));
}

void route(const RouteArgs& a) {
  for (std::int64_t r = 0; r < a.m; ++r) {
    std::vector<float> scores = vector_at(a.scores, Type::kF32, r * a.n_experts, a.n_experts);
    std::vector<float> choice = choices(a, scores);
    float sum = 0.0f;
    for (std::int64_t i = r * a.n_active; i < (r + 1) * a.n_active; ++i) {
      const auto best = std::max_element(choice.begin(), choice.end()) - choice.begin();
      a.ids[i] = static_cast<std::int32_t>(best);
      a.weights[i] = scores[static_cast<std::size_t>(best)];
      sum += a.weights[i];
      choice[static_cast<std::size_t>(best)] = -std::numeric_limits<float>::infinity();
    }
    for (std::int64_t i = r * a.n_active; i < (r + 1) * a.n_active; ++i)
      a.weights[i] = a.weights[i] / (a.normalize ? sum + 1e-20f : 1.0f) * a.weight_scale;
  }
}

void score_and_route(const RouterArgs& args) {
  gemm(args.product, 1.0f);
  route(args.route);
}

void gather_rows(const RowsArgs& a) {
  for (std::int64_t i = 0; i < a.m * a.d; ++i) {
    const float v = load(a.table, a.table_type, a.ids[i / a.d] * a.d + i % a.d);
    store(a.out, a.out_type, i, v);
  }
}

void scatter_add(const ScatterAddArgs& a) {
  for (std::int64_t i = 0; i < a.m; ++i) {
    float* y = a.y + a.rows[i] * a.d;
    for (std::int64_t r = a.begins[i]; r < a.begins[i + 1]; ++r) {
      for (std::int64_t c = 0; c < a.d; ++c) y[c] += a.x[r * a.d + c];
    }
  }
}

void list_rows(const ListArgs& a, std::int32_t most) {
  for (std::int64_t r = 0; r < a.m; ++r) {
    const std::vector<float> row = vector_at(a.logits, Type::kF32, r * a.stride, a.n);
    const auto at = [&](std::int32_t i) { return row[static_cast<std::size_t>(i)]; };
    RowList& list = a.lists[r];
    list = {};
    if (!std::all_of(row.begin(), row.end(), [](float l) { return std::isfinite(l); })) continue;
    std::vector<std::int32_t> order(row.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int32_t x, std::int32_t y) { return at(x) > at(y); });
    list.n = static_cast<std::int32_t>(std::min<std::int64_t>(a.n, most));
    list.largest = at(order[0]);
    for (std::size_t i = 0; i < static_cast<std::size_t>(list.n); ++i) {
      list.ids[i] = order[i];
      list.logits[i] = at(order[i]);
    }
    for (const float l : row) {
      const double below = double{l} - list.largest;
      list.sum += std::exp(below);
      list.scaled_sum += std::exp(below * double{a.scales[r]});
    }
  }
  if (a.flag != nullptr) __atomic_store_n(a.flag, a.value, __ATOMIC_RELEASE);
}

template <formats::Format kFormat>
static void read_rows(const PackN16Args& a) {
  const std::size_t row_bytes = formats::row_bytes(kFormat, a.k);
  for (std::int64_t i = 0; i < a.count * a.n; ++i) {
    const auto matrix = static_cast<std::size_t>(i / a.n), row = static_cast<std::size_t>(i % a.n);
    const std::byte* tile =
        static_cast<const std::byte*>(a.from) + matrix * a.from_stride + row / 16 * 16 * row_bytes;
    kernels::dot::read_n16_row<kFormat>(
        tile, a.k, static_cast<int>(row % 16),
        static_cast<std::byte*>(a.to) + matrix * a.to_stride + row * row_bytes);
  }
}

void pack_n16(const PackN16Args& a) {
  switch (a.format) {
#define N16_ROWS(id) \
  case formats::Format::id: return read_rows<formats::Format::id>(a);
#include "kernels/cpu/dot/n16_rows.inc"
#undef N16_ROWS
    default: return;
  }
}

}  // namespace kt::backend::host_kernels
