#include "io/gguf.h"

#include <gtest/gtest.h>

#include "io/atomic_file.h"
#include "io/gguf_source.h"
#include "io/gguf_writer.h"
#include "io/test_files.h"

namespace kt::io {
namespace {

using testing::feed_damaged;
using testing::message_of;
using testing::TemporaryFolder;

std::vector<std::byte> floats(std::size_t n, float start) {
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) values[i] = start + static_cast<float>(i);
  std::vector<std::byte> out(n * sizeof(float));
  std::memcpy(out.data(), values.data(), out.size());
  return out;
}

void write_small(const std::string& path) {
  GgufWriter out(path);
  out.add_string("general.architecture", "llama");
  out.add_u32("a.u32", 7);
  out.add_i32("a.i32", -7);
  out.add_u64("a.u64", std::uint64_t{1} << 40);
  out.add_f32("a.f32", 0.5f);
  out.add_bool("a.bool", true);
  out.add_strings("a.strings", std::vector<std::string>{"x", "", "yz"});
  out.add_f32s("a.f32s", std::vector<float>{1.0f, -2.0f});
  out.add_i32s("a.i32s", std::vector<std::int32_t>{3, -4});
  out.add_tensor("one", tensor::Format::kF32, {2, 3});
  out.add_tensor("two", tensor::Format::kF32, {5});
  out.begin_data();
  out.append(floats(6, 0.0f));
  out.append(floats(5, 10.0f));
  out.finish();
}

TEST(Gguf, ReadsBackWhatTheWriterWrote) {
  const TemporaryFolder folder;
  write_small(folder / "m.gguf");
  const GgufFile file = GgufFile::open(folder / "m.gguf");
  const GgufMetadata& meta = file.metadata();
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(meta.get_string("general.architecture"), "llama");
  EXPECT_EQ(meta.get_u64("a.u32"), 7u);
  EXPECT_EQ(meta.get_i64("a.i32"), -7);
  EXPECT_EQ(meta.get_u64("a.u64"), std::uint64_t{1} << 40);
  EXPECT_EQ(meta.get_f64("a.f32"), 0.5);
  EXPECT_TRUE(meta.get_bool("a.bool", false));
  EXPECT_EQ(meta.get_strings("a.strings"), (std::vector<std::string_view>{"x", "", "yz"}));
  EXPECT_EQ(meta.get_floats("a.f32s"), (std::vector<float>{1.0f, -2.0f}));
  EXPECT_EQ(meta.get_integers("a.i32s"), (std::vector<std::int64_t>{3, -4}));
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.tensors()[0].shape, (tensor::Shape{2, 3}));
  EXPECT_EQ(file.tensors()[1].offset % 32, 0u);
  float value = 0.0f;
  std::memcpy(&value, file.data(file.tensors()[1]).data() + 4 * sizeof(float), sizeof(float));
  EXPECT_EQ(value, 14.0f);
}

TEST(Gguf, RefusesAlignmentsThatTheFormatDoesNotHave) {
  const TemporaryFolder folder;
  for (const std::uint32_t alignment : {0u, 1u, 4u, 48u}) {
    GgufWriter out(folder / "m.gguf");
    out.add_u32("general.alignment", alignment);
    out.begin_data();
    out.finish();
    EXPECT_NE(message_of([&] { GgufFile::open(folder / "m.gguf"); }, ErrorCode::kBadFile)
                  .find("general.alignment"),
              std::string::npos);
  }
}

TEST(Gguf, AccessorsNameTheKey) {
  const TemporaryFolder folder;
  write_small(folder / "m.gguf");
  const GgufFile file = GgufFile::open(folder / "m.gguf");
  const GgufMetadata& meta = file.metadata();
  EXPECT_NE(
      message_of([&] { meta.get_u64("missing.key"); }, ErrorCode::kBadFile).find("missing.key"),
      std::string::npos);
  EXPECT_NE(message_of([&] { meta.get_u64("a.i32"); }, ErrorCode::kBadFile).find("-7"),
            std::string::npos);
  EXPECT_NE(message_of([&] { meta.get_string("a.u32"); }, ErrorCode::kBadFile).find("a.u32"),
            std::string::npos);
  message_of([&] { meta.get_floats("a.strings"); }, ErrorCode::kBadFile);
  message_of([&] { meta.get_u64("a.bool"); }, ErrorCode::kBadFile);
  EXPECT_EQ(meta.get_u64("missing.key", 3), 3u);
}

TEST(Gguf, DamagedFilesAreRefusedWithoutCrash) {
  const TemporaryFolder folder;
  write_small(folder / "m.gguf");
  const auto bytes = testing::read_bytes(folder / "m.gguf");
  const int refused = feed_damaged(bytes, 10000, [](const std::vector<std::byte>& input) {
    const GgufFile file = GgufFile::parse(input, "damaged");
    for (const GgufTensor& t : file.tensors()) ASSERT_LE(t.offset + t.bytes, input.size());
    for (const auto& item : file.metadata().items()) {
      if (item.value.type != GgufType::kArray) continue;
      const auto element = std::get<GgufArray>(item.value.value).element;
      if (element == GgufType::kString) file.metadata().get_strings(item.key);
      if (element == GgufType::kF32 || element == GgufType::kF64)
        file.metadata().get_floats(item.key);
    }
  });
  EXPECT_GT(refused, static_cast<int>(bytes.size()) - 40);
}

