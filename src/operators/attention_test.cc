// The attention operators over a paged cache against plain attention in double, which keeps the
// whole history and knows no pages, no absorbed matrices and no batches.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "operators/builder.h"
#include "operators/expand.h"
#include "operators/test_source.h"

namespace kt::operators {
namespace {

using Vector = std::vector<double>;

// Inputs of one conversation, and where its rows are cached.
struct History {
  std::vector<std::vector<float>> x;  // one row per position
  std::vector<std::int32_t> pages;
};

struct Turn {
  std::size_t sequence;
  std::int64_t n_rows;
};

// One attention module with random weights, a rotary table and a paged float cache.
class Rig {
 public:
  using Make = std::function<std::unique_ptr<Attention>(const Builder&, Rotary&)>;
  Rig(const io::ModelConfig& config, std::int64_t rotary_dim, const Make& make,
      const Placement::Entry& entry = {})
      : source(config), config_(config), cpu_(2, {}, detect_caps(), backend::ActPolicy::kF32) {
    placement_.entries["self_attn"] = entry;
    const Builder b("", placement_, nullptr);
    rotary_ = b.rotary("rotary_emb", {config, rotary_dim});
    attention_ = make(b, *rotary_);
  }

  void add_weights() {
    walk(*attention_, [&](Module& m) {
      for (const WeightSpec& spec : m.weights()) {
        const bool vector = spec.shape.rank() == 1;
        source.add(spec.name, spec.shape,
                   vector ? 1.0f : 1.5f / std::sqrt(static_cast<float>(spec.shape.n_cols())));
      }
    });
  }

  void load() {
    Loader loader(source, cpu_, {});
    walk(*attention_, [&](Module& m) { m.load(loader); });
    loader.check_all_used();
    const tensor::KvLayerSpec spec = attention_->state_spec();
    for (std::size_t i = 0; i < spec.streams.size(); ++i) {
      tensor::KvStreamView& s = kv_.streams[i];
      s.format = tensor::Format::kF32;
      s.n_heads = spec.streams[i].n_heads;
      s.dim = spec.streams[i].dim;
      s.head_bytes = static_cast<std::size_t>(s.dim) * sizeof(float);
      s.row_bytes = s.head_bytes * static_cast<std::size_t>(s.n_heads);
      cache_[i].assign(static_cast<std::size_t>(kPages * tensor::kKvPageLen * s.n_heads * s.dim),
                       1e30f);
      s.base = reinterpret_cast<std::byte*>(cache_[i].data());
    }
  }

  // Runs one batch: the next n_rows of each named sequence. Returns the rows of delta.
  std::vector<std::vector<float>> run(std::vector<History>& histories,
                                      const std::vector<Turn>& turns) {
    std::vector<float> x;
    std::vector<std::int32_t> tokens, positions;
    std::vector<SequenceRows> sequences;
    for (const Turn& turn : turns) {
      History& h = histories[turn.sequence];
      SequenceRows s;
      s.row_begin = static_cast<std::int64_t>(tokens.size());
      s.n_rows = turn.n_rows;
      s.position = static_cast<std::int64_t>(h.x.size());
      for (std::int64_t i = 0; i < turn.n_rows; ++i) {
        std::vector<float> row(static_cast<std::size_t>(config_.d_model));
        for (float& v : row) v = normal_(random_);
        x.insert(x.end(), row.begin(), row.end());
        positions.push_back(static_cast<std::int32_t>(h.x.size()));
        tokens.push_back(0);
        h.x.push_back(std::move(row));
      }
      // Pages in an order that a consecutive layout would get wrong.
      while (h.pages.size() * tensor::kKvPageLen < h.x.size()) h.pages.push_back(next_page_--);
      s.pages = h.pages.data();
      sequences.push_back(s);
    }
    return run_rows(x, tokens, positions, sequences);
  }

