#include "session/bench/layer_source.h"

#include <cmath>
#include <cstring>
#include <random>

namespace kt::session::bench {
namespace {

constexpr std::int64_t kPoolRows = 256;

std::uint64_t mix(std::uint64_t x) {  // splitmix64's finaliser
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

std::vector<float> gaussian(std::int64_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(n));
  for (float& v : values) v = normal(random);
  return values;
}

LayerSource::LayerSource(ThreadPool& pool, const LayerShape& shape, const LayerFormat& format,
                         std::int64_t n_layers)
    : format_(format) {
  config_.architecture = "qwen3_moe";
  config_.d_model = shape.d_model;
  config_.moe.n_experts = shape.n_experts;
  config_.moe.n_active = shape.n_active;
  config_.moe.d_ff = shape.d_ff;
  for (std::int64_t layer = 0; layer < n_layers; ++layer) {
    for (std::int64_t e = 0; e < shape.n_experts; ++e) {
      for (const char* projection : {"gate_proj", "up_proj", "down_proj"}) {
        const bool down = projection[0] == 'd';
        const tensor::Shape s = down ? tensor::Shape{shape.d_model, shape.d_ff}
                                     : tensor::Shape{shape.d_ff, shape.d_model};
        const std::string name = fmt::format("{}.{}.{}.weight", layer_path(layer), e, projection);
        tensors_.add({name, name, format.stored, s}, path_);
      }
    }
  }
  const formats::FormatTraits& traits = formats::traits(format.stored);
  for (const std::int64_t n : {shape.d_model, shape.d_ff}) {
    if (n % traits.block_len != 0) {
      fail(ErrorCode::kUnsupported, shape.name,
           "rows of {} weights do not divide into the blocks of {} that {} uses", n,
           traits.block_len, traits.name);
    }
    const std::size_t row_bytes = formats::row_bytes(format.stored, n);
    std::vector<std::byte>& rows = rows_[n];
    rows.resize(row_bytes * static_cast<std::size_t>(kPoolRows));
    pool.run(kPoolRows, [&](std::int64_t r, int) {
      std::vector<float> x = gaussian(n, mix(static_cast<std::uint64_t>(n * kPoolRows + r)));
      for (float& v : x) v /= std::sqrt(static_cast<float>(n));
      traits.encode(x.data(), nullptr, rows.data() + static_cast<std::size_t>(r) * row_bytes, n);
    });
  }
}

std::string LayerSource::layer_path(std::int64_t layer) {
  return fmt::format("model.layers.{}.mlp.experts", layer);
}

void LayerSource::read_rows(const io::TensorInfo& info, std::int64_t row, std::int64_t n_rows,
                            std::byte* out) const {
  const std::int64_t n = info.shape.n_cols();
  const std::size_t row_bytes = formats::row_bytes(info.format, n);
  const std::vector<std::byte>& rows = rows_.at(n);
  const std::uint64_t seed = mix(static_cast<std::uint64_t>(tensors_.index_of(info, path_)));
  for (std::int64_t r = row; r < row + n_rows; ++r, out += row_bytes) {
    const std::uint64_t from = mix(seed + static_cast<std::uint64_t>(r)) % kPoolRows;
    std::memcpy(out, rows.data() + from * row_bytes, row_bytes);
  }
}

std::vector<float> LayerSource::values(const io::TensorInfo& info, std::int64_t row) const {
  const std::int64_t n = info.shape.n_cols();
  std::vector<std::byte> bytes(formats::row_bytes(info.format, n));
  read_rows(info, row, 1, bytes.data());
  std::vector<float> x(static_cast<std::size_t>(n));
  formats::traits(info.format).decode(bytes.data(), x.data(), n);
  if (format_.recode.kind != operators::Recode::Kind::kGroup) return x;
  const formats::Format target = format_.recode.target(info.format);
  bytes.resize(formats::row_bytes(target, n));
  operators::encode_group(x.data(), n, format_.recode, bytes.data());
  formats::traits(target).decode(bytes.data(), x.data(), n);
  return x;
}

}  // namespace kt::session::bench
