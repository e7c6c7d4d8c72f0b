#include "io/safetensors.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>

#include "base/half.h"
#include "io/atomic_file.h"
#include "io/safetensors_source.h"
#include "io/test_files.h"

namespace kt::io {
namespace {

using testing::message_of;
using testing::TemporaryFolder;

std::vector<std::byte> file_of(const std::string& header, std::size_t data_bytes) {
  std::vector<std::byte> out(8 + header.size() + data_bytes);
  const std::uint64_t length = header.size();
  std::memcpy(out.data(), &length, 8);
  std::memcpy(out.data() + 8, header.data(), header.size());
  return out;
}

const std::string kHeader =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
    R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]},"s":{"dtype":"I64","shape":[],"data_offsets":[22,30]}})";

TEST(Safetensors, ReadsHeader) {
  const auto bytes = file_of(kHeader, 30);
  const SafetensorsFile file = SafetensorsFile::parse(bytes, "f");
  ASSERT_EQ(file.tensors().size(), 3u);
  EXPECT_EQ(file.tensors()[0].shape, (tensor::Shape{2, 2}));
  EXPECT_EQ(file.tensors()[1].type, SafeType::kBF16);
  EXPECT_EQ(file.tensors()[1].offset, 8 + kHeader.size() + 16);
  EXPECT_EQ(file.tensors()[2].shape.rank(), 0);
  EXPECT_EQ(file.metadata().at("format"), "pt");
}

TEST(Safetensors, LyingHeadersAreRefused) {
  auto refuse = [](const std::string& header, std::size_t n, ErrorCode code, const char* part) {
    const auto bytes = file_of(header, n);
    const std::string message = message_of([&] { SafetensorsFile::parse(bytes, "f"); }, code);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  refuse(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7, ErrorCode::kBadFile,
         "truncated");
  refuse(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8, ErrorCode::kBadFile,
         "not its size");
  refuse(R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}})", 8,
         ErrorCode::kBadFile, "not its size");
  refuse(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8, ErrorCode::kBadFile,
         "incomplete");
  refuse(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8, ErrorCode::kBadFile,
         "negative");
  refuse(R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8, ErrorCode::kBadFile,
         "fraction");
  refuse(R"({"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}})", 8, ErrorCode::kUnsupported,
         "F4");
  refuse(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1],"data_offsets":[0,1]}})", 8,
         ErrorCode::kUnsupported, "more than 4");
  refuse(
      R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
      8, ErrorCode::kBadFile, "overlaps");
  refuse(
      R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
      8, ErrorCode::kBadFile, "twice");
  refuse(R"({"a":"b"})", 8, ErrorCode::kBadFile, "string");
  refuse(R"({"__metadata__":{},"a":"b"})", 8, ErrorCode::kBadFile, "string");
  refuse(R"({"a":{"x":{}}})", 8, ErrorCode::kBadFile, "object");
  refuse(R"({"a":[)" + std::string(100000, '['), 8, ErrorCode::kBadFile, "array");
  refuse(R"({"a")", 8, ErrorCode::kBadFile, "JSON");
  refuse("", 8, ErrorCode::kBadFile, "'{'");
}

TEST(Safetensors, DamagedFilesAreRefusedWithoutCrash) {
  const auto bytes = file_of(kHeader, 30);
  const int refused = testing::feed_damaged(bytes, 10000, [](const std::vector<std::byte>& input) {
    const SafetensorsFile file = SafetensorsFile::parse(input, "damaged");
    for (const SafeTensor& t : file.tensors()) ASSERT_LE(t.offset + t.bytes, input.size());
  });
  EXPECT_GT(refused, static_cast<int>(bytes.size()) - 10);
}

// Tensors kept with their bytes until they are written.
class Files {
 public:
  template <class T>
  void add(const std::string& name, SafeType type, const tensor::Shape& shape,
           const std::vector<T>& values) {
    const auto bytes = std::as_bytes(std::span(values));
    storage_.emplace_back(bytes.begin(), bytes.end());
    tensors_.push_back({name, type, shape, {}});
  }
  void add_f32(const std::string& name, const tensor::Shape& shape, float start) {
    std::vector<float> values(static_cast<std::size_t>(shape.count()));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = start + static_cast<float>(i);
    add(name, SafeType::kF32, shape, values);
  }
  void write(const std::string& path) {
    for (std::size_t i = 0; i < tensors_.size(); ++i) tensors_[i].data = storage_[i];
    write_safetensors(path, tensors_);
  }

 private:
  std::vector<std::vector<std::byte>> storage_;
  std::vector<SafeTensorData> tensors_;
};

