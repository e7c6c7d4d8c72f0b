// Random weights: the same bytes always, and these very bytes.
#include "session/dummy_source.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "base/sha256.h"
#include "models/model.h"

namespace kt::session {
namespace {

io::ModelConfig llama() {
  io::ModelConfig c;
  c.architecture = "llama";
  c.n_layers = 2;
  c.d_model = 256;
  c.d_ff = 512;
  c.n_heads = 4;
  c.n_kv_heads = 2;
  c.head_dim = 64;
  c.vocab_size = 300;
  c.max_context = 128;
  return c;
}

io::ModelConfig deepseek() {
  io::ModelConfig c = llama();
  c.architecture = "deepseek_v3";
  c.n_kv_heads = 4;
  c.mla = {96, 64, 32, 16, 32};
  c.moe.n_experts = 4;
  c.moe.n_active = 2;
  c.moe.d_ff = 256;
  c.moe.n_shared = 1;
  c.moe.d_ff_shared = 256;
  c.moe.n_dense_layers = 1;
  c.moe.score = io::RouterScore::kSigmoid;
  c.moe.correction_bias = true;
  return c;
}

std::unique_ptr<io::WeightSource> source(const io::ModelConfig& c, const char* type,
                                         std::uint64_t seed = 1, bool pooled = false) {
  return make_dummy_source(c, file_type(type), {seed, pooled});
}

std::vector<std::byte> read(const io::WeightSource& s, const io::TensorInfo& t) {
  std::vector<std::byte> bytes(formats::row_bytes(t.format, t.shape.n_cols()) *
                               static_cast<std::size_t>(t.shape.n_rows()));
  s.read_rows(t, 0, t.shape.n_rows(), bytes.data());
  return bytes;
}

std::string digest(const io::WeightSource& s) {
  std::vector<std::byte> all;
  for (const io::TensorInfo& t : s.tensors()) {
    const auto bytes = read(s, t);
    all.insert(all.end(), bytes.begin(), bytes.end());
  }
  return sha256_hex(all);
}

TEST(DummySource, HasTheTensorsThatTheModelWants) {
  for (const io::ModelConfig& c : {llama(), deepseek()}) {
    const auto s = source(c, "Q4_K_M");
    std::set<std::string> names;
    for (const io::TensorInfo& t : s->tensors()) {
      EXPECT_TRUE(names.insert(t.name).second) << t.name;
      EXPECT_EQ(s->find(t.name), &t);
    }
    EXPECT_EQ(s->find("model.none"), nullptr);
    const auto model = models::build_model(c, {});
    operators::walk(*model, [&](operators::Module& m) {
      for (const operators::WeightSpec& spec : m.weights()) {
        const io::TensorInfo* t = s->find(spec.name);
        ASSERT_NE(t, nullptr) << spec.name;
        EXPECT_EQ(t->shape, spec.shape);
        names.erase(spec.name);
      }
    });
    EXPECT_TRUE(names.empty());
  }
}

TEST(DummySource, LoadsAsAModel) {
  const io::ModelConfig c = deepseek();
  const auto s = source(c, "Q4_K_M");
  const auto model = models::build_model(c, {});
  backend::Cpu cpu(2, {}, detect_caps(), backend::ActPolicy::kQ8);
  operators::Loader loader(*s, cpu, {});
  EXPECT_NO_THROW(models::load_model(*model, loader));
}

TEST(DummySource, FormatsFollowTheMix) {
  const auto s = source(deepseek(), "Q4_K_M");
  const auto format = [&](const char* name) { return s->find(name)->format; };
  EXPECT_EQ(format("model.embed_tokens.weight"), tensor::Format::kQ4_K);
  EXPECT_EQ(format("lm_head.weight"), tensor::Format::kQ6_K);
  EXPECT_EQ(format("model.norm.weight"), tensor::Format::kF32);
  EXPECT_EQ(format("model.layers.1.mlp.gate.weight"), tensor::Format::kF32);
  EXPECT_EQ(format("model.layers.1.mlp.gate.e_score_correction_bias"), tensor::Format::kF32);
  EXPECT_EQ(format("model.layers.1.mlp.experts.3.down_proj.weight"), tensor::Format::kQ6_K);
  EXPECT_EQ(format("model.layers.1.mlp.experts.3.up_proj.weight"), tensor::Format::kQ4_K);
  EXPECT_EQ(format("model.layers.1.self_attn.q_b_proj.weight"),
            tensor::Format::kQ5_0);  // rows of 96
  EXPECT_EQ(format("model.layers.1.self_attn.kv_b_proj.weight"), tensor::Format::kQ8_0);
}

TEST(DummySource, ReadingOrderDoesNotMatter) {
  for (const bool pooled : {false, true}) {
    const auto s = source(llama(), "Q4_K_M", 1, pooled),
               again = source(llama(), "Q4_K_M", 1, pooled);
    for (std::size_t i = s->tensors().size(); i-- > 0;) {
      const io::TensorInfo& t = s->tensors()[i];
      const auto whole = read(*again, again->tensors()[i]);
      const std::size_t row_bytes = formats::row_bytes(t.format, t.shape.n_cols());
      std::vector<std::byte> row(row_bytes);
      for (std::int64_t r = t.shape.n_rows(); r-- > 0;) {
        s->read_rows(t, r, 1, row.data());
        ASSERT_TRUE(std::equal(
            row.begin(), row.end(),
            whole.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(r) * row_bytes)))
            << t.name << " row " << r;
      }
    }
  }
}

TEST(DummySource, SeedsAndTensorsDiffer) {
  EXPECT_EQ(digest(*source(llama(), "Q8_0")), digest(*source(llama(), "Q8_0")));
  EXPECT_NE(digest(*source(llama(), "Q8_0", 1)), digest(*source(llama(), "Q8_0", 2)));
  const auto s = source(deepseek(), "F32");
  const auto bytes = [&](const std::string& name) { return read(*s, *s->find(name)); };
  EXPECT_NE(bytes("model.layers.1.mlp.experts.0.up_proj.weight"),
            bytes("model.layers.1.mlp.experts.1.up_proj.weight"));
  EXPECT_NE(bytes("model.layers.1.mlp.experts.0.up_proj.weight"),
            bytes("model.layers.1.mlp.experts.0.gate_proj.weight"));
}

// Values are near-Gaussian with the scale that keeps activations near one.
TEST(DummySource, ValuesHaveTheirScale) {
  const auto s = source(llama(), "F32");
  const auto moments = [&](const std::string& name) {
    const auto bytes = read(*s, *s->find(name));
    const auto* v = reinterpret_cast<const float*>(bytes.data());
    const std::size_t n = bytes.size() / sizeof(float);
    double mean = 0.0, square = 0.0;
    for (std::size_t i = 0; i < n; ++i) {
      EXPECT_TRUE(std::isfinite(v[i]));
      mean += static_cast<double>(v[i]) / static_cast<double>(n);
      square += static_cast<double>(v[i]) * static_cast<double>(v[i]) / static_cast<double>(n);
    }
    return std::pair(mean, std::sqrt(square - mean * mean));
  };
  const auto [mean, deviation] = moments("model.layers.0.self_attn.q_proj.weight");
  EXPECT_NEAR(mean, 0.0, 0.002);
  EXPECT_NEAR(deviation, 1.0 / 16.0, 0.001);
  const auto [norm_mean, norm_deviation] = moments("model.norm.weight");
  EXPECT_NEAR(norm_mean, 1.0, 0.03);
  EXPECT_NEAR(norm_deviation, 0.1, 0.02);
  EXPECT_NEAR(moments("model.embed_tokens.weight").second, 0.5, 0.01);
}

TEST(DummySource, RowsOfAPoolAreEncodedOnceAndDiffer) {
  const auto s = source(llama(), "Q4_K_M", 1, true);
  const io::TensorInfo& t = *s->find("model.layers.0.mlp.up_proj.weight");
  const auto bytes = read(*s, t);
  const std::size_t row_bytes = formats::row_bytes(t.format, t.shape.n_cols());
  std::set<std::vector<std::byte>> rows;
  for (std::size_t at = 0; at < bytes.size(); at += row_bytes) {
    rows.insert({bytes.begin() + static_cast<std::ptrdiff_t>(at),
                 bytes.begin() + static_cast<std::ptrdiff_t>(at + row_bytes)});
  }
  EXPECT_GT(rows.size(), 50u);
  EXPECT_LT(rows.size(), 70u);
}

// A change of these digests changes the weights of every golden test and published demo number.
TEST(DummySource, TheBytesAreKnown) {
  EXPECT_EQ(digest(*source(llama(), "F32")),
            "9ae43524898738c63cbfe965c503f53515a3ebb6307715db6c74f34e432e1912");
  EXPECT_EQ(digest(*source(llama(), "Q8_0")),
            "0559a48cfa53c9fb04bda20eb2cd2d78e26aed04f071f564f476e4a892f1784e");
  EXPECT_EQ(digest(*source(llama(), "Q4_K_M")),
            "692d5edb00d42bbd7b929bc5f32314e08f3868e2ff431f474ab44323519f805c");
  EXPECT_EQ(digest(*source(deepseek(), "Q4_K_M")),
            "39f3362d24333f72f78c04f8c2b80deb6e4a6458e1d9ee89f0296bcd6a0cc38b");
}

}  // namespace
}  // namespace kt::session
