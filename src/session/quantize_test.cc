// Files that the quantiser writes, read back: same tensors, same model; and sources it must refuse.
#include "session/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "engine/engine.h"
#include "io/gguf_export.h"
#include "io/gguf_source.h"
#include "io/gguf_writer.h"
#include "io/hf_config.h"
#include "io/names.h"
#include "io/test_files.h"
#include "models/model.h"
#include "operators/test_source.h"
#include "session/dummy_source.h"

namespace kt::session {
namespace {

namespace fs = std::filesystem;
using io::testing::TemporaryFolder;
using operators::TestSource;

io::ModelConfig golden(const std::string& name) {
  const fs::path path = fs::path(KT_SOURCE_DIR) / "tests/data/golden_configs" / (name + ".json");
  return io::read_hf_config(path.string());
}

std::vector<std::byte> rows_of(const io::WeightSource& source, const io::TensorInfo& t) {
  std::vector<std::byte> bytes(formats::row_bytes(t.format, t.shape.n_cols()) *
                               static_cast<std::size_t>(t.shape.n_rows()));
  source.read_rows(t, 0, t.shape.n_rows(), bytes.data());
  return bytes;
}

std::vector<float> floats_of(const io::WeightSource& source, const io::TensorInfo& t) {
  const auto bytes = rows_of(source, t);
  std::vector<float> values(static_cast<std::size_t>(t.shape.count()));
  formats::traits(t.format).decode(bytes.data(), values.data(), t.shape.count());
  return values;
}

// Logits of every row of a fixed prompt.
std::vector<float> logits_of(const io::WeightSource& source) {
  const auto model = models::build_model(source.config(), {});
  backend::Cpu cpu(2, {}, detect_caps(), backend::ActPolicy::kF32);
  operators::Loader loader(source, cpu, {});
  models::load_model(*model, loader);
  engine::EngineOptions options;
  options.context = options.chunk_size = 64;
  options.kv_format = tensor::Format::kF32;
  engine::Engine engine(*model, cpu, options);
  engine::Request request;
  for (std::int32_t i = 0; i < 40; ++i) request.prompt.push_back(i * 37 % 263);
  request.max_tokens = 0;
  std::vector<float> logits;
  request.on_prompt_logits = [&](std::int64_t, std::span<const float> row) {
    logits.insert(logits.end(), row.begin(), row.end());
  };
  engine.generate(std::move(request));
  return logits;
}

class QuantizeTest : public testing::Test {
 protected:
  QuantizeReport write(const io::WeightSource& source, const std::string& type,
                       const std::string& imatrix = {}) {
    QuantizeOptions options;
    options.output = output_;
    options.type = type;
    options.imatrix = imatrix;
    return quantize(source, options, pool_);
  }
  // The code of the error; nothing may be left in the folder.
  ErrorCode refused(const io::WeightSource& source, const std::string& type = "F32") {
    std::error_code ignored;
    fs::remove(output_, ignored);
    try {
      write(source, type);
    } catch (const Error& e) {
      EXPECT_TRUE(fs::is_empty(folder_.path())) << e.what();
      message_ = e.what();
      return e.code();
    }
    ADD_FAILURE() << "accepted";
    return ErrorCode::kInternal;
  }
  TemporaryFolder folder_;
  std::string output_ = folder_ / "out.gguf";
  std::string message_;
  ThreadPool pool_{2, {}};
};

TEST_F(QuantizeTest, EveryArchitectureComesBackAsItWas) {
  for (const auto& entry :
       fs::directory_iterator(fs::path(KT_SOURCE_DIR) / "tests/data/golden_configs")) {
    if (entry.path().extension() != ".json") continue;
    SCOPED_TRACE(entry.path().stem().string());
    const auto source =
        make_dummy_source(golden(entry.path().stem().string()), file_type("F32"), {});
    const QuantizeReport report = write(*source, "F32");
    const auto file = io::open_weights(output_);
    EXPECT_EQ(file->tensors().size(), source->tensors().size());
    std::int64_t n_weights = 0;
    for (const io::TensorInfo& t : source->tensors()) {
      const io::TensorInfo* back = file->find(t.name);
      ASSERT_NE(back, nullptr) << t.name;
      EXPECT_EQ(back->shape, t.shape) << t.name;
      EXPECT_EQ(rows_of(*file, *back), rows_of(*source, t)) << t.name;
      n_weights += t.shape.count();
    }
    EXPECT_EQ(report.n_weights, n_weights);
    // The configuration means the same: the same weights compute the same logits.
    const std::vector<float> want = logits_of(*source), got = logits_of(*file);
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-4) << i;
  }
}

TEST_F(QuantizeTest, RefusesFewBitsWithoutAnImportanceMatrix) {
  const auto source = make_dummy_source(golden("llama"), file_type("F32"), {});
  for (const char* type : {"IQ1_S", "IQ2_XXS", "IQ3_XXS", "Q2_K_S"}) {
    EXPECT_EQ(refused(*source, type), ErrorCode::kUsage);
    EXPECT_NE(message_.find("--imatrix"), std::string::npos) << message_;
  }
  // Already rounded rows are copied, whatever their format.
  write(*make_dummy_source(golden("llama"), file_type("IQ2_XXS"), {}), "IQ2_XXS");
}

TEST_F(QuantizeTest, ThePlanIsWhatIsWritten) {
  const auto source = make_dummy_source(golden("llama"), file_type("F32"), {});
  QuantizeOptions options;
  options.type = "Q4_K_M";
  const std::vector<PlannedTensor> plan = plan_quantize(*source, options);
  write(*source, "Q4_K_M");
  const io::GgufFile file = io::GgufFile::open(output_);
  ASSERT_EQ(file.tensors().size(), plan.size());
  for (std::size_t i = 0; i < plan.size(); ++i) {
    EXPECT_EQ(file.tensors()[i].name, plan[i].name);
    EXPECT_EQ(file.tensors()[i].format, plan[i].format);
    EXPECT_EQ(file.tensors()[i].shape, plan[i].shape);
  }
}

TEST_F(QuantizeTest, RowsAreTheEncodersRows) {
  for (const char* name : {"llama", "deepseek_v3"}) {
    const auto source = make_dummy_source(golden(name), file_type("F32"), {});
    write(*source, "Q4_K_M");
    const auto file = io::open_weights(output_);
    std::set<tensor::Format> formats_seen;
    for (const io::TensorInfo& t : source->tensors()) {
      const io::TensorInfo& back = *file->find(t.name);
      formats_seen.insert(back.format);
      const auto values = floats_of(*source, t);
      std::vector<std::byte> want(rows_of(*file, back).size());
      const std::size_t row_bytes = formats::row_bytes(back.format, t.shape.n_cols());
      for (std::int64_t r = 0; r < t.shape.n_rows(); ++r) {
        formats::traits(back.format)
            .encode(values.data() + r * t.shape.n_cols(), nullptr,
                    want.data() + static_cast<std::size_t>(r) * row_bytes, t.shape.n_cols());
      }
      EXPECT_EQ(rows_of(*file, back), want) << t.name;
    }
    EXPECT_TRUE(formats_seen.contains(tensor::Format::kQ4_K));
    EXPECT_TRUE(formats_seen.contains(tensor::Format::kQ6_K));
    EXPECT_TRUE(formats_seen.contains(tensor::Format::kF32));
  }
}

TEST_F(QuantizeTest, AFileCanBeQuantisedAgain) {
  const auto source = make_dummy_source(golden("llama"), file_type("F32"), {});
  write(*source, "F16");
  const std::string first = folder_ / "first.gguf";
  fs::rename(output_, first);
  const auto half = io::open_weights(first);
  write(*half, "F16");
  const io::GgufModel once = io::GgufModel::open(first), twice = io::GgufModel::open(output_);
  ASSERT_EQ(once.entries().size(), twice.entries().size());
  for (const io::GgufModel::Entry& entry : once.entries()) {
    const std::string_view name = once.tensor(entry).name;
    const auto a = *once.find_data(name);
    const auto b = twice.find_data(name);
    ASSERT_TRUE(b) << name;
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b->begin(), b->end())) << name;
  }
  EXPECT_EQ(once.metadata().items().size(), twice.metadata().items().size());
  for (const auto& item : once.metadata().items())
    EXPECT_TRUE(twice.metadata().has(item.key)) << item.key;
  write(*half, "Q8_0");
  const io::GgufSource small(output_);
  EXPECT_EQ(small.gguf().metadata().get_u64("general.file_type"), file_type("Q8_0").llama_ftype);
  const std::vector<float> want = logits_of(*half), got = logits_of(small);
  double square = 0.0, error = 0.0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    square += static_cast<double>(want[i]) * static_cast<double>(want[i]);
    error += std::pow(static_cast<double>(got[i]) - static_cast<double>(want[i]), 2.0);
  }
  EXPECT_LT(std::sqrt(error / square), 0.05);
  EXPECT_GT(error, 0.0);
}