std::string config(const std::string& type, const std::string& more = "") {
  return R"({"model_type":")" + type +
         R"(","hidden_size":8,"num_hidden_layers":1,"num_attention_heads":2,
    "num_key_value_heads":1,"vocab_size":4,"intermediate_size":6,"max_position_embeddings":64,
    "moe_intermediate_size":6,"num_experts":2,"num_local_experts":2,"num_experts_per_tok":1)" +
         more + "}";
}

std::vector<float> decode_row(const WeightSource& source, const std::string& name,
                              std::int64_t row) {
  const TensorInfo* info = source.find(name);
  if (info == nullptr) {
    ADD_FAILURE() << name << " is missing";
    return {};
  }
  std::vector<std::byte> bytes(formats::row_bytes(info->format, info->shape.n_cols()));
  source.read_rows(*info, row, 1, bytes.data());
  std::vector<float> out(static_cast<std::size_t>(info->shape.n_cols()));
  formats::traits(info->format).decode(bytes.data(), out.data(), info->shape.n_cols());
  return out;
}

TEST(SafetensorsSource, IndexedFolder) {
  const TemporaryFolder folder;
  write_file(folder / "config.json", config("llama", R"(,"tie_word_embeddings":true)"));
  Files one;
  one.add_f32("model.embed_tokens.weight", {4, 8}, 0.0f);
  one.add_f32("lm_head.weight", {4, 8}, 0.0f);
  one.write(folder / "model-00001-of-00002.safetensors");
  Files two;
  two.add_f32("model.norm.weight", {8}, 100.0f);
  two.write(folder / "model-00002-of-00002.safetensors");
  const std::string index =
      R"({"weight_map":{"model.embed_tokens.weight":"model-00001-of-00002.safetensors",
    "lm_head.weight":"model-00001-of-00002.safetensors","model.norm.weight":"%"}})";
  auto with = [&](const std::string& file) {
    std::string text = index;
    text.replace(text.find('%'), 1, file);
    write_file(folder / "model.safetensors.index.json", text);
  };
  with("model-00002-of-00002.safetensors");
  const auto source = open_weights(folder.path());
  write_file(folder / "made-from-it.gguf", "");
  EXPECT_EQ(open_weights(folder.path())->tensors().size(), 2u);
  EXPECT_EQ(source->tensors().size(), 2u);  // the head of a tied model is the embedding
  EXPECT_EQ(decode_row(*source, "model.norm.weight", 0)[1], 101.0f);
  EXPECT_TRUE(source->map(*source->find("model.embed_tokens.weight")).has_value());
  source->drop(*source->find("model.embed_tokens.weight"));
  EXPECT_EQ(decode_row(*source, "model.embed_tokens.weight", 3)[7], 31.0f);
  EXPECT_EQ(open_weights(folder / "model-00002-of-00002.safetensors")->tensors().size(), 2u);
  with("model-00001-of-00002.safetensors");
  message_of([&] { open_weights(folder.path()); }, ErrorCode::kMismatch);
  with("../model.safetensors");
  message_of([&] { open_weights(folder.path()); }, ErrorCode::kBadFile);
  with("gone.safetensors");
  message_of([&] { open_weights(folder.path()); }, ErrorCode::kNotFound);
}

TEST(SafetensorsSource, FusedExpertsAndMixtralAliases) {
  for (const bool mixtral : {false, true}) {
    const TemporaryFolder folder;
    write_file(folder / "config.json", config(mixtral ? "mixtral" : "qwen3_moe"));
    Files files;
    files.add_f32("model.layers.0.mlp.experts.gate_up_proj", {2, 12, 8}, 0.0f);
    files.add_f32("model.layers.0.mlp.experts.down_proj", {2, 8, 6}, 0.0f);
    files.add_f32("model.layers.0.mlp.gate.weight", {2, 8}, 0.0f);
    files.write(folder / "model.safetensors");
    const auto source = open_weights(folder.path());
    const std::string block = mixtral ? "model.layers.0.block_sparse_moe." : "model.layers.0.mlp.";
    EXPECT_EQ(
        decode_row(*source, block + "experts.1." + (mixtral ? "w3" : "up_proj") + ".weight", 0)[0],
        (12.0f + 6.0f) * 8.0f);
    EXPECT_EQ(decode_row(*source, block + "experts.1." + (mixtral ? "w2" : "down_proj") + ".weight",
                         1)[2],
              56.0f);
    EXPECT_NE(source->find(block + "gate.weight"), nullptr);
    EXPECT_EQ(source->tensors().size(), 7u);
  }
}