TEST(Gguf, LyingHeadersAreRefused) {
  const TemporaryFolder folder;
  write_small(folder / "m.gguf");
  const auto good = testing::read_bytes(folder / "m.gguf");
  auto with_u64 = [&](std::size_t at, std::uint64_t value) {
    auto bytes = good;
    std::memcpy(bytes.data() + at, &value, sizeof(value));
    return bytes;
  };
  auto refuse = [](const std::vector<std::byte>& bytes, ErrorCode code) {
    return message_of([&] { GgufFile::parse(bytes, "m"); }, code);
  };
  EXPECT_NE(refuse(with_u64(8, UINT64_MAX), ErrorCode::kBadFile).find("tensors"),
            std::string::npos);
  EXPECT_NE(refuse(with_u64(16, UINT64_MAX), ErrorCode::kBadFile).find("metadata"),
            std::string::npos);
  EXPECT_NE(refuse(with_u64(24, UINT64_MAX - 3), ErrorCode::kBadFile).find("truncated"),
            std::string::npos);
  auto bytes = good;
  bytes[4] = std::byte{1};
  EXPECT_NE(refuse(bytes, ErrorCode::kUnsupported).find("version 1"), std::string::npos);
  bytes[4] = std::byte{0};
  bytes[7] = std::byte{3};
  EXPECT_NE(refuse(bytes, ErrorCode::kUnsupported).find("big-endian"), std::string::npos);
  bytes[0] = std::byte{'X'};
  refuse(bytes, ErrorCode::kBadFile);
  refuse({}, ErrorCode::kBadFile);
}