TEST_F(QuantizeTest, TheSameInputGivesTheSameFile) {
  const auto source = make_dummy_source(golden("qwen3_moe"), file_type("F32"), {});
  write(*source, "Q4_K_M");
  const auto first = io::testing::read_bytes(output_);
  ThreadPool one(1, {});
  QuantizeOptions options;
  options.output = output_;
  quantize(*source, options, one);
  EXPECT_EQ(io::testing::read_bytes(output_), first);
}

TEST_F(QuantizeTest, ProgressEndsAtTheTotal) {
  const auto source = make_dummy_source(golden("llama"), file_type("F32"), {});
  QuantizeOptions options;
  options.output = output_;
  options.type = "q8_0";
  std::uint64_t last = 0, total = 0;
  std::size_t calls = 0;
  options.on_progress = [&](const std::string&, std::uint64_t done, std::uint64_t all) {
    EXPECT_GE(done, last);
    EXPECT_LE(done, all);
    last = done;
    total = all;
    ++calls;
  };
  const QuantizeReport report = quantize(*source, options, pool_);
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, report.bytes);
  EXPECT_EQ(calls, static_cast<std::size_t>(report.n_tensors) + 1);
  EXPECT_LT(report.bytes, fs::file_size(output_));
}

TEST_F(QuantizeTest, ImportanceWeighsItsTensorAndExpert) {
  const auto source = make_dummy_source(golden("qwen3_moe"), file_type("F32"), {});
  const io::TensorInfo& up = *source->find("model.layers.0.mlp.experts.2.up_proj.weight");
  const auto stored = *io::gguf_name(source->config(), up.name);
  const std::int64_t n_cols = up.shape.n_cols(), n_experts = source->config().moe.n_experts;
  std::vector<float> importance(static_cast<std::size_t>(n_experts * n_cols), 1.0f);
  for (std::int64_t i = 0; i < n_cols; ++i)
    importance[static_cast<std::size_t>(2 * n_cols + i)] = i % 16 == 0 ? 100.0f : 0.01f;
  const std::string matrix = folder_ / "imatrix.gguf";
  {
    io::GgufWriter writer(matrix);
    writer.add_string("general.type", "imatrix");
    writer.add_tensor(stored.name + ".in_sum2", tensor::Format::kF32, {n_experts, n_cols});
    writer.add_tensor(stored.name + ".counts", tensor::Format::kF32, {n_experts, 1});
    writer.begin_data();
    writer.append(std::as_bytes(std::span(importance)));
    const std::vector<float> counts(static_cast<std::size_t>(n_experts), 1.0f);
    writer.append(std::as_bytes(std::span(counts)));
    writer.finish();
  }
  write(*source, "Q4_K_S", matrix);
  const auto file = io::open_weights(output_);
  const io::TensorInfo& back = *file->find(up.name);
  const auto values = floats_of(*source, up);
  const auto got = rows_of(*file, back);
  const std::size_t row_bytes = formats::row_bytes(back.format, n_cols);
  std::vector<std::byte> want(row_bytes), plain(row_bytes);
  formats::traits(back.format)
      .encode(values.data(), importance.data() + 2 * n_cols, want.data(), n_cols);
  formats::traits(back.format).encode(values.data(), nullptr, plain.data(), n_cols);
  EXPECT_TRUE(std::equal(want.begin(), want.end(), got.begin()));
  EXPECT_NE(want, plain);
}

