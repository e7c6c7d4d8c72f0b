// The mixes that llama.cpp's quantiser writes by default, tensor by tensor.
#include "session/file_type.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace kt::session {
namespace {

using formats::Format;

io::ModelConfig dense(std::int64_t n_layers = 32) {
  io::ModelConfig c;
  c.architecture = "llama";
  c.n_layers = n_layers;
  c.n_heads = 32;
  c.n_kv_heads = 8;
  return c;
}

// Format of one tensor in a file whose every layer holds it; with an output matrix unless tied.
Format at(const char* type, const io::ModelConfig& c, const std::string& name,
          const tensor::Shape& shape = {4096, 4096}, bool has_imatrix = false) {
  std::vector<StoredTensor> tensors;
  if (!c.tied_embeddings) tensors.push_back({"output.weight", shape});
  if (!name.starts_with("blk.")) {
    if (name != "output.weight") tensors.push_back({name, shape});
  } else {
    const std::string tail = name.substr(name.find('.', 4));
    for (std::int64_t i = c.n_layers; i-- > 0;)  // the order in the file does not matter
      tensors.push_back({"blk." + std::to_string(i) + tail, shape});
  }
  const auto formats = tensor_formats(file_type(type), c, tensors, has_imatrix);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (tensors[i].name == name) return formats[i];
  }
  ADD_FAILURE() << name;
  return Format::kF32;
}

TEST(FileType, NamesAreFoundInAnyCaseAndUnknownOnesListed) {
  EXPECT_EQ(file_type("q4_k_m").name, "Q4_K_M");
  EXPECT_EQ(file_type("Q4_K").name, "Q4_K_M");
  EXPECT_EQ(file_type("q3_k").name, "Q3_K_M");
  std::set<std::uint32_t> numbers;
  for (const FileType& t : file_types()) {
    EXPECT_EQ(&file_type(t.name), &t);
    EXPECT_TRUE(numbers.insert(t.llama_ftype).second) << t.name;
    EXPECT_NE(formats::traits(t.base).encode, nullptr) << t.name;
  }
  for (const char* bad : {"", "Q4", "Q4_K_M ", "Q4_K_MM"}) {
    try {
      file_type(bad);
      ADD_FAILURE() << bad;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::kUsage);
      EXPECT_NE(std::string(e.what()).find("Q4_K_M, Q4_K_S"), std::string::npos) << e.what();
    }
  }
}

TEST(FileType, Q4KMGivesMoreBitsToOuterAndEveryThirdLayer) {
  const io::ModelConfig c = dense();
  for (std::int64_t layer = 0; layer < 32; ++layer) {
    const bool more = layer < 4 || layer >= 28 || (layer - 4) % 3 == 2;
    const std::string blk = "blk." + std::to_string(layer) + ".";
    EXPECT_EQ(at("Q4_K_M", c, blk + "attn_v.weight"), more ? Format::kQ6_K : Format::kQ4_K)
        << layer;
    EXPECT_EQ(at("Q4_K_M", c, blk + "ffn_down.weight"), more ? Format::kQ6_K : Format::kQ4_K)
        << layer;
    EXPECT_EQ(at("Q4_K_M", c, blk + "ffn_down_exps.weight", {64, 4096, 4096}),
              more ? Format::kQ6_K : Format::kQ4_K);
    EXPECT_EQ(at("Q4_K_M", c, blk + "attn_q.weight"), Format::kQ4_K);
    EXPECT_EQ(at("Q4_K_M", c, blk + "ffn_up.weight"), Format::kQ4_K);
    EXPECT_EQ(at("Q4_K_M", c, blk + "attn_output.weight"), Format::kQ4_K);
  }
  EXPECT_EQ(at("Q4_K_M", c, "output.weight"), Format::kQ6_K);
  EXPECT_EQ(at("Q4_K_M", c, "token_embd.weight"), Format::kQ4_K);
}

TEST(FileType, TheEmbeddingOfATiedModelIsItsOutput) {
  io::ModelConfig c = dense();
  c.tied_embeddings = true;
  EXPECT_EQ(at("Q4_K_M", c, "token_embd.weight"), Format::kQ6_K);
  EXPECT_EQ(at("Q8_0", c, "token_embd.weight"), Format::kQ8_0);
  EXPECT_EQ(at("F16", c, "token_embd.weight"), Format::kF16);
}

TEST(FileType, OtherMixes) {
  const io::ModelConfig c = dense();
  EXPECT_EQ(at("Q4_K_S", c, "blk.3.attn_v.weight"), Format::kQ5_K);
  EXPECT_EQ(at("Q4_K_S", c, "blk.4.attn_v.weight"), Format::kQ4_K);
  EXPECT_EQ(at("Q4_K_S", c, "blk.3.ffn_down.weight"), Format::kQ5_K);
  EXPECT_EQ(at("Q5_K_M", c, "blk.0.attn_v.weight"), Format::kQ6_K);
  EXPECT_EQ(at("Q5_K_S", c, "blk.0.attn_v.weight"), Format::kQ5_K);
  EXPECT_EQ(at("Q3_K_M", c, "blk.1.attn_v.weight"), Format::kQ5_K);
  EXPECT_EQ(at("Q3_K_M", c, "blk.2.attn_v.weight"), Format::kQ4_K);
  EXPECT_EQ(at("Q3_K_M", c, "blk.2.ffn_down.weight"), Format::kQ4_K);
  EXPECT_EQ(at("Q3_K_M", c, "blk.2.attn_output.weight"), Format::kQ4_K);
  EXPECT_EQ(at("Q3_K_L", c, "blk.9.ffn_down.weight"), Format::kQ5_K);
  EXPECT_EQ(at("Q2_K", c, "blk.9.ffn_down.weight"), Format::kQ3_K);
  EXPECT_EQ(at("Q2_K", c, "blk.9.attn_v.weight"), Format::kQ4_K);  // four heads share a value head
  EXPECT_EQ(at("Q2_K", c, "blk.9.attn_q.weight"), Format::kQ2_K);
  EXPECT_EQ(at("Q8_0", c, "output.weight"), Format::kQ8_0);
  EXPECT_EQ(at("Q4_0", c, "output.weight"), Format::kQ6_K);
}