  std::vector<std::vector<float>> run_rows(std::vector<float>& x,
                                           const std::vector<std::int32_t>& tokens,
                                           const std::vector<std::int32_t>& positions,
                                           const std::vector<SequenceRows>& sequences) {
    const Batch batch{tokens, positions, sequences, {}};
    arena_.reset();
    Step step{batch, cpu_, arena_, {&kv_, 1}};
    rotary_->prepare(step);
    const auto n = static_cast<std::int64_t>(tokens.size());
    std::vector<float> delta(x.size(), 7.0f);
    Activation input(step, {x.data(), n, config_.d_model, config_.d_model});
    Activation output = Activation::on(step, {delta.data(), n, config_.d_model, config_.d_model});
    attention_->run(step, 0, input, output);
    std::vector<std::vector<float>> rows;
    for (std::int64_t r = 0; r < n; ++r) {
      rows.emplace_back(delta.begin() + r * config_.d_model,
                        delta.begin() + (r + 1) * config_.d_model);
    }
    return rows;
  }

  // cos and sin of a position, as the rotary operator has them.
  std::vector<std::pair<double, double>> angles(std::int32_t position) {
    const std::vector<std::int32_t> token = {0}, positions = {position};
    const Batch batch{token, positions, {}, {}};
    tensor::Arena arena;
    Step step{batch, cpu_, arena, {}};
    rotary_->prepare(step);
    std::vector<std::pair<double, double>> out;
    for (std::int64_t i = 0; i < rotary_->dim() / 2; ++i) {
      out.emplace_back(rotary_->cos(0)[i], rotary_->sin(0)[i]);
    }
    return out;
  }

  Vector weights(const std::string& name) const {
    const io::TensorInfo* info = source.find(name);
    EXPECT_NE(info, nullptr) << name;
    std::vector<float> w(static_cast<std::size_t>(info->shape.count()));
    source.read_rows(*info, 0, info->shape.n_rows(), reinterpret_cast<std::byte*>(w.data()));
    return {w.begin(), w.end()};
  }

  // W x + b of a linear of the module; no bias when there is no such tensor.
  Vector linear(const std::string& name, const Vector& x) const {
    const Vector w = weights("self_attn." + name + ".weight");
    Vector y;
    for (std::size_t o = 0; o * x.size() < w.size(); ++o) {
      double sum = 0.0;
      for (std::size_t i = 0; i < x.size(); ++i) sum += w[o * x.size() + i] * x[i];
      y.push_back(sum);
    }
    const std::string bias = "self_attn." + name + ".bias";
    if (source.find(bias) != nullptr) {
      const Vector b = weights(bias);
      for (std::size_t o = 0; o < y.size(); ++o) y[o] += b[o];
    }
    return y;
  }

  // RMS norm of `n` values at x.
  void rms_norm(const std::string& name, double* x, std::size_t n) const {
    const Vector w = weights("self_attn." + name + ".weight");
    double sum = 0.0;
    for (std::size_t i = 0; i < n; ++i) sum += x[i] * x[i];
    const double scale = 1.0 / std::sqrt(sum / static_cast<double>(n) + config_.norm_eps);
    for (std::size_t i = 0; i < n; ++i) x[i] *= scale * w[i];
  }

  // Bytes that the step's temporaries have taken so far.
  std::size_t arena_bytes() const { return arena_.capacity(); }
  Attention& attention() { return *attention_; }

  TestSource source;

