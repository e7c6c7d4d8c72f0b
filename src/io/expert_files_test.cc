// A layer's experts by layout and order, and damaged files. Formats are tested through Python
// (test_moe_wrapper.py).
#include "io/expert_files.h"

#include <array>

#include "io/test_files.h"

namespace kt::io {
namespace {

using testing::message_of;
using testing::TemporaryFolder;

constexpr std::int64_t kModel = 32, kFf = 64;

// Two experts of layer 4 whose values tell expert and projection; of each the first is written.
void write_experts(const std::string& path, const std::string& prefix,
                   const std::array<std::string, 3>& names) {
  std::vector<std::vector<float>> values;
  std::vector<SafeTensorData> tensors;
  for (int e = 0; e < 2; ++e) {
    for (int p = 0; p < 3; ++p) {
      values.emplace_back(kModel * kFf, static_cast<float>(10 * e + p));
      const tensor::Shape shape = p == 2 ? tensor::Shape{kModel, kFf} : tensor::Shape{kFf, kModel};
      tensors.push_back(
          {prefix + "." + std::to_string(e) + "." + names[static_cast<std::size_t>(p)] + ".weight",
           SafeType::kF32, shape, std::as_bytes(std::span(values.back()))});
    }
  }
  write_safetensors(path, tensors);
}

ExpertSelection selection(std::span<const std::int64_t> logical) {
  ExpertSelection wanted;
  wanted.layer = 4;
  wanted.moe.n_experts = static_cast<std::int64_t>(logical.size());
  wanted.moe.d_ff = kFf;
  wanted.d_model = kModel;
  wanted.logical = logical;
  return wanted;
}

TEST(ExpertFiles, LayoutsOrderAndErrors) {
  const std::array<std::string, 3> longer = {"gate_proj", "up_proj", "down_proj"};
  const std::array<std::string, 3> shorter = {"w1", "w3", "w2"};
  for (const auto& [prefix, names] : {std::pair{"model.layers.4.mlp.experts", longer},
                                      {"model.language_model.layers.4.mlp.experts", longer},
                                      {"model.layers.4.block_sparse_moe.experts", shorter},
                                      {"layers.4.ffn.experts", shorter}}) {
    const TemporaryFolder folder;
    write_experts(folder / "model.safetensors", prefix, names);
    const ExpertFiles files(folder.path());
    EXPECT_FALSE(files.is_gguf());
    const std::vector<std::int64_t> logical = {1, 0, 1};
    const auto source = files.layer(selection(logical));
    EXPECT_EQ(source->tensors().size(), 9u);
    for (std::size_t e = 0; e < logical.size(); ++e) {
      for (std::size_t p = 0; p < 3; ++p) {
        const TensorInfo* info =
            source->find("experts." + std::to_string(e) + "." + longer[p] + ".weight");
        ASSERT_NE(info, nullptr);
        std::vector<float> row(static_cast<std::size_t>(info->shape.n_cols()));
        source->read_rows(*info, 3, 1, reinterpret_cast<std::byte*>(row.data()));
        EXPECT_EQ(row[5], static_cast<float>(10 * logical[e] + static_cast<std::int64_t>(p)));
      }
    }
    const std::vector<std::int64_t> beyond = {2};
    EXPECT_NE(message_of([&] { files.layer(selection(beyond)); }, ErrorCode::kNotFound).find("2."),
              std::string::npos);
    ExpertSelection other = selection(logical);
    other.layer = 40;
    message_of([&] { files.layer(other); }, ErrorCode::kNotFound);
  }
  const TemporaryFolder empty;
  message_of([&] { const ExpertFiles files(empty.path()); }, ErrorCode::kNotFound);
  message_of([&] { const ExpertFiles files(empty / "none"); }, ErrorCode::kNotFound);
}

TEST(ExpertFiles, DamagedFilesAreRefused) {
  const TemporaryFolder folder;
  const std::vector<std::byte> codes(16 * 2), scales(2 * 2);
  const std::string prefix = "layers.4.ffn.experts.0.";
  const std::vector<std::int64_t> logical = {0};
  for (const QuantMethod method : {QuantMethod::kMxfp4, QuantMethod::kCompressedTensors}) {
    const bool mxfp4 = method == QuantMethod::kMxfp4;
    std::vector<SafeTensorData> tensors;
    for (const char* name : {"w1", "w3", "w2"}) {
      tensors.push_back({prefix + name + (mxfp4 ? ".weight" : ".weight_packed"),
                         mxfp4 ? SafeType::kI8 : SafeType::kU8,
                         {2, 16},
                         codes});
      const std::span<const std::byte> all(scales);
      tensors.push_back({prefix + name + (mxfp4 ? ".scale" : ".weight_scale"),
                         mxfp4 ? SafeType::kU8 : SafeType::kBF16,
                         {2, 1},
                         all.first(mxfp4 ? 2 : 4)});
    }
    write_safetensors(folder / "good.safetensors", tensors);
    ExpertSelection wanted = selection(logical);
    wanted.quant.method = method;
    wanted.quant.bits = 4;
    int n_read = 0;
    const auto read = [&](const std::vector<std::byte>& input) {
      testing::write_bytes(folder / "bad.safetensors", input);
      const auto source = ExpertFiles(folder / "bad.safetensors").layer(wanted);
      for (const TensorInfo& info : source->tensors()) {
        std::vector<std::byte> rows(formats::row_bytes(info.format, info.shape.n_cols()) *
                                    static_cast<std::size_t>(info.shape.n_rows()));
        source->read_rows(info, 0, info.shape.n_rows(), rows.data());
      }
      ++n_read;
    };
    const auto bytes = testing::read_bytes(folder / "good.safetensors");
    read(bytes);
    EXPECT_GE(testing::feed_damaged(bytes, 500, read), static_cast<int>(bytes.size()));
    EXPECT_GT(n_read, 1) << "edits of values are no damage";
  }
}

}  // namespace
}  // namespace kt::io