io::ModelConfig tiny() {
  io::ModelConfig c = golden("llama");
  c.head_dim = 8;
  return c;
}

TEST_F(QuantizeTest, BiasesMoveWithTheRowsOfTheirMatrix) {
  TestSource source(tiny());
  const auto weight = source.add("model.layers.0.self_attn.q_proj.weight", {16, 4}, 1.0f);
  const auto bias = source.add("model.layers.0.self_attn.q_proj.bias", {16}, 1.0f);
  write(source, "F32");
  const io::GgufModel file = io::GgufModel::open(output_);
  const auto stored = [&](const char* name) {
    const auto data = *file.find_data(name);
    std::vector<float> values(data.size() / sizeof(float));
    std::memcpy(values.data(), data.data(), data.size());
    return values;
  };
  const auto w = stored("blk.0.attn_q.weight"), b = stored("blk.0.attn_q.bias");
  for (std::size_t r = 0; r < 16; ++r) {
    // Neighbours are the halves of a head: 0, 4, 1, 5, …
    const std::size_t from = r / 8 * 8 + r % 2 * 4 + r % 8 / 2;
    EXPECT_EQ(b[r], bias[from]) << r;
    EXPECT_EQ(w[r * 4], weight[from * 4]) << r;
  }
}

TEST_F(QuantizeTest, WhatCannotBeWrittenIsRefused) {
  const auto dummy = make_dummy_source(golden("llama"), file_type("F32"), {});
  EXPECT_EQ(refused(*dummy, "Q9_Z"), ErrorCode::kUsage);
  {
    TestSource source(tiny());
    source.add("model.layers.0.unheard_of.weight", {4, 4}, 1.0f);
    EXPECT_EQ(refused(source), ErrorCode::kUnsupported);
    EXPECT_NE(message_.find("unheard_of"), std::string::npos) << message_;
  }
  {
    TestSource source(tiny());
    source.add("model.layers.0.self_attn.q_proj.weight", {12, 4}, 1.0f);  // one and a half heads
    EXPECT_EQ(refused(source), ErrorCode::kMismatch);
    EXPECT_NE(message_.find("q_proj"), std::string::npos) << message_;
  }
  {
    TestSource source(tiny());
    source.add("model.norm.weight", {0}, 1.0f);
    EXPECT_EQ(refused(source), ErrorCode::kMismatch);
  }
  io::ModelConfig moe = golden("qwen3_moe");
  const std::string experts = "model.layers.0.mlp.experts.";
  {
    TestSource source(moe);
    source.add(experts + "0.up_proj.weight", {4, 4}, 1.0f);
    source.add(experts + "2.up_proj.weight", {4, 4}, 1.0f);
    EXPECT_EQ(refused(source), ErrorCode::kMismatch);  // expert 1 is missing
  }
  {
    TestSource source(moe);
    source.add(experts + "1.up_proj.weight", {4, 4}, 1.0f);
    EXPECT_EQ(refused(source), ErrorCode::kMismatch);  // expert 0 is missing
  }
  {
    TestSource source(moe);
    source.add(experts + "0.up_proj.weight", {4, 4}, 1.0f);
    source.add(experts + "1.up_proj.weight", {8, 4}, 1.0f);
    EXPECT_EQ(refused(source), ErrorCode::kMismatch);
  }
  {
    TestSource source(moe);
    source.add(experts + "999999999999.up_proj.weight", {4, 4}, 1.0f);
    EXPECT_EQ(refused(source), ErrorCode::kMismatch);
  }
}