 private:
  static constexpr std::int64_t kPages = 16;
  io::ModelConfig config_;
  Placement placement_;
  backend::Cpu cpu_;
  tensor::Arena arena_;
  std::unique_ptr<Rotary> rotary_;
  std::unique_ptr<Attention> attention_;
  tensor::KvLayerView kv_;
  std::vector<float> cache_[2];
  std::int32_t next_page_ = kPages - 1;
  std::mt19937 random_{5};
  std::normal_distribution<float> normal_;
};

void rotate_half(double* x, const std::vector<std::pair<double, double>>& angles) {
  const std::size_t half = angles.size();
  for (std::size_t i = 0; i < half; ++i) {
    const auto [c, s] = angles[i];
    const double a = x[i], b = x[i + half];
    x[i] = a * c - b * s;
    x[i + half] = b * c + a * s;
  }
}

void rotate_pairs(double* x, const std::vector<std::pair<double, double>>& angles) {
  for (std::size_t i = 0; i < angles.size(); ++i) {
    const auto [c, s] = angles[i];
    const double a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * c - b * s;
    x[2 * i + 1] = b * c + a * s;
  }
}

// One query over keys and values [position], of which the last `window` count (0: all).
Vector mix(const Vector& q, const std::vector<Vector>& keys, const std::vector<Vector>& values,
           double scale, std::int64_t window) {
  const std::size_t n = keys.size();
  const auto w = static_cast<std::size_t>(window);
  const std::size_t begin = window > 0 && n > w ? n - w : 0;
  Vector score;
  for (std::size_t p = begin; p < n; ++p) {
    double dot = 0.0;
    for (std::size_t i = 0; i < q.size(); ++i) dot += q[i] * keys[p][i];
    score.push_back(dot * scale);
  }
  const double largest = *std::max_element(score.begin(), score.end());
  double sum = 0.0;
  for (double& s : score) sum += s = std::exp(s - largest);
  Vector out(values.front().size());
  for (std::size_t p = begin; p < n; ++p) {
    for (std::size_t i = 0; i < out.size(); ++i) out[i] += score[p - begin] / sum * values[p][i];
  }
  return out;
}

void expect_near(const std::vector<float>& got, const Vector& want, const std::string& what) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i) {
    ASSERT_NEAR(static_cast<double>(got[i]), want[i], 3e-4) << what << ", value " << i;
  }
}

// Prompts that cross a page, decode rows beside a prompt, a sequence that starts late.
const std::vector<std::vector<Turn>> kTurns = {{{0, 70}, {1, 5}},
                                               {{0, 1}, {2, 3}, {1, 1}},
                                               {{1, 66}, {2, 1}, {0, 2}},
                                               {{0, 1}, {1, 1}, {2, 1}}};

