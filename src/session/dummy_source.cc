#include "session/dummy_source.h"

#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <unordered_map>

#include "io/hf_config.h"
#include "io/names.h"
#include "io/tensor_table.h"
#include "models/model.h"

namespace kt::session {
namespace {

std::uint64_t mix(std::uint64_t x) {  // splitmix64's finaliser
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

std::uint64_t hash_name(std::string_view name) {  // FNV-1a
  std::uint64_t h = 0xcbf29ce484222325u;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

// Sum of four 16-bit uniforms, centred and scaled to unit variance.
float near_gaussian(std::uint64_t bits) {
  const auto part = [&](int shift) { return static_cast<std::int32_t>(bits >> shift & 0xffff); };
  const std::int32_t sum = part(0) + part(16) + part(32) + part(48) - 2 * 65535;
  return static_cast<float>(sum) * 0x1.bb67aep-16f;  // 1 / 37837.2, rounded
}

struct Recipe {
  float mean = 0.0f;
  float scale = 1.0f;
};

Recipe recipe_of(const io::TensorInfo& info) {
  if (info.name.find("norm") != std::string::npos) return {1.0f, 0.1f};
  if (info.name.ends_with("bias")) return {0.0f, 0.1f};
  if (info.name == "model.embed_tokens.weight") return {0.0f, 0.5f};
  return {0.0f, 1.0f / std::sqrt(static_cast<float>(info.shape.n_cols()))};
}

class DummySource : public io::WeightSource {
 public:
  DummySource(const io::ModelConfig& config, const FileType& type, const DummyOptions& options)
      : config_(config), options_(options) {
    const operators::Placement placement;
    const auto model = models::build_model(config, placement);
    std::vector<io::TensorInfo> infos;
    std::vector<StoredTensor> stored;
    std::vector<std::size_t> stored_of;  // by tensor of this source
    std::unordered_map<std::string, std::size_t> known;
    operators::walk(*model, [&](operators::Module& module) {
      for (const operators::WeightSpec& spec : module.weights()) {
        StoredTensor t = stored_tensor(spec);
        const auto [it, fresh] = known.emplace(t.name, stored.size());
        if (fresh) stored.push_back(std::move(t));
        stored_of.push_back(it->second);
        infos.push_back({spec.name, stored[it->second].name, {}, spec.shape});
      }
    });
    const std::vector<formats::Format> chosen = tensor_formats(type, config, stored, false);
    for (std::size_t i = 0; i < infos.size(); ++i) {
      infos[i].format = chosen[stored_of[i]];
      tensors_.add(std::move(infos[i]), "random weights");
    }
  }

  const std::string& path() const override { return path_; }
  const io::ModelConfig& config() const override { return config_; }
  const std::vector<io::TensorInfo>& tensors() const override { return tensors_.all(); }
  const io::TensorInfo* find(const std::string& name) const override { return tensors_.find(name); }

  void read_rows(const io::TensorInfo& info, std::int64_t row, std::int64_t n_rows,
                 std::byte* out) const override {
    const std::int64_t n = info.shape.n_cols();
    const std::size_t row_bytes = formats::row_bytes(info.format, n);
    const std::uint64_t seed = mix(options_.seed ^ hash_name(info.name));
    const bool router = info.format == tensor::Format::kF32;  // equal rows would tie experts
    if (options_.pooled && !router && info.shape.n_rows() > 4 * kPoolRows) {
      const std::vector<std::byte>& pool = pool_for(info);
      for (std::int64_t r = 0; r < n_rows; ++r) {
        const std::size_t from = (seed + static_cast<std::uint64_t>(row + r)) % kPoolRows;
        std::memcpy(out + static_cast<std::size_t>(r) * row_bytes, pool.data() + from * row_bytes,
                    row_bytes);
      }
      return;
    }
    make_rows(info, seed + static_cast<std::uint64_t>(row), n_rows, out);
  }

  std::optional<tensor::WeightView> map(const io::TensorInfo&) const override {
    return std::nullopt;
  }
  void drop(const io::TensorInfo&) const override {}

 private:
  static constexpr std::int64_t kPoolRows = 61;  // prime: neighbouring tiles get different rows

  /// The GGUF tensor that holds this one, with all experts.
  StoredTensor stored_tensor(const operators::WeightSpec& spec) const {
    const auto stored = io::gguf_name(config_, spec.name);
    if (!stored) {
      fail(ErrorCode::kInternal, spec.name, "a module asks for a tensor that GGUF has no name for");
    }
    tensor::Shape shape;
    if (stored->layout == io::NameLayout::kStacked) shape.push_back(config_.moe.n_experts);
    const int first = stored->layout == io::NameLayout::kRowVector ? 1 : 0;
    for (int i = first; i < spec.shape.rank(); ++i) shape.push_back(spec.shape[i]);
    return {stored->name, shape};
  }

  // Row r comes from seed + r alone.
  void make_rows(const io::TensorInfo& info, std::uint64_t seed, std::int64_t n_rows,
                 std::byte* out) const {
    const Recipe recipe = recipe_of(info);
    const bool skewed = options_.router_skew > 0.0 && info.name.ends_with(".gate.weight");
    std::vector<float> values(static_cast<std::size_t>(info.shape.n_cols()));
    for (std::int64_t r = 0; r < n_rows; ++r) {
      const std::uint64_t row_seed = mix(seed + static_cast<std::uint64_t>(r));
      const float scale = recipe.scale * (skewed ? preference(row_seed) : 1.0f);
      for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = recipe.mean + scale * near_gaussian(mix(row_seed + i));
      }
      formats::traits(info.format).encode(values.data(), nullptr, out, info.shape.n_cols());
      out += formats::row_bytes(info.format, info.shape.n_cols());
    }
  }

  float preference(std::uint64_t row_seed) const {
    const double u = static_cast<double>(mix(~row_seed) >> 11) * 0x1p-53;
    const auto n_experts = static_cast<double>(config_.moe.n_experts);
    return static_cast<float>(std::pow(1.0 + n_experts * u, -options_.router_skew));
  }

  const std::vector<std::byte>& pool_for(const io::TensorInfo& info) const {
    const std::lock_guard lock(mutex_);
    const std::int64_t n = info.shape.n_cols();
    std::vector<std::byte>& pool = pools_[{info.format, n}];
    if (pool.empty()) {
      pool.resize(formats::row_bytes(info.format, n) * kPoolRows);
      make_rows(info, options_.seed, kPoolRows, pool.data());
    }
    return pool;
  }

  std::string path_;  // no file
  io::ModelConfig config_;
  DummyOptions options_;
  io::TensorTable tensors_;
  mutable std::mutex mutex_;
  mutable std::map<std::pair<formats::Format, std::int64_t>, std::vector<std::byte>> pools_;
};

}  // namespace

io::ModelConfig read_dummy_config(const std::string& path, std::int64_t layers) {
  io::ModelConfig config = io::read_hf_config(path);
  if (layers < 0 || layers > config.n_layers) {
    fail(ErrorCode::kUsage, "--layers", "{} layers: the model has {}; 0 takes all", layers,
         config.n_layers);
  }
  if (layers > 0) config.n_layers = layers;
  return config;
}

std::unique_ptr<io::WeightSource> make_dummy_source(const io::ModelConfig& config,
                                                    const FileType& type,
                                                    const DummyOptions& options) {
  return std::make_unique<DummySource>(config, type, options);
}

}  // namespace kt::session