// A source whose file turns out to be damaged while rows are read.
class BrokenSource : public TestSource {
 public:
  using TestSource::TestSource;
  void read_rows(const io::TensorInfo& info, std::int64_t row, std::int64_t,
                 std::byte*) const override {
    fail(ErrorCode::kBadFile, path(), "row {} of '{}' is damaged", row, info.name);
  }
};

TEST_F(QuantizeTest, DamageFoundWhileReadingIsReported) {
  BrokenSource source(tiny());
  source.add("model.layers.0.mlp.up_proj.weight", {64, 64}, 1.0f);
  EXPECT_EQ(refused(source), ErrorCode::kBadFile);
  EXPECT_NE(message_.find("up_proj"), std::string::npos) << message_;
}

TEST_F(QuantizeTest, ACopyChangesTheHeaderOnly) {
  const auto source = make_dummy_source(golden("llama"), file_type("Q4_K_M"), {});
  write(*source, "Q4_K_M");
  const auto file = io::open_weights(output_);
  QuantizeOptions options;
  options.output = folder_ / "copy.gguf";
  options.copy = true;
  options.name = "a new name";
  quantize(*file, options, pool_);
  const io::GgufFile before = io::GgufFile::open(output_);
  const io::GgufFile after = io::GgufFile::open(options.output);
  EXPECT_EQ(after.metadata().get_string("general.name"), "a new name");
  EXPECT_EQ(after.metadata().get_u64("general.file_type"), file_type("Q4_K_M").llama_ftype);
  ASSERT_EQ(after.tensors().size(), before.tensors().size());
  for (std::size_t i = 0; i < before.tensors().size(); ++i) {
    EXPECT_EQ(after.tensors()[i].name, before.tensors()[i].name);
    EXPECT_EQ(after.tensors()[i].format, before.tensors()[i].format);
    EXPECT_TRUE(
        std::ranges::equal(after.data(after.tensors()[i]), before.data(before.tensors()[i])));
  }
  options.output = folder_ / "none.gguf";
  EXPECT_THROW(quantize(*source, options, pool_), Error);  // no file to copy
}