TEST(Gguf, WriterLeavesNothingBehindWhenItFails) {
  const TemporaryFolder folder;
  {
    GgufWriter out(folder / "m.gguf");
    out.add_tensor("t", tensor::Format::kF32, {4});
    out.begin_data();
    message_of([&] { out.add_tensor("u", tensor::Format::kF32, {4}); }, ErrorCode::kInternal);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  message_of([&] { GgufWriter out(folder / "no/such/folder/m.gguf"); }, ErrorCode::kIo);
  GgufWriter out(folder / "m.gguf");
  message_of([&] { out.add_tensor("s", tensor::Format::kQ4_K, {3, 100}); },
             ErrorCode::kUnsupported);
  message_of([&] { out.add_tensor("t", tensor::Format::kI4_32, {3, 32}); },
             ErrorCode::kUnsupported);
}

void write_shard(const std::string& path, std::uint32_t number, std::uint32_t count,
                 const std::string& tensor) {
  GgufWriter out(path);
  out.add_u32("split.no", number);
  out.add_u32("split.count", count);
  out.add_tensor(tensor, tensor::Format::kF32, {1});
  out.begin_data();
  out.append(floats(1, 1.0f));
  out.finish();
}

TEST(GgufShards, AnyShardOrTheFolderOpensTheModel) {
  const TemporaryFolder folder;
  write_shard(folder / "m-00001-of-00003.gguf", 0, 3, "a");
  write_shard(folder / "m-00002-of-00003.gguf", 1, 3, "b");
  write_shard(folder / "m-00003-of-00003.gguf", 2, 3, "c");
  for (const std::string& path :
       {folder / "m-00001-of-00003.gguf", folder / "m-00003-of-00003.gguf", folder.path()}) {
    const GgufModel model = GgufModel::open(path);
    EXPECT_EQ(model.files().size(), 3u);
    EXPECT_NE(model.find("c"), nullptr);
  }
}

TEST(GgufShards, MissingMixedAndDuplicateShardsAreRefused) {
  const TemporaryFolder folder;
  write_shard(folder / "m-00001-of-00002.gguf", 0, 2, "a");
  EXPECT_NE(message_of([&] { GgufModel::open(folder.path()); }, ErrorCode::kNotFound)
                .find("00002-of-00002"),
            std::string::npos);
  write_shard(folder / "m-00002-of-00002.gguf", 0, 2, "b");
  EXPECT_NE(
      message_of([&] { GgufModel::open(folder.path()); }, ErrorCode::kMismatch).find("split.no"),
      std::string::npos);
  write_shard(folder / "m-00002-of-00002.gguf", 1, 3, "b");
  EXPECT_NE(
      message_of([&] { GgufModel::open(folder.path()); }, ErrorCode::kMismatch).find("split.count"),
      std::string::npos);
  write_shard(folder / "m-00002-of-00002.gguf", 1, 2, "a");
  EXPECT_NE(message_of([&] { GgufModel::open(folder.path()); }, ErrorCode::kMismatch)
                .find("earlier shard"),
            std::string::npos);
  write_shard(folder / "renamed.gguf", 0, 2, "a");
  message_of([&] { GgufModel::open(folder / "renamed.gguf"); }, ErrorCode::kMismatch);
  message_of([&] { GgufModel::open(folder.path()); }, ErrorCode::kUsage);
  message_of([&] { gguf_shard_paths("m-00000-of-00002.gguf"); }, ErrorCode::kBadFile);
  EXPECT_EQ(gguf_shard_paths("m-0001-of-0002.gguf").size(), 1u);
}

// A llama with one layer, 2 heads of 4, whose q rows hold their own row number.
void write_llama(const std::string& path, bool with_bias) {
  GgufWriter out(path);
  out.add_string("general.architecture", "llama");
  for (const auto& [key, value] :
       std::vector<std::pair<const char*, std::uint32_t>>{{"llama.block_count", 1},
                                                          {"llama.context_length", 64},
                                                          {"llama.embedding_length", 8},
                                                          {"llama.feed_forward_length", 8},
                                                          {"llama.attention.head_count", 2},
                                                          {"llama.attention.head_count_kv", 1}}) {
    out.add_u32(key, value);
  }
  out.add_f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  out.add_tensor("token_embd.weight", tensor::Format::kF32, {16, 8});
  out.add_tensor("blk.0.attn_q.weight", tensor::Format::kF32, {8, 1});
  out.add_tensor("rope_freqs.weight", tensor::Format::kF32, {2});
  if (with_bias) out.add_tensor("blk.0.attn_q.bias", tensor::Format::kF32, {8});
  out.begin_data();
  out.append(floats(128, 0.0f));
  out.append(floats(8, 0.0f));
  out.append(floats(2, 1.0f));
  if (with_bias) out.append(floats(8, 0.0f));
  out.finish();
}

TEST(GgufSource, UndoesTheRopePermutation) {
  const TemporaryFolder folder;
  write_llama(folder / "m.gguf", true);
  const GgufSource source(folder / "m.gguf");
  EXPECT_EQ(source.config().head_dim, 4);
  EXPECT_TRUE(source.config().tied_embeddings);
  EXPECT_EQ(source.config().vocab_size, 16);
  EXPECT_EQ(source.config().rope.freq_factors, (std::vector<float>{1.0f, 2.0f}));
  EXPECT_EQ(source.find("rope_freqs.weight"), nullptr);
  for (const char* name :
       {"model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.bias"}) {
    const TensorInfo* q = source.find(name);
    ASSERT_NE(q, nullptr) << name;
    EXPECT_FALSE(source.map(*q).has_value());
    std::vector<float> rows(8);
    source.read_rows(*q, 0, q->shape.n_rows(), reinterpret_cast<std::byte*>(rows.data()));
    // Stored row 2 i + s of a head is row i + 2 s of the checkpoint (half a head is 2).
    EXPECT_EQ(rows, (std::vector<float>{0, 2, 1, 3, 4, 6, 5, 7})) << name;
  }
  const TensorInfo* embedding = source.find("model.embed_tokens.weight");
  ASSERT_NE(embedding, nullptr);
  const auto view = source.map(*embedding);
  ASSERT_TRUE(view.has_value());
  EXPECT_EQ(reinterpret_cast<const float*>(view->row(1))[0], 8.0f);
  source.drop(*embedding);
  EXPECT_EQ(reinterpret_cast<const float*>(view->row(1))[1], 9.0f);
}

TEST(GgufSource, DamagedModelsAreRefusedWithoutCrash) {
  const TemporaryFolder folder;
  write_llama(folder / "m.gguf", true);
  const auto bytes = testing::read_bytes(folder / "m.gguf");
  std::mt19937 random(3);
  int opened = 0;
  for (int i = 0; i < 300; ++i) {
    auto input = bytes;
    for (int e = 0; e < 2; ++e) input[random() % 700] = static_cast<std::byte>(random());
    testing::write_bytes(folder / "d.gguf", input);
    try {
      const GgufSource source(folder / "d.gguf");
      for (const TensorInfo& info : source.tensors()) {
        std::vector<std::byte> row(formats::row_bytes(info.format, info.shape.n_cols()));
        source.read_rows(info, info.shape.n_rows() - 1, 1, row.data());
      }
      ++opened;
    } catch (const Error&) {
    }
  }
  EXPECT_GT(opened, 0);
}

TEST(OpenWeights, SaysWhatIsWrongWithThePath) {
  const TemporaryFolder folder;
  message_of([&] { open_weights(folder / "nothing.gguf"); }, ErrorCode::kNotFound);
  message_of([&] { open_weights(folder.path()); }, ErrorCode::kNotFound);
  write_file(folder / "a.txt", "text");
  message_of([&] { open_weights(folder / "a.txt"); }, ErrorCode::kUnsupported);
  write_file(folder / "a.gguf", "");
  message_of([&] { open_weights(folder / "a.gguf"); }, ErrorCode::kBadFile);
}

}  // namespace
}  // namespace kt::io