TEST(SafetensorsSource, QuantisedCheckpoints) {
  const TemporaryFolder folder;
  write_file(folder / "config.json",
             config("llama", R"(,"quantization_config":{"quant_method":"compressed-tensors",
    "format":"pack-quantized","config_groups":{"g":{"weights":{"num_bits":4,"symmetric":true,"strategy":"group",
    "group_size":32}}}})"));
  Files files;
  files.add("model.layers.0.mlp.up_proj.weight_packed", SafeType::kI32, {2, 8},
            std::vector<std::uint32_t>(16, 0x76543210u));
  files.add("model.layers.0.mlp.up_proj.weight_scale", SafeType::kBF16, {2, 2},
            std::vector<std::uint16_t>{f32_to_bf16(1.0f), f32_to_bf16(2.0f), f32_to_bf16(3.0f),
                                       f32_to_bf16(4.0f)});
  files.add("model.layers.0.mlp.up_proj.weight_shape", SafeType::kI64, {2},
            std::vector<std::int64_t>{2, 64});
  files.write(folder / "model.safetensors");
  const auto source = open_weights(folder.path());
  ASSERT_EQ(source->tensors().size(), 1u);
  EXPECT_EQ(source->tensors()[0].format, formats::Format::kI4_32);
  const auto row = decode_row(*source, "model.layers.0.mlp.up_proj.weight", 1);
  EXPECT_EQ(row[3], (3.0f - 8.0f) * 3.0f);
  EXPECT_EQ(row[33], (1.0f - 8.0f) * 4.0f);
  EXPECT_FALSE(source->map(source->tensors()[0]).has_value());
}

TEST(SafetensorsSource, BlockFp8AndItsMissingScales) {
  const TemporaryFolder folder;
  write_file(folder / "config.json",
             config("llama", R"(,"quantization_config":{"quant_method":"fp8",
    "weight_block_size":[128,128]})"));
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const std::vector<std::uint8_t> codes(3 * 128, 0x38);  // 1.0
  Files files;
  files.add(name, SafeType::kF8_E4M3, {3, 128}, codes);
  files.add(name + "_scale_inv", SafeType::kF32, {1, 1}, std::vector<float>{0.5f});
  files.write(folder / "model.safetensors");
  const auto source = open_weights(folder.path());
  EXPECT_EQ(source->tensors().size(), 1u);
  EXPECT_EQ(decode_row(*source, name, 2)[127], 0.5f);
  Files lone;
  lone.add(name, SafeType::kF8_E4M3, {3, 128}, codes);
  lone.write(folder / "model.safetensors");
  EXPECT_NE(message_of([&] { open_weights(folder.path()); }, ErrorCode::kMismatch)
                .find("weight_scale_inv"),
            std::string::npos);
}

TEST(SafetensorsSource, PackedTensorsNeedTheirConfiguration) {
  const TemporaryFolder folder;
  write_file(folder / "config.json", config("llama"));
  Files files;
  files.add("model.layers.0.mlp.up_proj.qweight", SafeType::kI32, {1, 8},
            std::vector<std::uint32_t>(8, 0));
  files.write(folder / "model.safetensors");
  message_of([&] { open_weights(folder.path()); }, ErrorCode::kMismatch);
  Files integers;
  integers.add("model.layers.0.mlp.up_proj.weight", SafeType::kI64, {1},
               std::vector<std::int64_t>{1});
  integers.write(folder / "model.safetensors");
  message_of([&] { open_weights(folder.path()); }, ErrorCode::kUnsupported);
}

TEST(AtomicFile, KeepsTheOldFileUntilFinished) {
  const TemporaryFolder folder;
  write_file(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write("new");
  }
  EXPECT_EQ(testing::read_bytes(folder / "a").size(), 3u);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
  for (const char* name : {"a", "b"}) {
    AtomicFile file(folder / name);
    file.write("new!");
    file.finish();
    EXPECT_EQ(testing::read_bytes(folder / name).size(), 4u);
  }
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 2);
  message_of([&] { AtomicFile file(folder / std::string(300, 'n')); }, ErrorCode::kIo);
  message_of([&] { AtomicFile file(folder / "none/a"); }, ErrorCode::kIo);
  message_of([&] { AtomicFile file(folder.path()); }, ErrorCode::kIo);
  message_of([&] { MmapFile file(folder.path()); }, ErrorCode::kIo);
  message_of([&] { MmapFile file(folder / "none"); }, ErrorCode::kNotFound);
}

TEST(AtomicFile, AKilledWriterLeavesNothing) {
  const TemporaryFolder folder;
  const int probe = ::open(folder.path().c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
  if (probe < 0) GTEST_SKIP() << "this file system has no nameless files";
  ::close(probe);
  const pid_t child = ::fork();
  if (child == 0) {
    AtomicFile file(folder / "a");
    file.write_zeros(3 << 20);
    ::raise(SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace kt::io