// Runs kTurns and compares every row with naive(history so far).
void compare(Rig& rig, const std::function<Vector(const History&, std::size_t position)>& naive) {
  std::vector<History> histories(3);
  for (const std::vector<Turn>& turns : kTurns) {
    const auto rows = rig.run(histories, turns);
    std::size_t row = 0;
    for (const Turn& turn : turns) {
      const History& h = histories[turn.sequence];
      for (std::int64_t i = turn.n_rows; i > 0; --i, ++row) {
        const std::size_t position = h.x.size() - static_cast<std::size_t>(i);
        // All of the first rows and a sample of long prompts: the naive way is slow.
        if (turn.n_rows > 6 && position % 23 != 0 && position < h.x.size() - 2) continue;
        expect_near(rows[row], naive(h, position),
                    fmt::format("sequence {}, position {}", turn.sequence, position));
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

io::ModelConfig gqa_config() {
  io::ModelConfig c;
  c.architecture = "llama";
  c.d_model = 64;
  c.n_heads = 6;
  c.n_kv_heads = 2;
  c.head_dim = 32;
  c.max_context = 256;
  c.norm_eps = 1e-5;
  return c;
}

// What varies between the architectures.
struct GqaTraits {
  bool qk_norm = false;
  std::int64_t window = 0;
};

Rig gqa_rig(const io::ModelConfig& c, const GqaTraits& spec) {
  return Rig(c, c.head_dim, [&](const Builder& b, Rotary& r) {
    return b.gqa_attention("self_attn", {c, spec.qk_norm, spec.window, r});
  });
}

Vector naive_gqa(Rig& rig, const io::ModelConfig& c, const GqaTraits& spec, const History& h,
                 std::size_t position) {
  const auto dim = static_cast<std::size_t>(c.head_dim);
  const auto n_kv = static_cast<std::size_t>(c.n_kv_heads),
             n_heads = static_cast<std::size_t>(c.n_heads);
  const auto heads = [&](const char* proj, const char* norm, std::size_t p, std::size_t n) {
    Vector y = rig.linear(proj, {h.x[p].begin(), h.x[p].end()});
    if (norm == nullptr) return y;
    const auto angles = rig.angles(static_cast<std::int32_t>(p));
    for (std::size_t i = 0; i < n; ++i) {
      if (spec.qk_norm) rig.rms_norm(norm, y.data() + i * dim, dim);
      rotate_half(y.data() + i * dim, angles);
    }
    return y;
  };
  const auto slice = [&](const Vector& y, std::size_t i) {
    return Vector(y.begin() + static_cast<std::ptrdiff_t>(i * dim),
                  y.begin() + static_cast<std::ptrdiff_t>((i + 1) * dim));
  };
  std::vector<std::vector<Vector>> keys(n_kv), values(n_kv);
  for (std::size_t p = 0; p <= position; ++p) {
    const Vector k = heads("k_proj", "k_norm", p, n_kv), v = heads("v_proj", nullptr, p, n_kv);
    for (std::size_t i = 0; i < n_kv; ++i) {
      keys[i].push_back(slice(k, i));
      values[i].push_back(slice(v, i));
    }
  }
  const Vector q = heads("q_proj", "q_norm", position, n_heads);
  Vector mixed;
  for (std::size_t i = 0; i < n_heads; ++i) {
    const std::size_t kv = i / (n_heads / n_kv);
    const Vector o = mix(slice(q, i), keys[kv], values[kv],
                         1.0 / std::sqrt(static_cast<double>(dim)), spec.window);
    mixed.insert(mixed.end(), o.begin(), o.end());
  }
  return rig.linear("o_proj", mixed);
}

void check_gqa(const io::ModelConfig& c, const GqaTraits& spec) {
  Rig rig = gqa_rig(c, spec);
  rig.add_weights();
  rig.load();
  compare(rig, [&](const History& h, std::size_t p) { return naive_gqa(rig, c, spec, h, p); });
}

TEST(GroupedQueryAttention, MatchesPlainAttention) { check_gqa(gqa_config(), {}); }

TEST(GroupedQueryAttention, WithBiases) {
  io::ModelConfig c = gqa_config();
  c.attention_bias = c.attention_out_bias = true;
  check_gqa(c, {});
}

TEST(GroupedQueryAttention, WithQkNorms) { check_gqa(gqa_config(), {.qk_norm = true}); }

TEST(GroupedQueryAttention, WithAWindow) {
  check_gqa(gqa_config(), {.window = 16});
  check_gqa(gqa_config(), {.window = 1});
}

TEST(GroupedQueryAttention, OneKeyHeadAndOneEach) {
  io::ModelConfig c = gqa_config();
  c.n_kv_heads = 1;
  check_gqa(c, {});
  c.n_kv_heads = c.n_heads;
  check_gqa(c, {});
}

io::ModelConfig mla_config(std::int64_t q_lora_rank) {
  io::ModelConfig c;
  c.architecture = "deepseek_v3";
  c.d_model = 64;
  c.n_heads = 4;
  c.max_context = 256;
  c.mla.q_lora_rank = q_lora_rank;
  c.mla.kv_lora_rank = 64;
  c.mla.qk_nope_dim = 32;
  c.mla.qk_rope_dim = 16;
  c.mla.v_head_dim = 24;
  return c;
}

Rig mla_rig(const io::ModelConfig& c, bool absorb = true) {
  Placement::Entry entry;
  entry.kwargs["absorb_for_prefill"] = absorb;
  return Rig(
      c, c.mla.qk_rope_dim,
      [&](const Builder& b, Rotary& r) { return b.mla_attention("self_attn", {c, r}); }, entry);
}

// Latent attention written out: every head gets its own keys and values from kv_b_proj.
Vector naive_mla(Rig& rig, const io::ModelConfig& c, double scale, const History& h,
                 std::size_t position) {
  const auto nope = static_cast<std::size_t>(c.mla.qk_nope_dim),
             rope = static_cast<std::size_t>(c.mla.qk_rope_dim);
  const auto dim_v = static_cast<std::size_t>(c.mla.v_head_dim),
             rank = static_cast<std::size_t>(c.mla.kv_lora_rank);
  const auto n_heads = static_cast<std::size_t>(c.n_heads);
  std::vector<std::vector<Vector>> keys(n_heads), values(n_heads);
  for (std::size_t p = 0; p <= position; ++p) {
    Vector a = rig.linear("kv_a_proj_with_mqa", {h.x[p].begin(), h.x[p].end()});
    rig.rms_norm("kv_a_layernorm", a.data(), rank);
    rotate_pairs(a.data() + rank, rig.angles(static_cast<std::int32_t>(p)));
    const Vector b = rig.linear("kv_b_proj", Vector(a.begin(), a.begin() + c.mla.kv_lora_rank));
    for (std::size_t i = 0; i < n_heads; ++i) {
      const double* at = b.data() + i * (nope + dim_v);
      Vector k(at, at + nope);
      k.insert(k.end(), a.begin() + c.mla.kv_lora_rank, a.end());
      keys[i].push_back(k);
      values[i].emplace_back(at + nope, at + nope + dim_v);
    }
  }
  const Vector x(h.x[position].begin(), h.x[position].end());
  Vector q;
  if (c.mla.q_lora_rank > 0) {
    Vector lowered = rig.linear("q_a_proj", x);
    rig.rms_norm("q_a_layernorm", lowered.data(), lowered.size());
    q = rig.linear("q_b_proj", lowered);
  } else {
    q = rig.linear("q_proj", x);
  }
  Vector mixed;
  for (std::size_t i = 0; i < n_heads; ++i) {
    double* head = q.data() + i * (nope + rope);
    rotate_pairs(head + nope, rig.angles(static_cast<std::int32_t>(position)));
    const Vector o = mix(Vector(head, head + nope + rope), keys[i], values[i], scale, 0);
    mixed.insert(mixed.end(), o.begin(), o.end());
  }
  return rig.linear("o_proj", mixed);
}

void check_mla(const io::ModelConfig& c, double factor) {
  const double scale =
      factor / std::sqrt(static_cast<double>(c.mla.qk_nope_dim + c.mla.qk_rope_dim));
  for (const bool absorb : {true, false}) {
    SCOPED_TRACE(absorb ? "absorbed" : "expanded");
    Rig rig = mla_rig(c, absorb);
    rig.add_weights();
    rig.load();
    compare(rig, [&](const History& h, std::size_t p) { return naive_mla(rig, c, scale, h, p); });
  }
}

TEST(LatentAttention, MatchesPlainAttention) { check_mla(mla_config(0), 1.0); }

TEST(LatentAttention, WithALowRankQuery) { check_mla(mla_config(48), 1.0); }

TEST(LatentAttention, WithBiases) {
  io::ModelConfig c = mla_config(48);
  c.attention_bias = true;
  check_mla(c, 1.0);
}

TEST(LatentAttention, YarnScalesTheScores) {
  io::ModelConfig c = mla_config(0);
  c.rope.kind = io::RopeKind::kYarn;
  c.rope.factor = 40.0;
  c.rope.original_context = 64;
  c.rope.mscale = 0.707;
  c.rope.mscale_all_dim = 0.707;
  const double mscale = 0.1 * 0.707 * std::log(40.0) + 1.0;
  check_mla(c, mscale * mscale);
}

// GGUF files may hold K_b (transposed) and V_b apart instead of kv_b_proj.
void check_split_matrices(bool absorb) {
  const io::ModelConfig c = mla_config(48);
  const std::int64_t nope = c.mla.qk_nope_dim, dim_v = c.mla.v_head_dim, rank = c.mla.kv_lora_rank;
  Rig joint = mla_rig(c, absorb), split = mla_rig(c, absorb);
  joint.add_weights();
  const Vector both = joint.weights("self_attn.kv_b_proj.weight");
  std::vector<float> k_b, v_b;
  for (std::int64_t h = 0; h < c.n_heads; ++h) {
    const auto at = [&](std::int64_t row, std::int64_t col) {
      return static_cast<float>(
          both[static_cast<std::size_t>((h * (nope + dim_v) + row) * rank + col)]);
    };
    for (std::int64_t i = 0; i < rank; ++i) {
      for (std::int64_t j = 0; j < nope; ++j) k_b.push_back(at(j, i));
    }
    for (std::int64_t j = 0; j < dim_v; ++j) {
      for (std::int64_t i = 0; i < rank; ++i) v_b.push_back(at(nope + j, i));
    }
  }
  for (const io::TensorInfo& info : joint.source.tensors()) {
    if (info.name == "self_attn.kv_b_proj.weight") continue;
    const Vector w = joint.weights(info.name);
    split.source.put(info.name, info.shape, {w.begin(), w.end()});
  }
  split.source.put("self_attn.k_b_proj.weight", {c.n_heads, rank, nope}, std::move(k_b));
  split.source.put("self_attn.v_b_proj.weight", {c.n_heads, dim_v, rank}, std::move(v_b));
  joint.load();
  split.load();
  std::vector<History> a(3), b(3);
  for (const std::vector<Turn>& turns : kTurns) EXPECT_EQ(joint.run(a, turns), split.run(b, turns));
}

TEST(LatentAttention, SplitMatricesEqualTheJointOne) {
  check_split_matrices(true);
  check_split_matrices(false);
}

// Expanded and absorbed chunks of a context of several spans, in any mixture.
TEST(LatentAttention, ExpandedChunksEqualAbsorbedOnes) {
  io::ModelConfig c = mla_config(48);
  c.max_context = 768;
  Rig absorbed = mla_rig(c, true), expanded = mla_rig(c, false), at_once = mla_rig(c, false);
  for (Rig* rig : {&absorbed, &expanded, &at_once}) {
    rig->add_weights();  // the same random numbers each
    rig->load();
  }
  EXPECT_GT(expanded.attention().weight_bytes(), absorbed.attention().weight_bytes())
      << "the expanded form keeps K_b in both orders";
  std::vector<History> a(2), b(2), once(1);
  std::vector<std::vector<float>> chunked;
  // Sequence 0 in chunks of 256, whose second and third begin on and after a span; beside decode
  // rows and a chunk that is cheaper absorbed (2 rows on 40).
  const std::vector<std::vector<Turn>> turns = {
      {{0, 256}, {1, 40}}, {{1, 1}, {0, 256}}, {{1, 2}, {0, 63}}, {{0, 1}, {1, 130}}};
  for (const std::vector<Turn>& turn : turns) {
    const auto wanted = absorbed.run(a, turn), got = expanded.run(b, turn);
    for (std::size_t r = 0; r < got.size(); ++r) {
      expect_near(got[r], Vector(wanted[r].begin(), wanted[r].end()), fmt::format("row {}", r));
    }
    std::size_t row = 0;
    for (const Turn& part : turn) {
      for (std::int64_t i = 0; i < part.n_rows; ++i, ++row) {
        if (part.sequence == 0 && part.n_rows > 1) chunked.push_back(got[row]);
      }
    }
  }
  // The same rows as one chunk: the very same bits as in several.
  std::vector<float> x;
  std::vector<std::int32_t> tokens(575, 0), positions;
  for (std::int32_t p = 0; p < 575; ++p) {
    x.insert(x.end(), b[0].x[static_cast<std::size_t>(p)].begin(),
             b[0].x[static_cast<std::size_t>(p)].end());
    positions.push_back(p);
  }
  const std::vector<std::int32_t> pages = {4, 1, 0, 2, 3, 8, 7, 6, 5};
  EXPECT_EQ(at_once.run_rows(x, tokens, positions, {{0, 575, 0, pages.data()}}), chunked);
}

// n matrices of random rows.
HeadMatrices random_heads(backend::Cpu& cpu, tensor::Format format, std::int64_t n,
                          std::int64_t k) {
  constexpr std::int64_t kHeads = 2;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  HeadMatrices heads;
  for (std::int64_t h = 0; h < kHeads; ++h) {
    std::vector<float> x(static_cast<std::size_t>(n * k));
    for (float& v : x) v = normal(random);
    std::vector<std::byte> rows(formats::row_bytes(format, k) * static_cast<std::size_t>(n));
    formats::traits(format).encode(x.data(), nullptr, rows.data(), n * k);
    heads.add(cpu, kHeads, format, n, k, rows.data());
  }
  return heads;
}

// A file may hold V_b in a format that no tile kernel reads.
TEST(LatentAttention, ExpandsKeysInTilesBesideValuesWithoutThem) {
  constexpr std::int64_t kRank = 256, kRope = 16, kNope = 32, kValue = 32, kRows = 64;
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  const auto noise = [&](std::int64_t n) {
    std::vector<float> x(static_cast<std::size_t>(n));
    for (float& v : x) v = normal(random);
    return x;
  };
  std::vector<float> cache = noise(kRows * (kRank + kRope)), q = noise(kRows * 2 * (kNope + kRope));
  const std::int32_t page = 0;
  const auto run = [&](bool tiles) {
    backend::Cpu cpu(2, {}, detect_caps(), backend::ActPolicy::kQ16);
    cpu.batch_kernels = tiles ? backend::BatchKernels::kAll : backend::BatchKernels::kNone;
    const HeadMatrices k = random_heads(cpu, tensor::Format::kF16, kNope, kRank);
    const HeadMatrices v = random_heads(cpu, tensor::Format::kTQ1_0, kValue, kRank);
    ExpandArgs args{&k, &v, kRope, 0.005f, {}, {0, kRows, 0, &page}, {}, {}};
    args.cache.base = reinterpret_cast<std::byte*>(cache.data());
    args.cache.format = tensor::Format::kF32;
    args.cache.n_heads = 1;
    args.cache.dim = kRank + kRope;
    args.cache.head_bytes = args.cache.row_bytes = sizeof(float) * (kRank + kRope);
    args.q = {q.data(), kRows, 2 * (kNope + kRope), 2 * (kNope + kRope)};
    std::vector<float> out(kRows * 2 * kValue);
    args.out = {out.data(), kRows, 2 * kValue, 2 * kValue};
    tensor::Arena arena;
    const Batch batch{};
    Step step{batch, cpu, arena, {}};
    attend_expanded(step, args);
    return out;
  };
  const std::vector<float> few = run(false), batch = run(true);
  double error = 0.0, size = 0.0;
  for (std::size_t i = 0; i < few.size(); ++i) {
    error += std::pow(static_cast<double>(batch[i] - few[i]), 2);
    size += std::pow(static_cast<double>(few[i]), 2);
  }
  EXPECT_GT(error, 0.0) << "the tile kernel runs";
  EXPECT_LT(std::sqrt(error / size), 0.02);
}

// After the first chunk, no step of its size takes more work memory, in whichever form its rows
// are: the first is expanded, the last ones are cheaper absorbed, which wants wider rows.
TEST(LatentAttention, WorkMemoryIsThereAfterTheFirstChunk) {
  io::ModelConfig c = mla_config(0);
  c.n_heads = 128;
  c.mla.kv_lora_rank = 256;
  Rig rig = mla_rig(c, false);
  rig.add_weights();
  rig.load();
  std::vector<History> h(1);
  rig.run(h, {{0, 28}});
  rig.run(h, {{0, 28}});  // chunks of the arena are joined
  const std::size_t first = rig.arena_bytes();
  for (int i = 0; i < 5; ++i) rig.run(h, {{0, 28}});
  rig.run(h, {{0, 1}});
  EXPECT_EQ(rig.arena_bytes(), first);
}

TEST(LatentAttention, HistoricNamesExpandByDefault) {
  const io::ModelConfig c = mla_config(0);
  std::map<std::string, std::uint64_t> bytes;
  for (const char* op :
       {"KLatentAttention", "KDeepseekV2Attention", "flashinfer_attn", "deepseek_torch_attn"}) {
    Placement::Entry entry;
    entry.op = op;
    Rig rig(
        c, c.mla.qk_rope_dim,
        [&](const Builder& b, Rotary& r) { return b.mla_attention("self_attn", {c, r}); }, entry);
    rig.add_weights();
    rig.load();
    bytes[op] = rig.attention().weight_bytes();
  }
  EXPECT_LT(bytes["KLatentAttention"], bytes["KDeepseekV2Attention"]);
  EXPECT_EQ(bytes["flashinfer_attn"], bytes["KDeepseekV2Attention"]);
  EXPECT_EQ(bytes["deepseek_torch_attn"], bytes["KDeepseekV2Attention"]);
}

// A row alone and the same row beside other sequences: the very same bits.
TEST(Attention, ARowDoesNotDependOnItsBatch) {
  enum { kGrouped, kAbsorbed, kExpanded };
  for (const int latent : {kGrouped, kAbsorbed, kExpanded}) {
    const io::ModelConfig c = latent != kGrouped ? mla_config(48) : gqa_config();
    Rig rig = latent != kGrouped ? mla_rig(c, latent == kAbsorbed) : gqa_rig(c, {.qk_norm = true});
    rig.add_weights();
    rig.load();
    std::vector<History> histories(3);
    rig.run(histories, {{0, 67}, {1, 9}});
    const std::vector<std::vector<float>> together = rig.run(histories, {{1, 4}, {0, 1}, {2, 5}});
    std::vector<float> x = histories[0].x.back();
    SequenceRows s;
    s.n_rows = 1;
    s.position = 67;
    s.pages = histories[0].pages.data();
    EXPECT_EQ(rig.run_rows(x, {0}, {67}, {s}).front(), together[4]) << latent;
    x.clear();
    for (std::size_t i = 9; i < 13; ++i)
      x.insert(x.end(), histories[1].x[i].begin(), histories[1].x[i].end());
    s.n_rows = 4;
    s.position = 9;
    s.pages = histories[1].pages.data();
    const auto alone = rig.run_rows(x, {0, 0, 0, 0}, {9, 10, 11, 12}, {s});
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.begin())) << latent;
  }
}

TEST(Attention, ASplitMatrixOfAnotherShapeIsNamed) {
  const io::ModelConfig c = mla_config(0);
  Rig rig = mla_rig(c);
  rig.source.put("self_attn.q_proj.weight", {192, 64}, std::vector<float>(192 * 64));
  rig.source.put("self_attn.kv_a_proj_with_mqa.weight", {80, 64}, std::vector<float>(80 * 64));
  rig.source.put("self_attn.kv_a_layernorm.weight", {64}, std::vector<float>(64));
  rig.source.put("self_attn.o_proj.weight", {64, 96}, std::vector<float>(64 * 96));
  rig.source.put("self_attn.k_b_proj.weight", {4, 32, 64}, std::vector<float>(4 * 32 * 64));
  try {
    rig.load();
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kMismatch);
    EXPECT_NE(std::string(e.what()).find("k_b_proj"), std::string::npos) << e.what();
  }
}

TEST(Rotary, DefaultAnglesAreThePowersOfTheta) {
  io::ModelConfig c = gqa_config();
  c.rope.theta = 5000.0;
  Rig rig = gqa_rig(c, {});
  for (const std::int32_t position : {0, 1, 77, 1000}) {
    const auto angles = rig.angles(position);
    for (std::size_t i = 0; i < 16; ++i) {
      const double angle = position * std::pow(5000.0, -static_cast<double>(i) / 16.0);
      EXPECT_NEAR(angles[i].first, std::cos(angle), 1e-4);
      EXPECT_NEAR(angles[i].second, std::sin(angle), 1e-4);
    }
  }
}

TEST(Rotary, LinearScalingAndFileFactorsDivideThePosition) {
  io::ModelConfig c = gqa_config(), scaled = gqa_config(), factors = gqa_config();
  scaled.rope.kind = io::RopeKind::kLinear;
  scaled.rope.factor = 4.0;
  factors.rope.freq_factors.assign(16, 4.0f);
  Rig plain = gqa_rig(c, {}), linear = gqa_rig(scaled, {}), file = gqa_rig(factors, {});
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_NEAR(linear.angles(80)[i].first, plain.angles(20)[i].first, 1e-5);
    EXPECT_NEAR(file.angles(80)[i].second, plain.angles(20)[i].second, 1e-5);
  }
  factors.rope.freq_factors.resize(15);
  EXPECT_THROW(gqa_rig(factors, {}), Error);
}

}  // namespace
}  // namespace kt::operators