TEST_F(QuantizeTest, LengthsOfTheSplitLayoutGoWithIt) {
  const std::string split = folder_ / "split.gguf";
  const std::string a = "deepseek2.attention.";
  {
    io::GgufWriter writer(split);
    writer.add_string("general.architecture", "deepseek2");
    writer.add_string("general.name", "x");
    writer.add_u32(a + "head_count", 16);
    writer.add_u32(a + "head_count_kv", 1);
    writer.add_u32(a + "key_length", 576);
    writer.add_u32(a + "value_length", 512);
    writer.add_u32(a + "key_length_mla", 192);
    writer.add_u32(a + "value_length_mla", 128);
    writer.begin_data();
    writer.finish();
  }
  const io::GgufFile source = io::GgufFile::open(split);
  const auto copied = [&](bool joint) {
    io::GgufWriter writer(output_);
    io::copy_metadata(source.metadata(), {7, "", joint}, writer);
    writer.begin_data();
    writer.finish();
    return io::GgufFile::open(output_);
  };
  const io::GgufFile same = copied(false), joint = copied(true);
  EXPECT_EQ(same.metadata().get_string("general.name"), "x");
  EXPECT_EQ(same.metadata().get_u64(a + "key_length"), 576u);
  EXPECT_EQ(same.metadata().get_u64(a + "key_length_mla"), 192u);
  EXPECT_EQ(joint.metadata().get_u64(a + "key_length"), 192u);
  EXPECT_EQ(joint.metadata().get_u64(a + "value_length"), 128u);
  EXPECT_EQ(joint.metadata().get_u64(a + "head_count_kv"), 16u);
  EXPECT_FALSE(joint.metadata().has(a + "key_length_mla"));
  EXPECT_FALSE(joint.metadata().has(a + "value_length_mla"));
}

TEST_F(QuantizeTest, TheInputIsNotOverwritten) {
  const auto source = make_dummy_source(golden("llama"), file_type("F32"), {});
  write(*source, "F16");
  const auto before = io::testing::read_bytes(output_);
  const auto file = io::open_weights(output_);
  try {
    write(*file, "Q8_0");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kUsage);
  }
  EXPECT_EQ(io::testing::read_bytes(output_), before);
  output_ = folder_ / "no/such/folder.gguf";
  try {
    write(*file, "Q8_0");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::kIo);
  }
}

}  // namespace
}  // namespace kt::session