TEST(FileType, AnImportanceMatrixChangesSomeChoicesAndIsNeededBelowThreeBits) {
  const io::ModelConfig c = dense();
  EXPECT_EQ(at("IQ4_XS", c, "blk.0.ffn_down.weight"), Format::kQ5_K);
  EXPECT_EQ(at("IQ4_XS", c, "blk.0.ffn_down.weight", {4096, 4096}, true), Format::kIQ4_XS);
  EXPECT_EQ(at("Q4_0", c, "blk.0.ffn_down.weight", {4096, 4096}, true), Format::kQ4_1);
  EXPECT_TRUE(requires_importance(file_type("IQ1_S"), "blk.0.attn_q.weight", Format::kIQ1_S));
  EXPECT_TRUE(requires_importance(file_type("Q2_K_S"), "blk.0.attn_q.weight", Format::kQ2_K));
  EXPECT_FALSE(requires_importance(file_type("Q2_K"), "blk.0.attn_q.weight", Format::kQ2_K));
  EXPECT_FALSE(requires_importance(file_type("IQ3_S"), "blk.0.attn_q.weight", Format::kIQ3_S));
  EXPECT_FALSE(requires_importance(file_type("IQ1_S"), "token_embd.weight", Format::kIQ2_XS));
}

TEST(FileType, TwoBitTypesCountEveryDownProjection) {
  io::ModelConfig c = dense(16);
  c.moe.n_experts = 16;
  std::vector<StoredTensor> tensors;
  for (int i = 0; i < 16; ++i) {
    const std::string blk = "blk." + std::to_string(i) + ".";
    tensors.push_back({blk + "ffn_down_exps.weight", {16, 256, 256}});
    tensors.push_back({blk + "ffn_down_shexp.weight", {256, 256}});
  }
  const auto formats = tensor_formats(file_type("IQ2_XXS"), c, tensors, true);
  EXPECT_EQ(std::count(formats.begin(), formats.end(), Format::kQ2_K), 2);  // 16 / 8, one layer
  EXPECT_EQ(formats[1], Format::kQ2_K);
  const auto three_bits = tensor_formats(file_type("Q2_K_S"), c, tensors, true);
  EXPECT_EQ(std::count(three_bits.begin(), three_bits.end(), Format::kQ4_K), 4);  // two layers
}

TEST(FileType, EightExpertsKeepSmallAttentionPrecise) {
  io::ModelConfig c = dense();
  c.moe.n_experts = 8;
  EXPECT_EQ(at("Q4_K_M", c, "blk.9.attn_v.weight"), Format::kQ8_0);
  EXPECT_EQ(at("Q4_K_M", c, "blk.9.attn_k.weight"), Format::kQ8_0);
  EXPECT_EQ(at("Q4_K_M", c, "blk.9.attn_output.weight"), Format::kQ5_K);
}

TEST(FileType, VectorsNormsAndRoutersStayF32) {
  const io::ModelConfig c = dense();
  for (const FileType& t : file_types()) {
    const char* type = t.name.data();
    EXPECT_EQ(at(type, c, "blk.0.attn_norm.weight", {4096}), Format::kF32);
    EXPECT_EQ(at(type, c, "blk.0.attn_q.bias", {4096}), Format::kF32);
    EXPECT_EQ(at(type, c, "blk.0.ffn_gate_inp.weight", {64, 4096}), Format::kF32);
    EXPECT_EQ(at(type, c, "blk.0.exp_probs_b.bias", {64}), Format::kF32);
  }
}

TEST(FileType, RowsThatDoNotDivideGetAnotherFormat) {
  const io::ModelConfig c = dense();
  const auto q = [&](const char* type, std::int64_t cols) {
    return at(type, c, "blk.9.attn_q.weight", {4096, cols});
  };
  EXPECT_EQ(q("Q4_K_M", 576), Format::kQ5_0);
  EXPECT_EQ(q("Q5_K_M", 576), Format::kQ5_1);
  EXPECT_EQ(q("Q6_K", 576), Format::kQ8_0);
  EXPECT_EQ(q("Q2_K", 576), Format::kQ4_0);
  EXPECT_EQ(q("IQ2_XS", 576), Format::kIQ4_NL);
  EXPECT_EQ(q("Q4_K_M", 100), Format::kF16);
  EXPECT_EQ(q("Q8_0", 100), Format::kF16);
  EXPECT_EQ(q("F32", 100), Format::kF32);
  // Whatever the row, the format divides it.
  const io::ModelConfig small = dense(2);
  for (const FileType& t : file_types()) {
    for (std::int64_t cols = 1; cols < 600; cols += 7) {
      for (const char* name : {"output.weight", "blk.1.attn_v.weight", "blk.1.ffn_down.weight",
                               "blk.1.attn_kv_b.weight"}) {
        const Format f = at(t.name.data(), small, name, {8, cols});
        ASSERT_EQ(cols % formats::traits(f).block_len, 0) << t.name << " " << name << " " << cols;
      }
    }
  }
}

}  // namespace
}  // namespace kt::session
