// Finding and joining the files of one GGUF model.
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>

#include "io/files.h"
#include "io/gguf.h"
#include "io/quote.h"

namespace kt::io {
namespace {

constexpr std::uint64_t kMaxShards = 65535;  // split.count is a u16

struct ShardName {
  std::string prefix;  // path up to "-00001-of-00005.gguf"
  std::uint64_t number = 0;
  std::uint64_t count = 0;
};

std::optional<std::uint64_t> parse_digits(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<ShardName> parse_shard_name(const std::string& path) {
  constexpr std::string_view kShape = "-00001-of-00005.gguf";
  if (path.size() <= kShape.size()) return std::nullopt;
  const std::string_view tail = std::string_view(path).substr(path.size() - kShape.size());
  if (tail[0] != '-' || tail.substr(6, 4) != "-of-" || tail.substr(15) != ".gguf")
    return std::nullopt;
  const auto number = parse_digits(tail.substr(1, 5));
  const auto count = parse_digits(tail.substr(10, 5));
  if (!number || !count) return std::nullopt;
  return ShardName{path.substr(0, path.size() - kShape.size()), *number, *count};
}

std::string shard_path(const std::string& prefix, std::uint64_t number, std::uint64_t count) {
  return fmt::format("{}-{:05}-of-{:05}.gguf", prefix, number, count);
}

/// The one model in a folder: a single file, or any shard of the single split model.
std::string pick_in_folder(const std::string& folder) {
  std::map<std::string, std::string> models;  // model prefix → one of its files
  std::error_code error;
  for (auto it = std::filesystem::directory_iterator(folder, error);
       !error && it != std::filesystem::directory_iterator(); it.increment(error)) {
    const std::string path = it->path().string();
    const std::string name = it->path().filename().string();
    // Vision projectors are published beside the language model.
    if (it->path().extension() != ".gguf" || name.starts_with("mmproj") || it->is_directory())
      continue;
    const auto shard = parse_shard_name(path);
    models.emplace(shard ? fmt::format("{}|{}", shard->prefix, shard->count) : path, path);
  }
  if (error) fail(ErrorCode::kIo, folder, "cannot list the folder: {}", error.message());
  if (models.empty()) fail(ErrorCode::kNotFound, folder, "holds no .gguf file");
  if (models.size() > 1) {
    std::string names;
    for (const auto& [prefix, path] : models) {
      if (names.size() > 300) break;
      names += (names.empty() ? "" : ", ") + std::filesystem::path(path).filename().string();
    }
    fail(ErrorCode::kUsage, folder, "holds {} models ({}); name one file", models.size(), names);
  }
  return models.begin()->second;
}

void check_shard(const GgufFile& file, std::size_t index, std::size_t n_files) {
  const std::uint64_t count = file.metadata().get_u64("split.count", 0);
  if (n_files == 1 && count <= 1) return;
  if (n_files == 1) {
    fail(ErrorCode::kMismatch, file.path(),
         "is one of {} shards but is not named …-0000N-of-{:05}.gguf; give "
         "all shards their original names",
         count, count);
  }
  if (count != n_files) {
    fail(ErrorCode::kMismatch, file.path(),
         "says split.count = {}, its name says {}; the shards are of "
         "different models or renamed",
         count, n_files);
  }
  const std::uint64_t number = file.metadata().get_u64("split.no", UINT64_MAX);
  if (number != index) {
    fail(ErrorCode::kMismatch, file.path(),
         "says split.no = {}, {} is wanted by its name; the shards are mixed "
         "up or renamed",
         number, index);
  }
}

}  // namespace

std::vector<std::string> gguf_shard_paths(const std::string& path) {
  const auto shard = parse_shard_name(path);
  if (!shard) return {path};
  if (shard->count < 1 || shard->count > kMaxShards || shard->number < 1 ||
      shard->number > shard->count) {
    fail(ErrorCode::kBadFile, path, "is named shard {} of {}, which is impossible; rename it",
         shard->number, shard->count);
  }
  std::vector<std::string> paths;
  for (std::uint64_t i = 1; i <= shard->count; ++i)
    paths.push_back(shard_path(shard->prefix, i, shard->count));
  return paths;
}

GgufModel GgufModel::open(const std::string& path) {
  GgufModel model;
  const std::string file_path = is_directory(path) ? pick_in_folder(path) : path;
  const std::vector<std::string> paths = gguf_shard_paths(file_path);
  for (const std::string& shard : paths) {
    if (paths.size() > 1 && !std::filesystem::exists(shard)) {
      fail(ErrorCode::kNotFound, shard,
           "is missing; the model has {} shards, get them all into one folder", paths.size());
    }
  }
  for (const std::string& shard : paths) {
    model.files_.push_back(GgufFile::open(shard));
    check_shard(model.files_.back(), model.files_.size() - 1, paths.size());
  }
  for (std::size_t f = 0; f < model.files_.size(); ++f) {
    const GgufFile& file = model.files_[f];
    for (std::size_t t = 0; t < file.tensors().size(); ++t) {
      if (!model.index_.emplace(file.tensors()[t].name, model.entries_.size()).second) {
        fail(ErrorCode::kMismatch, file.path(),
             "tensor {} is in an earlier shard too; the shards are mixed up",
             quote(file.tensors()[t].name));
      }
      model.entries_.push_back({f, t});
    }
  }
  const std::uint64_t n_tensors =
      model.metadata().get_u64("split.tensors.count", model.entries_.size());
  if (n_tensors != model.entries_.size()) {
    fail(ErrorCode::kMismatch, model.path(),
         "says split.tensors.count = {}, the shards hold {}; a shard is "
         "from another model",
         n_tensors, model.entries_.size());
  }
  return model;
}

const GgufTensor* GgufModel::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &tensor(entries_[found->second]);
}

std::optional<std::span<const std::byte>> GgufModel::find_data(std::string_view name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) return std::nullopt;
  const Entry& entry = entries_[found->second];
  return files_[entry.file].data(tensor(entry));
}

}  // namespace kt::io
